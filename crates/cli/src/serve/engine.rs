//! `tidemill engine`: the engine on a data file. Without a subcommand it is served.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_server::Config;
use tidemill_server::namespaces::{DEFAULT, RETENTION_MIN, Registration};

use super::listen::Listen;
use super::run::{self, Data};
use crate::engine_tools::{self, Tool};
use crate::exit::Failure;
use crate::{logging, span};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// Address to serve gRPC on.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7233")]
    listen: String,
    /// File that holds everything; it is made if it is missing.
    #[arg(long, value_name = "PATH", default_value = "tidemill.db")]
    data_file: PathBuf,
    /// Namespace to make if it is missing, beside `default`; repeat for more.
    #[arg(long, value_name = "NAME")]
    namespace: Vec<String>,
    /// How long closed workflows are kept, for namespaces that are made now.
    #[arg(long, value_name = "SPAN", default_value = "3d", value_parser = span::parse)]
    retention: Duration,
    /// Address to serve Prometheus metrics on, at /metrics.
    #[arg(long, value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
    /// Listen on addresses that other machines can reach, without authentication.
    #[arg(long)]
    allow_remote: bool,
    #[arg(long, value_enum, default_value = "text")]
    log_format: logging::Format,
    /// error, warn, info, debug, trace, or directives such as info,tidemill_server=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// Runs the engine until it is told to stop.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Some(tool) = arguments.tool {
        return engine_tools::run(tool);
    }
    logging::start(arguments.log_format, &arguments.log_level)?;
    if arguments.retention < RETENTION_MIN {
        return Err(Failure::usage("--retention must be at least 1h"));
    }
    let listen = Listen::parse(&arguments.listen, "--listen")?;
    let metrics = arguments.metrics_listen.as_deref();
    let metrics = metrics
        .map(|address| Listen::parse(address, "--metrics-listen"))
        .transpose()?;
    let names = std::iter::once(DEFAULT.to_owned()).chain(arguments.namespace);
    let namespaces = names
        .map(|name| Registration {
            name,
            retention: arguments.retention,
            ..Default::default()
        })
        .collect();
    run::run(run::Setup {
        listen,
        metrics,
        allow_remote: arguments.allow_remote,
        data: Data::File(arguments.data_file),
        config: Config {
            namespaces,
            ..Default::default()
        },
        banner: false,
    })
}
