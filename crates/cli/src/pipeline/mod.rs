//! Commands on pipelines and their runs, for people and scripts. They reach the engine as any
//! client does.

mod answer;
pub(crate) mod check;
mod failed;
mod follow;
pub(crate) mod gc;
mod history;
mod limit;
mod logs;
pub(crate) mod new;
pub(crate) mod queues;
mod retry;
mod run;
mod search;
mod show;
mod store;
mod view;

use clap::Subcommand;
use tidemill_runtime::client::{Error, Pipelines};
use tidemill_runtime::worker::Engine;

pub(crate) use view::span;

use crate::exit::Failure;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline and show how it goes on.
    Run(run::Arguments),
    /// List runs, the latest first.
    Ps(show::List),
    /// Show a run: its stages, results and errors.
    Show(show::Show),
    /// Show what a run's tasks did, as they do it with --follow.
    Logs(logs::Arguments),
    /// Answer a run that waits for a person.
    Approve(answer::Approve),
    /// Ask a run to end; its `finally` stages still run.
    Cancel(answer::Cancel),
    /// Run again what failed: from a stage on, or the failed items only.
    Retry(retry::Arguments),
    /// Search a vector index.
    Search(search::Arguments),
    /// Show what waits for which resource class, and the workers that serve it.
    Queues(queues::Arguments),
    /// The engine's task queues, those of other workflows among them.
    Queue(queues::list::Arguments),
    /// Remove artifacts that no run needs any more.
    Gc(gc::Arguments),
    /// Limits that all workers share: what a provider allows, and how much may run at a time.
    Limit(limit::Arguments),
}

/// The engine that a command talks to.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The engine's address: Tidemill's or a Temporal server's.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7233",
        env = "TIDEMILL_ENGINE"
    )]
    engine: String,
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        env = "TIDEMILL_NAMESPACE"
    )]
    namespace: String,
    /// Print JSON for programs instead of text for people.
    #[arg(long)]
    json: bool,
}

impl Target {
    async fn connect(&self) -> Result<Pipelines, Failure> {
        let engine = Engine {
            address: self.engine.clone(),
            namespace: self.namespace.clone(),
        };
        Pipelines::connect(&engine).await.map_err(|error| {
            Failure::general(format!(
                "{error} Start one with `tidemill up`, or name another with --engine."
            ))
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Answer(_) | Error::Unsatisfiable(_) => Failure::Invalid(error.to_string()),
            error => Failure::general(error),
        }
    }
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::general(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Run(arguments) => run::run(arguments).await,
            Command::Ps(arguments) => show::list(arguments).await,
            Command::Show(arguments) => show::show(arguments).await,
            Command::Logs(arguments) => logs::run(arguments).await,
            Command::Approve(arguments) => answer::approve(arguments).await,
            Command::Cancel(arguments) => answer::cancel(arguments).await,
            Command::Retry(arguments) => retry::run(arguments).await,
            Command::Search(arguments) => search::run(arguments).await,
            Command::Queues(arguments) => queues::run(arguments).await,
            Command::Queue(arguments) => queues::list::run(arguments).await,
            Command::Gc(arguments) => gc::run(arguments).await,
            Command::Limit(arguments) => limit::run(arguments).await,
        }
    })
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
