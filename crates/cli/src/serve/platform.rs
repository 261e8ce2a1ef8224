//! What `tidemill up` and `tidemill worker` have in common: the interpreter and a worker.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_worker::{Config, Offer, Registry};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::span;

#[derive(clap::Args)]
pub(super) struct Settings {
    /// Folder of vector indexes, models and, unless --artifacts says otherwise, artifacts.
    #[arg(
        long,
        value_name = "PATH",
        default_value = ".tidemill",
        env = "TIDEMILL_DATA"
    )]
    pub(super) data: PathBuf,
    /// Where values too large for history are kept: a folder or a URL. All workers of an engine
    /// need the same [default: `artifacts` in the data folder]
    #[arg(long, value_name = "URL", env = "TIDEMILL_ARTIFACTS")]
    artifacts: Option<String>,
    /// A resource class to serve and its slots, such as cpu=4; repeat for more [default: cpu with
    /// a slot for each core, and accelerator=1]
    #[arg(long, value_name = "CLASS[=SLOTS]", value_parser = offer)]
    offer: Vec<Offer>,
    /// How long running tasks may go on after the signal to stop.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span::parse)]
    grace: Duration,
}

fn offer(text: &str) -> Result<Offer, String> {
    let (class, slots) = text.split_once('=').unwrap_or((text, "1"));
    match slots.parse() {
        Ok(slots) if slots > 0 && !class.is_empty() => Ok(Offer::new(class, slots)),
        _ => Err("write CLASS=SLOTS, such as cpu=4, with at least one slot".to_owned()),
    }
}

/// The built-in stages. A PDF is read by a child process: its parser may break on a bad file.
fn registry() -> Registry {
    Registry::builtin_with(&tidemill_stages::Settings {
        pdf: tidemill_stages::documents::PdfReader::this_binary(),
    })
}

/// A running interpreter and worker.
pub(super) struct Platform {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<(), Failure>>>,
}

impl Platform {
    /// Starts serving the engine at an address. It need not be there yet.
    pub(super) fn start(
        settings: Settings,
        engine: &str,
        namespace: &str,
        interpreter: bool,
    ) -> Result<Self, Failure> {
        std::fs::create_dir_all(&settings.data).map_err(|error| {
            Failure::DataUnusable(format!(
                "cannot make the data folder {}: {error}",
                settings.data.display()
            ))
        })?;
        let mut config = Config::new(engine, &settings.data);
        config.namespace = namespace.to_owned();
        config.grace = settings.grace;
        if !settings.offer.is_empty() {
            config.offers = settings.offer;
        }
        if let Some(artifacts) = settings.artifacts {
            config.artifacts = artifacts;
        }
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        let token = stop.clone();
        tasks.push(tokio::spawn(async move {
            tidemill_worker::serve(config, registry(), token)
                .await
                .map_err(Failure::general)
        }));
        if interpreter {
            let (token, engine, namespace) =
                (stop.clone(), engine.to_owned(), namespace.to_owned());
            tasks.push(tokio::spawn(async move {
                let engine = tidemill_runtime::worker::Engine {
                    address: engine,
                    namespace,
                };
                tidemill_runtime::worker::serve(engine, token.cancelled_owned())
                    .await
                    .map_err(Failure::general)
            }));
        }
        Ok(Self { stop, tasks })
    }

    /// Waits until a part of it ends, which it does not do by itself unless it failed.
    pub(super) async fn failed(&mut self) -> Failure {
        loop {
            if let Some(at) = self.tasks.iter().position(JoinHandle::is_finished) {
                return match self.tasks.swap_remove(at).await {
                    Ok(Err(failure)) => failure,
                    Ok(Ok(())) => Failure::general("a worker ended by itself"),
                    Err(panic) => Failure::general(panic),
                };
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Takes no more tasks, gives those that run the grace period, and hands back what is left.
    pub(super) async fn drain(self) {
        self.stop.cancel();
        for task in self.tasks {
            match task.await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => tracing::warn!("while stopping: {failure}"),
                Err(panic) => tracing::warn!("while stopping: {panic}"),
            }
        }
    }
}
