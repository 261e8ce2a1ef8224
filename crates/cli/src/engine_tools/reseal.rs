//! A data file that another program wrote to is accepted as it is.

use std::path::PathBuf;

use tidemill_store::sqlite;

use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The data file, of an engine that does not run.
    #[arg(long, value_name = "PATH", default_value = "tidemill.db")]
    data_file: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { data_file } = arguments;
    let pages = sqlite::reseal(&data_file)?;
    let what = match pages {
        0 => "every page has a checksum already".to_owned(),
        1 => "1 page that another program wrote has a checksum now".to_owned(),
        _ => format!("{pages} pages that another program wrote have checksums now"),
    };
    output::line(format_args!("{}: {what}", data_file.display()));
    Ok(())
}
