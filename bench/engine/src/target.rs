//! The server that is measured: one of our own that is spawned for it, or one that runs already.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::connection::Connection;
use crate::load;
use crate::probe::Probe;
use crate::server::Server;

/// Every stream counts against HTTP/2's limit of concurrent streams per connection, long polls included,
/// and many servers allow 200 or less.
const STREAMS_PER_CONNECTION: usize = 80;

#[derive(clap::Args, Clone)]
pub(crate) struct Target {
    /// Measure a server that already runs, HOST:PORT, instead of spawning one.
    #[arg(long, env = "ADDRESS", global = true)]
    address: Option<String>,
    /// The process to take CPU, memory and bytes written from, when the server was not spawned here.
    #[arg(long, env = "SERVER_PID", global = true)]
    pid: Option<u32>,
    /// HOST:PORT of the server's Prometheus endpoint, when the server was not spawned here.
    #[arg(long, env = "METRICS_ADDRESS", global = true)]
    metrics: Option<String>,
    /// The binary to spawn; it is run as `<server> engine --data-file FILE --listen ADDR --metrics-listen ADDR`.
    #[arg(long, default_value = "target/release/tidemill", global = true)]
    server: PathBuf,
    /// Where the spawned server keeps its file; a folder is made in it and removed afterwards.
    #[arg(long, default_value_os_t = std::env::temp_dir(), global = true)]
    pub(crate) data_dir: PathBuf,
    #[arg(long, default_value = "default", global = true)]
    pub(crate) namespace: String,
}

/// A server with connections to it.
pub(crate) struct Session {
    /// `None` when it was not spawned here.
    pub(crate) server: Option<Server>,
    pub(crate) address: String,
    pub(crate) probe: Probe,
    pub(crate) channels: Vec<Connection>,
    pub(crate) namespace: String,
}

impl Target {
    /// A server for the parts that need to see it come up.
    pub(crate) fn spawn(&self) -> Result<Option<Server>> {
        match self.running() {
            Some(_) => Ok(None),
            None => Server::spawn(&self.server, &self.data_dir).map(Some),
        }
    }

    // An empty ADDRESS= in the environment means that none was given.
    fn running(&self) -> Option<&str> {
        self.address
            .as_deref()
            .filter(|address| !address.is_empty())
    }

    /// Opens enough connections for so many calls at a time, and waits until the server answers.
    pub(crate) async fn open(&self, streams: usize) -> Result<Session> {
        let (server, address, probe) = match self.running() {
            Some(address) => {
                let probe = Probe::new(self.pid, self.metrics.clone());
                (None, address.to_owned(), probe)
            }
            None => {
                let server = Server::spawn(&self.server, &self.data_dir)?;
                let probe = server.probe();
                let address = server.address.clone();
                (Some(server), address, probe)
            }
        };
        let connections = streams.div_ceil(STREAMS_PER_CONNECTION).max(4);
        let channels = connect(&address, connections, &self.namespace).await?;
        Ok(Session {
            server,
            address,
            probe,
            channels,
            namespace: self.namespace.clone(),
        })
    }
}

impl Session {
    /// Kills the server, starts it again on its file, and returns how long it took from the start of the
    /// process to the first answer; `None` for a server that was not spawned here.
    pub(crate) async fn restart(&mut self) -> Result<Option<Duration>> {
        let Some(server) = &mut self.server else {
            return Ok(None);
        };
        server.kill();
        let begin = Instant::now();
        server.start()?;
        let connections = self.channels.len();
        let first = connect(&self.address, 1, &self.namespace).await?;
        let took = begin.elapsed();
        drop(first);
        self.probe = server.probe();
        self.channels = connect(&self.address, connections, &self.namespace).await?;
        Ok(Some(took))
    }
}

pub(crate) async fn connect(
    address: &str,
    connections: usize,
    namespace: &str,
) -> Result<Vec<Connection>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut channels = Vec::with_capacity(connections);
    while channels.len() < connections {
        match Connection::open(address).await {
            Ok(channel) => channels.push(channel),
            Err(error) if Instant::now() > deadline => {
                return Err(anyhow!(error)).with_context(|| format!("cannot connect to {address}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    load::wait_for_namespace(channels[0].clone(), namespace, deadline).await?;
    Ok(channels)
}
