//! Logs go to the standard error stream.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// Starts logging. `level` is a level, or directives such as `info,tidemill_server=debug`.
pub(crate) fn start(format: Format, level: &str) -> Result<(), Failure> {
    // What a library thinks of a document is no message of ours.
    let filter = EnvFilter::try_new(format!("html5ever=error,{level}"))
        .map_err(|error| Failure::usage(format!("--log-level {level}: {error}")))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        Format::Text => logs.init(),
        Format::Json => logs.json().init(),
    }
    Ok(())
}
