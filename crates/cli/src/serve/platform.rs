//! What `tidemill up` and `tidemill worker` have in common: the interpreter and a worker.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_worker::{Config, Offer, Registry};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::run::{Stop, cut_short};
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

impl Settings {
    /// Makes the data folder if it is missing.
    pub(super) fn make_folder(&self) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.data).map_err(|error| {
            Failure::DataUnusable(format!(
                "cannot make the data folder {}: {error}",
                self.data.display()
            ))
        })
    }
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
    tasks: JoinSet<Result<(), Failure>>,
}

impl Platform {
    /// Starts serving the engine at an address. It need not be there yet.
    pub(super) fn start(
        settings: Settings,
        engine: &str,
        namespace: &str,
        interpreter: bool,
    ) -> Self {
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
        let mut tasks = JoinSet::new();
        let token = stop.clone();
        tasks.spawn(async move {
            tidemill_worker::serve(config, registry(), token)
                .await
                .map_err(Failure::general)
        });
        if interpreter {
            let (token, engine, namespace) =
                (stop.clone(), engine.to_owned(), namespace.to_owned());
            tasks.spawn(async move {
                let engine = tidemill_runtime::worker::Engine {
                    address: engine,
                    namespace,
                };
                tidemill_runtime::worker::serve(engine, token.cancelled_owned())
                    .await
                    .map_err(Failure::general)
            });
        }
        Self { stop, tasks }
    }

    /// Waits until a part of it ends, which it does not do by itself unless it failed.
    async fn failed(&mut self) -> Failure {
        match self.tasks.join_next().await {
            Some(Ok(Err(failure))) => failure,
            Some(Err(panic)) => Failure::general(panic),
            Some(Ok(Ok(()))) | None => Failure::general("a worker ended by itself"),
        }
    }

    /// Runs until a signal or a failure ends it: drains it, and after it what `then` drains.
    pub(super) async fn run(
        mut self,
        mut stop: Stop,
        then: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let result = tokio::select! {
            name = stop.wait() => {
                tracing::info!("{name}: draining; a second signal ends at once");
                Ok(())
            }
            failure = self.failed() => Err(failure),
        };
        tokio::select! {
            // Workers first: what they report has to reach the engine.
            () = async { self.drain().await; then.await } => {
                tracing::info!("stopped");
                result
            }
            name = stop.wait() => Err(cut_short(name)),
        }
    }

    /// Takes no more tasks, gives those that run the grace period, and hands back what is left.
    async fn drain(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => tracing::warn!("while stopping: {failure}"),
                Err(panic) => tracing::warn!("while stopping: {panic}"),
            }
        }
    }
}
