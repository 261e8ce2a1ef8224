//! Spawns the server to be measured and removes what it leaves.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::probe::Probe;

pub(crate) struct Server {
    pub(crate) address: String,
    metrics_address: String,
    binary: PathBuf,
    process: Child,
    /// Removed after the process has ended, because fields are dropped after `Server::drop`.
    folder: Folder,
}

struct Folder(PathBuf);

impl Server {
    pub(crate) fn spawn(binary: &Path, data_dir: &Path) -> Result<Self> {
        let folder = Folder::create(data_dir)?;
        let address = free_address()?;
        let metrics_address = free_address()?;
        let process = run(binary, &folder, &address, &metrics_address)?;
        Ok(Self {
            address,
            metrics_address,
            binary: binary.to_owned(),
            process,
            folder,
        })
    }

    pub(crate) fn probe(&self) -> Probe {
        let metrics = Some(self.metrics_address.clone());
        Probe::new(Some(self.process.id()), metrics)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        // An error means that the process has ended already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again on the same file and address.
    pub(crate) fn start(&mut self) -> Result<()> {
        let Self {
            binary,
            folder,
            address,
            metrics_address,
            ..
        } = self;
        self.process = run(binary, folder, address, metrics_address)?;
        Ok(())
    }

    /// Bytes of the data file and what belongs to it.
    pub(crate) fn file_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(&self.folder.0).into_iter().flatten();
        let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
        sizes.map(|file| file.len()).sum()
    }
}

fn run(binary: &Path, folder: &Folder, address: &str, metrics_address: &str) -> Result<Child> {
    Command::new(binary)
        .arg("engine")
        .arg("--data-file")
        .arg(folder.0.join("bench.db"))
        .args(["--listen", address, "--metrics-listen", metrics_address])
        .args(["--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| {
            format!(
                "cannot run {}; build it, or name one with --server",
                binary.display()
            )
        })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Folder {
    fn create(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("tidemill-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left for the system's own cleaning of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?;
    Ok(listener.local_addr()?.to_string())
}
