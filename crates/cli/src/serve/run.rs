//! Puts store, server and frontend together and takes them apart again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_frontend::{Options, serve, serve_metrics};
use tidemill_server::{Config, Server};
use tidemill_store::Store;
use tidemill_store::logged::{self, LoggedStore};
use tidemill_store::sqlite::SqliteStore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::listen::Listen;
use crate::exit::Failure;
use crate::output;

/// What a server is started with.
pub(crate) struct Setup {
    pub(crate) listen: Listen,
    pub(crate) metrics: Option<Listen>,
    pub(crate) allow_remote: bool,
    pub(crate) data: Data,
    pub(crate) config: Config,
    /// Say on the standard output where the server is.
    pub(crate) banner: bool,
}

/// Where everything is kept.
pub(crate) enum Data {
    Memory,
    File(PathBuf),
}

/// Runs a server until a signal ends it.
pub(crate) fn run(setup: Setup) -> Result<(), Failure> {
    block_on(serve_until_signal(setup))
}

/// Runs a future on threads of its own.
pub(super) fn block_on(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::general(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(future);
    // Nothing that is left over may keep the process.
    runtime.shutdown_background();
    result
}

async fn serve_until_signal(setup: Setup) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let engine = Engine::start(setup).await?;
    let name = stop.wait().await;
    tracing::info!("{name}: draining; a second signal ends at once");
    tokio::select! {
        () = engine.drain() => {
            tracing::info!("stopped");
            Ok(())
        }
        name = stop.wait() => Err(cut_short(name)),
    }
}

/// A second signal came while the first was being obeyed.
pub(super) fn cut_short(name: &str) -> Failure {
    Failure::general(format!("{name} while draining: ended at once"))
}

/// A running engine.
pub(super) struct Engine {
    server: Server,
    grpc: JoinHandle<()>,
    draining: watch::Sender<bool>,
    /// Where it listens.
    pub(super) address: SocketAddr,
}

impl Engine {
    pub(super) async fn start(setup: Setup) -> Result<Self, Failure> {
        // Before the data is touched, so that a second server on the same port stops here.
        for listen in [Some(&setup.listen), setup.metrics.as_ref()]
            .into_iter()
            .flatten()
        {
            listen.check_remote(setup.allow_remote)?;
        }
        let listener = setup.listen.bind()?;
        let metrics_listener = setup.metrics.as_ref().map(Listen::bind).transpose()?;
        let address = listener.local_addr().map_err(Failure::general)?;

        let (store, kept) = open(setup.data)?;
        let server = Server::start(store, setup.config).await?;
        let (draining, _) = watch::channel(false);
        let drain = || {
            let mut draining = draining.subscribe();
            async move {
                let _ = draining.wait_for(|draining| *draining).await;
            }
        };
        let grpc = tokio::spawn(serve(listener, server.clone(), Options::default(), drain()));
        if let Some(listener) = metrics_listener {
            if let Ok(address) = listener.local_addr() {
                tracing::info!("metrics on http://{address}/metrics");
            }
            tokio::spawn(serve_metrics(listener, server.metrics().clone(), drain()));
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %kept, "serving on {address}");
        if setup.banner {
            output::line(format_args!(
                "Tidemill {}\nServer:  {address}\nData:    {kept}",
                env!("CARGO_PKG_VERSION")
            ));
        }
        Ok(Self {
            server,
            grpc,
            draining,
            address,
        })
    }

    /// What the engine counts, in the text that Prometheus reads.
    pub(super) fn metrics(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let metrics = self.server.metrics().clone();
        move || metrics.encode()
    }

    /// Finishes the calls that are under way and stops.
    pub(super) async fn drain(self) {
        let _ = self.draining.send(true);
        self.server.shutdown().await;
        let _ = self.grpc.await;
    }
}

/// Opens the store; the text says where it is.
fn open(data: Data) -> Result<(Arc<dyn Store>, String), Failure> {
    match data {
        Data::Memory => Ok((Arc::new(SqliteStore::memory()?), "in memory".to_owned())),
        Data::File(path) => {
            let store = LoggedStore::open(&path, logged::Options::default())?;
            Ok((Arc::new(store), path.display().to_string()))
        }
    }
}

/// The signals that end a server.
pub(crate) struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    pub(crate) fn new() -> Result<Self, Failure> {
        let signal = |kind| signal(kind).map_err(Failure::general);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of the signal that came.
    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
