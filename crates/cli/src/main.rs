//! The `tidemill` binary: starts the engine, and talks to one.
//!
//! This is the composition root: the only place that knows the store, the server and the frontend
//! together. Exit codes are in [`exit`].

mod engine_tools;
mod exit;
mod logging;
mod output;
mod pipeline;
mod serve;
mod span;
mod table;
mod workflow;

use clap::{Parser, Subcommand};

use crate::exit::Failure;

/// A fifth of the engine's CPU was allocation; this one takes an eighth off the whole for about the
/// same memory (docs/performance.md). Where it was not measured, the system's own stays.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Durable AI pipelines in one binary.
#[derive(Parser)]
#[command(name = "tidemill", version, after_help = exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run engine and workers in one process, on a data folder.
    Up(serve::up::Up),
    /// Make a pipeline from a template.
    New(pipeline::new::New),
    /// Check pipeline files.
    Check(pipeline::check::Check),
    /// Draw a pipeline.
    Graph(pipeline::check::Graph),
    /// Print the JSON Schema of pipeline files, for editors.
    Schema,
    #[command(flatten)]
    Pipeline(pipeline::Command),
    /// Run stages and pipelines for an engine that runs elsewhere.
    Worker(serve::up::Worker),
    /// Run the engine alone, on a data file; examine, back up or restore one.
    Engine(Box<serve::engine::Arguments>),
    /// What the binary runs itself for, in a process that may break.
    #[command(subcommand, hide = true)]
    Internal(Internal),
    /// Servers for development and tests.
    #[command(subcommand)]
    Server(Server),
    /// Start, watch and steer workflows on a running server.
    Workflow(workflow::Arguments),
}

#[derive(Subcommand)]
enum Internal {
    /// Print the text of a PDF.
    PdfText { file: std::path::PathBuf },
}

#[derive(Subcommand)]
enum Server {
    /// Run an engine as `temporal server start-dev` does: in memory unless told otherwise.
    StartDev(Box<serve::start_dev::Arguments>),
}

fn main() -> std::process::ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tidemill: {failure}");
            failure.code().into()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Up(arguments) => serve::up::up(arguments),
        Command::New(arguments) => pipeline::new::run(arguments),
        Command::Check(arguments) => pipeline::check::run(arguments),
        Command::Graph(arguments) => pipeline::check::draw(arguments),
        Command::Schema => pipeline::check::print_schema(),
        Command::Pipeline(command) => pipeline::run(command),
        Command::Worker(arguments) => serve::up::worker(arguments),
        Command::Engine(arguments) => serve::engine::run(*arguments),
        Command::Internal(Internal::PdfText { file }) => {
            output::write(&tidemill_stages::documents::pdf_text(&file).map_err(Failure::General)?);
            Ok(())
        }
        Command::Server(Server::StartDev(arguments)) => serve::start_dev::run(*arguments),
        Command::Workflow(arguments) => workflow::run(arguments),
    }
}
