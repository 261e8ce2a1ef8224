//! One engine process over one data file of its own.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

pub(crate) struct Engine {
    folder: TempDir,
    address: String,
    process: Child,
}

impl Engine {
    /// Starts an engine on an empty file and a free port.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (process, address) = spawn(folder.path());
        Self {
            folder,
            address,
            process,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("the engine's log:\n{}", log(self.folder.path()));
        }
    }
}

/// Returns the process and its address once it serves, which it announces.
fn spawn(folder: &Path) -> (Child, String) {
    let log_file = File::options()
        .create(true)
        .append(true)
        .open(folder.join("engine.log"))
        .unwrap();
    let mut process = Command::new(binary())
        .args(["server", "start-dev", "--headless", "--port", "0"])
        .arg("--db-filename")
        .arg(folder.join("engine.db"))
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .unwrap();
    let announced = BufReader::new(process.stdout.as_mut().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("Server:").map(str::to_owned));
    let port = announced.and_then(|address| address.rsplit_once(':')?.1.trim().parse::<u16>().ok());
    let port = port.unwrap_or_else(|| panic!("the engine did not start:\n{}", log(folder)));
    (process, format!("127.0.0.1:{port}"))
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("engine.log")).unwrap()
}

/// `TIDEMILL_BIN`, or the binary that was built into the same folder as these tests. A missing one is
/// a failure: skipped tests prove nothing.
fn binary() -> PathBuf {
    let binary = match env::var_os("TIDEMILL_BIN") {
        Some(chosen) => root().join(chosen),
        None => {
            let test = env::current_exe().unwrap();
            test.ancestors().nth(2).unwrap().join("tidemill")
        }
    };
    assert!(
        binary.is_file(),
        "no binary at {}: build it with `make build`, or set TIDEMILL_BIN",
        binary.display()
    );
    binary
}

/// The repository; paths in the environment are relative to it.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap()
}
