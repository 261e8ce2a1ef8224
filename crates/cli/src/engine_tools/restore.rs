//! A data file from a backup. The engine that serves it goes on where the backup was made.

use std::path::PathBuf;

use tidemill_pipeline::size;
use tidemill_store::Store;
use tidemill_store::sqlite::{self, ReadOnly};

use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The backup.
    backup: PathBuf,
    /// File to make of it; there must be none.
    #[arg(long, value_name = "PATH", default_value = "tidemill.db")]
    data_file: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { backup, data_file } = arguments;
    let found = ReadOnly::open(&backup)?.examine(true)?;
    if !found.damage.is_empty() {
        return Err(Failure::DataUnusable(format!(
            "{} is damaged, take another backup:\n  {}",
            backup.display(),
            found.damage.join("\n  ")
        )));
    }
    sqlite::restore(&backup, &data_file)?;
    output::line(format_args!(
        "{} from {} in {}: {} open and {} closed runs, no damage",
        size::up(found.bytes.max(0) as u64),
        backup.display(),
        data_file.display(),
        found.runs_open,
        found.runs_closed
    ));
    Ok(())
}
