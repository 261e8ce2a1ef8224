//! Servers that tests need, started once for the test process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server of `tests/servers`. It stops when its standard input ends: when this process does.
pub(crate) struct Server {
    pub(crate) url: String,
    _process: Option<Child>,
}

impl Server {
    /// Starts `tests/servers/<name>.py` in an environment that the Makefile prepares, unless
    /// `variable` has the URL of a server that runs.
    pub(crate) fn start(environment: &str, name: &str, variable: &str) -> Self {
        if let Ok(url) = std::env::var(variable) {
            return Self {
                url,
                _process: None,
            };
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut process = Command::new(root.join(environment).join("bin/python"))
            .arg(root.join(format!("tests/servers/{name}.py")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{e}: run `make {environment}/.ready`, or set {variable} to a server's URL")
            });
        let mut line = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{name}.py did not start");
        Self {
            url: line.trim().to_owned(),
            _process: Some(process),
        }
    }
}
