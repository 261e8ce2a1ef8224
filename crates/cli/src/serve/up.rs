//! `tidemill up`: engine, interpreter and worker in one process. `tidemill worker`: without the engine.

use std::sync::Arc;
use std::time::Duration;

use tidemill_connect::stream::Streams;
use tidemill_server::Config;
use tidemill_server::namespaces::{DEFAULT, Registration};
use tidemill_worker::Metrics;
use tidemill_worker::http::{self, Routes};
use tokio::net::TcpListener;

use super::listen::Listen;
use super::platform::{Platform, Settings};
use super::run::{Data, Engine, Setup, Stop};
use crate::exit::Failure;
use crate::pipeline::{gc, queues};
use crate::{logging, output, span};

#[derive(clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    platform: Settings,
    /// Address to serve gRPC on, for clients and further workers.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7233")]
    listen: String,
    /// How long closed runs are kept, if the data folder is made now.
    #[arg(long, value_name = "SPAN", default_value = "30d", value_parser = span::parse)]
    retention: Duration,
    /// Address to serve Prometheus metrics on, at /metrics, and the figures of queues for autoscalers,
    /// at /v1/queues.
    #[arg(long, value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
    /// Listen on addresses that other machines can reach, without authentication.
    #[arg(long)]
    allow_remote: bool,
    #[command(flatten)]
    logs: Logs,
}

#[derive(clap::Args)]
pub(crate) struct Worker {
    #[command(flatten)]
    platform: Settings,
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
        default_value = DEFAULT,
        env = "TIDEMILL_NAMESPACE"
    )]
    namespace: String,
    /// Run stages only: other processes interpret plans.
    #[arg(long)]
    no_interpreter: bool,
    /// Address to serve Prometheus metrics on, at /metrics.
    #[arg(long, value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
    /// Listen on addresses that other machines can reach, without authentication.
    #[arg(long)]
    allow_remote: bool,
    #[command(flatten)]
    logs: Logs,
}

#[derive(clap::Args)]
struct Logs {
    #[arg(long, value_enum, default_value = "text")]
    log_format: logging::Format,
    /// error, warn, info, debug, trace, or directives such as info,tidemill_worker=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

pub(crate) fn up(arguments: Up) -> Result<(), Failure> {
    logging::start(arguments.logs.log_format, &arguments.logs.log_level)?;
    let listen = Listen::parse(&arguments.listen, "--listen")?;
    let watched = watched(&arguments.metrics_listen, arguments.allow_remote)?;
    arguments.platform.make_folder()?;
    let data = arguments.platform.data.clone();
    let setup = Setup {
        listen,
        // Served here, with what the worker counts.
        metrics: None,
        allow_remote: arguments.allow_remote,
        data: Data::File(data.join("engine.db")),
        config: Config {
            namespaces: vec![Registration {
                name: DEFAULT.to_owned(),
                retention: arguments.retention,
                ..Default::default()
            }],
            ..Default::default()
        },
        banner: false,
    };
    super::run::block_on(async {
        let stop = Stop::new()?;
        let listener = watched.map(|listen| listen.bind()).transpose()?;
        let data = data.display().to_string();
        let engine = Engine::start(setup).await?;
        let address = engine.address.to_string();
        let (metrics, streams) = (Metrics::new(), Streams::default());
        if let Some(listener) = listener {
            let (of_engine, of_worker) = (engine.metrics(), metrics.clone());
            let watch = Arc::new(queues::Watch::new(queues::Source::new(&address, DEFAULT)));
            let of_queues = watch.clone();
            let routes = Routes::new().metrics(move || {
                let (mut texts, watch) = (vec![of_engine(), of_worker.encode()], of_queues.clone());
                async move {
                    texts.push(watch.metrics().await);
                    texts
                }
            });
            let routes = routes.streams(streams.clone());
            serve_http(listener, queues::mount(routes, watch));
        }
        if let Some(store) = arguments.platform.own_store() {
            let engine = tidemill_runtime::worker::Engine {
                address: address.clone(),
                namespace: DEFAULT.to_owned(),
            };
            tokio::spawn(gc::every_hour(engine, store));
        }
        let platform = Platform::start(
            arguments.platform,
            &address,
            DEFAULT,
            true,
            metrics,
            streams,
        )?;
        output::line(format_args!(
            "Tidemill {} is up.\n  engine  {address}\n  data    {data}\nRun a pipeline from \
             another terminal: tidemill run FILE. Ctrl-C stops it; what runs goes on when it is \
             up again.",
            env!("CARGO_PKG_VERSION"),
        ));
        platform.run(stop, engine.drain()).await
    })
}

pub(crate) fn worker(arguments: Worker) -> Result<(), Failure> {
    logging::start(arguments.logs.log_format, &arguments.logs.log_level)?;
    let watched = watched(&arguments.metrics_listen, arguments.allow_remote)?;
    arguments.platform.make_folder()?;
    super::run::block_on(async {
        let stop = Stop::new()?;
        let (metrics, streams) = (Metrics::new(), Streams::default());
        if let Some(listen) = watched {
            let counted = metrics.clone();
            let routes = Routes::new().metrics(move || std::future::ready(vec![counted.encode()]));
            let routes = routes.streams(streams.clone());
            serve_http(listen.bind()?, routes);
        }
        let platform = Platform::start(
            arguments.platform,
            &arguments.engine,
            &arguments.namespace,
            !arguments.no_interpreter,
            metrics,
            streams,
        )?;
        platform.run(stop, std::future::ready(())).await
    })
}

/// Where metrics are to be served, if they are.
fn watched(address: &Option<String>, allow_remote: bool) -> Result<Option<Listen>, Failure> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listen = Listen::parse(address, "--metrics-listen")?;
    listen.check_remote(allow_remote)?;
    Ok(Some(listen))
}

/// Serves for as long as the process lives: who watches a worker sees its end, too.
fn serve_http(listener: TcpListener, routes: Routes) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("metrics on http://{address}/metrics");
    }
    tokio::spawn(http::serve(listener, routes, std::future::pending()));
}
