//! Spawns the server to be measured and removes what it leaves.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) metrics_address: String,
    process: Child,
    /// Removed after the process has ended, because fields are dropped after `Server::drop`.
    _folder: Folder,
}

struct Folder(PathBuf);

impl Server {
    pub(crate) fn spawn(binary: &Path, data_dir: &Path) -> Result<Self> {
        let folder = Folder::create(data_dir)?;
        let address = free_address()?;
        let metrics_address = free_address()?;
        let process = Command::new(binary)
            .arg("engine")
            .arg("--data-file")
            .arg(folder.0.join("bench.db"))
            .args([
                "--listen",
                &address,
                "--metrics-listen",
                &metrics_address,
                "--log-level",
                "warn",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| {
                format!(
                    "cannot run {}; build it, or name one with --server",
                    binary.display()
                )
            })?;
        Ok(Self {
            address,
            metrics_address,
            process,
            _folder: folder,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that the process has ended already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
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
