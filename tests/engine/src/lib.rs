//! One engine process over one data file: started, killed without warning, started again.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// An engine that runs until it is dropped.
pub struct Engine {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl Engine {
    /// Starts an engine on an empty file and a free port.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (process, port) = spawn(folder.path(), 0);
        Self {
            folder,
            port,
            process,
        }
    }

    /// `host:port`; the same after a restart.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on the same file and port.
    pub fn restart(&mut self) {
        (self.process, self.port) = spawn(self.folder.path(), self.port);
    }

    /// [`kill`](Self::kill) and [`restart`](Self::restart).
    pub fn crash(&mut self) {
        self.kill();
        self.restart();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the engine's log:\n{}", log(self.folder.path()));
        }
    }
}

/// Returns the process and its port once it serves, which it announces.
fn spawn(folder: &Path, port: u16) -> (Child, u16) {
    let log_file = File::options()
        .create(true)
        .append(true)
        .open(folder.join("engine.log"))
        .unwrap();
    let mut process = Command::new(binary())
        .args(["server", "start-dev", "--headless"])
        .args(["--port", &port.to_string()])
        .arg("--db-filename")
        .arg(folder.join("engine.db"))
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .unwrap();
    let announced = BufReader::new(process.stdout.as_mut().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("Server:").map(str::to_owned));
    let port = announced
        .and_then(|address| address.rsplit_once(':')?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("the engine did not start:\n{}", log(folder)));
    (process, port)
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
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap()
}
