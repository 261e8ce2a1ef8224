//! The `tidemill` binary: starts the engine, and talks to one.
//!
//! This is the composition root: the only place that knows the store, the server and the frontend
//! together. Exit codes are in [`exit`].

mod exit;
mod logging;
mod output;
mod serve;
mod span;
mod table;
mod workflow;

use clap::{Parser, Subcommand};

use crate::exit::Failure;

/// Durable execution in one binary.
#[derive(Parser)]
#[command(name = "tidemill", version, after_help = exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the engine on a data file.
    Engine(serve::engine::Arguments),
    /// Servers for development and tests.
    #[command(subcommand)]
    Server(Server),
    /// Start, watch and steer workflows on a running server.
    Workflow(workflow::Arguments),
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
        Command::Engine(arguments) => serve::engine::run(arguments),
        Command::Server(Server::StartDev(arguments)) => serve::start_dev::run(*arguments),
        Command::Workflow(arguments) => workflow::run(arguments),
    }
}
