//! The standard output.

use std::io::{ErrorKind, Write};

/// Writes text. A reader that has seen enough, such as `head`, ends the process without a word.
pub(crate) fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("tidemill: cannot write to the standard output: {error}");
        }
        std::process::exit(1);
    }
}

/// Writes a line.
pub(crate) fn line(text: impl std::fmt::Display) {
    write(&format!("{text}\n"));
}
