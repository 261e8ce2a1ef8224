//! `tidemill workflow ...`: talks to a running server over gRPC, this one or Temporal's.

pub(crate) mod connection;
mod describe;
pub(crate) mod history;
pub(crate) mod json;
mod list;
mod payload;
mod reset;
mod result;
mod start;
mod steer;

use clap::Subcommand;

use self::connection::{Connection, Target};
use crate::exit::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List workflows, newest first.
    List(list::List),
    /// Count workflows.
    Count(list::Count),
    /// Show one workflow's state.
    Describe(describe::Arguments),
    /// Show one workflow's history.
    #[command(alias = "show")]
    History(history::Arguments),
    /// Start a workflow.
    Start(start::Arguments),
    /// Wait for a workflow's end and print its result.
    Result(result::Arguments),
    /// Send a signal.
    Signal(steer::Signal),
    /// Ask a workflow something.
    Query(steer::Query),
    /// Ask a workflow to end in its own way.
    Cancel(steer::Cancel),
    /// End a workflow at once.
    Terminate(steer::Terminate),
    /// Run a workflow again from an earlier point.
    Reset(reset::Arguments),
}

/// Which workflow a command is about.
#[derive(clap::Args)]
struct Execution {
    #[arg(long, short)]
    workflow_id: String,
    /// One run of it; the latest if it is left out.
    #[arg(long, short, default_value = "")]
    run_id: String,
}

impl Execution {
    fn proto(&self) -> tidemill_proto::api::common::v1::WorkflowExecution {
        tidemill_proto::api::common::v1::WorkflowExecution {
            workflow_id: self.workflow_id.clone(),
            run_id: self.run_id.clone(),
        }
    }
}

/// Runs a command.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::general(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut connection = Connection::open(&arguments.target).await?;
        let connection = &mut connection;
        match arguments.command {
            Command::List(arguments) => list::list(connection, arguments).await,
            Command::Count(arguments) => list::count(connection, arguments).await,
            Command::Describe(arguments) => describe::run(connection, arguments).await,
            Command::History(arguments) => history::run(connection, arguments).await,
            Command::Start(arguments) => start::run(connection, arguments).await,
            Command::Result(arguments) => result::run(connection, arguments).await,
            Command::Signal(arguments) => steer::signal(connection, arguments).await,
            Command::Query(arguments) => steer::query(connection, arguments).await,
            Command::Cancel(arguments) => steer::cancel(connection, arguments).await,
            Command::Terminate(arguments) => steer::terminate(connection, arguments).await,
            Command::Reset(arguments) => reset::run(connection, arguments).await,
        }
    })
}
