//! What `tidemill up` and `tidemill worker` have in common: the interpreter and a worker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill_connect::stream::Streams;
use tidemill_pipeline::size;
use tidemill_worker::{ACCELERATOR, CPU, Config, Memory, Metrics, Offer, Registry, cpu_slots};
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
    /// A resource class to serve: CLASS, CLASS=SLOTS such as cpu=4, or with devices
    /// CLASS:device=0,memory=60GiB,slots=64,serve=MODEL; repeat for more. Devices are cpu, numbers of
    /// NVIDIA's, or sim (simulated). Without slots, cpu has one for each core, as far as --memory
    /// allows [default: cpu, accelerator:device=cpu]
    #[arg(long, value_name = "OFFER", value_parser = Offer::parse, conflicts_with = "offers")]
    offer: Vec<Offer>,
    /// The same from a TOML file of [[offer]] tables.
    #[arg(long, value_name = "FILE")]
    offers: Option<PathBuf>,
    /// A model whose tasks come to this worker first, on all its classes with devices; repeat for
    /// more.
    #[arg(long, value_name = "MODEL")]
    serve: Vec<String>,
    /// Memory that tasks of cpu may use together, such as 16GiB: with --memory-per-task it bounds
    /// the slots of cpu [default: cores alone do]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// Memory that a task of cpu is expected to use at most.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size::parse)]
    memory_per_task: u64,
    /// How long running tasks may go on after the signal to stop.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span::parse)]
    grace: Duration,
}

impl Settings {
    fn offers(&self) -> Result<Vec<Offer>, Failure> {
        let mut offers = match &self.offers {
            Some(file) => {
                let wrong = |error: &dyn std::fmt::Display| {
                    Failure::Invalid(format!("--offers {}: {error}", file.display()))
                };
                let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
                Offer::from_toml(&text).map_err(|error| wrong(&error))?
            }
            None if self.offer.is_empty() => {
                vec![
                    Offer::new(CPU, cpu_slots(None)),
                    Offer::on_device(ACCELERATOR, "cpu"),
                ]
            }
            None => self.offer.clone(),
        };
        let memory = self.memory.map(|budget| Memory {
            budget,
            per_task: self.memory_per_task,
        });
        for offer in &mut offers {
            if let Some(memory) = memory.filter(|_| offer.class == CPU) {
                offer.slots = offer.slots.min(memory.fit());
            }
            if !offer.devices.is_empty() {
                offer.serve.extend(self.serve.iter().cloned());
            }
        }
        Ok(offers)
    }

    /// The artifact store that nobody uses but the workers of this data folder.
    pub(super) fn own_store(&self) -> Option<String> {
        match self.artifacts {
            Some(_) => None,
            None => Some(self.data.join("artifacts").display().to_string()),
        }
    }

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
        metrics: Arc<Metrics>,
        streams: Streams,
    ) -> Result<Self, Failure> {
        let mut config = Config::new(engine, &settings.data);
        config.namespace = namespace.to_owned();
        config.grace = settings.grace;
        config.metrics = metrics;
        config.streams = streams;
        config.offers = settings.offers()?;
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
        Ok(Self { stop, tasks })
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
