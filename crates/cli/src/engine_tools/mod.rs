//! `tidemill engine doctor|backup|restore|reseal`: what operators do to an engine and its data file.

mod backup;
mod doctor;
mod reseal;
mod restore;

use clap::Subcommand;
use tidemill_proto::client::{self, Code, Maintenance, Status};

use crate::exit::Failure;
use crate::workflow::connection::{self, ADDRESS};

#[derive(Subcommand)]
pub(crate) enum Tool {
    /// Look for damage, for tasks that nobody takes, and for runs that cannot go on.
    Doctor(doctor::Arguments),
    /// Copy everything to a file while the engine serves.
    Backup(backup::Arguments),
    /// Make a data file from a backup.
    Restore(restore::Arguments),
    /// Accept a data file that another program, such as the sqlite3 shell, wrote to.
    Reseal(reseal::Arguments),
}

pub(crate) fn run(tool: Tool) -> Result<(), Failure> {
    match tool {
        Tool::Doctor(arguments) => doctor::run(arguments),
        Tool::Backup(arguments) => backup::run(arguments),
        Tool::Restore(arguments) => restore::run(arguments),
        Tool::Reseal(arguments) => reseal::run(arguments),
    }
}

/// The engine that a tool talks to.
#[derive(clap::Args)]
struct Target {
    /// Address of a running engine [env: TIDEMILL_ADDRESS] [default: 127.0.0.1:7233]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

impl Target {
    fn address(&self) -> String {
        connection::setting(&self.address, "ADDRESS", ADDRESS)
    }
}

fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::general(format!("cannot start: {error}")))?;
    runtime.block_on(future)
}

async fn connect(address: &str) -> Result<Maintenance, Failure> {
    client::connect_maintenance(address)
        .await
        .map_err(|error| connection::unreachable(address, &error))
}

fn refused(address: &str, status: Status) -> Failure {
    if status.code() == Code::Unimplemented {
        return Failure::general(format!(
            "the server at {address} has no service for operators: it is not Tidemill's, or older \
             than this binary"
        ));
    }
    connection::refused(status)
}
