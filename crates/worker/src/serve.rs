//! A worker's life: connect, serve every class that it offers, stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_connect::artifacts::Artifacts;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::{Config, Offer};
use crate::core::{Cancel, CheckError, ConnectError, Engine, Event, Queue};
use crate::registry::Registry;
use crate::run::Runner;
use crate::store::Store;
use crate::task::{Class, execute};

/// Between two tries to reach the engine: the first wait, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Threads of one class at most. Stages that wait share them; each that computes takes one.
const THREADS_MAX: usize = 64;

/// Why a worker cannot work. It waits for an engine that cannot be reached: that is none of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the worker's configuration: {0}")]
    Config(String),
    #[error("the artifact store at {url}: {reason}")]
    Artifacts { url: String, reason: String },
    #[error(
        "namespace {namespace} does not exist at {engine}: create it there (`tidemill operator \
         namespace create {namespace}`), or name another"
    )]
    Namespace { namespace: String, engine: String },
    #[error("cannot start threads for resource class {class}: {reason}")]
    Threads { class: String, reason: String },
    #[error("the engine at {engine} refuses the worker: {reason}")]
    Refused { engine: String, reason: String },
}

/// Serves until `stop` fires, then ends what runs: first it waits, after [`Config::grace`] it
/// cancels and hands back.
///
/// It polls and sends heartbeats on the calling task's runtime, which nothing must block. Stages run
/// on threads of their own, apart for each class, so that work for the CPU never keeps the tasks of
/// an accelerator from being dispatched.
pub async fn serve(
    config: Config,
    registry: Registry,
    stop: CancellationToken,
) -> Result<(), Error> {
    config.check()?;
    let artifacts = Artifacts::open(&config.artifacts).map_err(|e| Error::Artifacts {
        url: config.artifacts.clone(),
        reason: e.to_string(),
    })?;
    let runner = Arc::new(Runner {
        registry,
        store: Store::new(artifacts),
        data: config.data.clone(),
    });
    let threads = Threads::start(&config.offers)?;
    while !stop.is_cancelled() {
        let Some(engine) = reach(&config, &stop).await? else {
            break;
        };
        // One queue that ends takes the others along, to begin anew together.
        let session = stop.child_token();
        let mut queues = JoinSet::new();
        for (offer, runtime) in config.offers.iter().zip(&threads.0) {
            let queue = engine
                .queue(offer, config.grace)
                .map_err(|reason| Error::Refused {
                    engine: config.engine.clone(),
                    reason,
                })?;
            let class = Class {
                queue: Arc::new(queue),
                runner: runner.clone(),
                threads: runtime.handle().clone(),
                stop: session.clone(),
            };
            queues.spawn(poll(offer.class.clone(), class));
        }
        info!(
            engine = config.engine,
            namespace = config.namespace,
            classes = classes(&config.offers),
            "worker serves"
        );
        let mut lost = false;
        while let Some(ended) = queues.join_next().await {
            if let Err(e) = ended {
                error!("the polling of a class ended: {e}");
            }
            lost |= !stop.is_cancelled();
            session.cancel();
        }
        if lost {
            pause(AGAIN.1, &stop).await;
        }
    }
    info!("worker has stopped");
    Ok(())
}

/// Connects, however long that takes; `None` when told to stop before.
async fn reach(config: &Config, stop: &CancellationToken) -> Result<Option<Engine>, Error> {
    let refused = |reason: String| Error::Refused {
        engine: config.engine.clone(),
        reason,
    };
    let mut wait = AGAIN.0;
    loop {
        let tried = async {
            let engine = Engine::connect(config).await?;
            let checked = engine.check().await;
            Ok((engine, checked))
        };
        let tried = tokio::select! {
            tried = tried => tried,
            () = stop.cancelled() => return Ok(None),
        };
        let reason = match tried {
            Ok((engine, Ok(()))) => return Ok(Some(engine)),
            Ok((_, Err(CheckError::NoNamespace))) => {
                return Err(Error::Namespace {
                    namespace: config.namespace.clone(),
                    engine: config.engine.clone(),
                });
            }
            Ok((_, Err(CheckError::Other(reason)))) | Err(ConnectError::NotNow(reason)) => reason,
            Err(ConnectError::Wrong(reason)) => return Err(refused(reason)),
        };
        warn!(
            engine = config.engine,
            "the engine is not reachable: {reason}; trying again in {} s",
            wait.as_secs_f32()
        );
        pause(wait, stop).await;
        if stop.is_cancelled() {
            return Ok(None);
        }
        wait = (wait * 2).min(AGAIN.1);
    }
}

async fn pause(span: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(span) => {}
        () = stop.cancelled() => {}
    }
}

type Cancels = Arc<Mutex<HashMap<Vec<u8>, watch::Sender<Option<Cancel>>>>>;

/// Takes the tasks of one class until told to stop, and returns when all have ended.
async fn poll(name: String, class: Class) {
    class.queue.prepare().await;
    let class = Arc::new(class);
    let cancels: Cancels = Arc::default();
    let mut tasks = JoinSet::new();
    let mut stopping = false;
    loop {
        let event = tokio::select! {
            event = class.queue.next() => event,
            () = class.stop.cancelled(), if !stopping => {
                stopping = true;
                debug!(class = name, running = tasks.len(), "no more tasks are taken");
                class.queue.stop();
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        match event {
            None => break,
            Some(Err(reason)) => warn!(class = name, "cannot poll any more: {reason}"),
            Some(Ok(Event::Cancel { token, why })) => {
                if let Some(cancel) = cancels.lock().get(&token) {
                    cancel.send_replace(Some(why));
                }
            }
            Some(Ok(Event::Start(start))) => {
                let (cancel, cancelled) = watch::channel(None);
                let token = start.token.clone();
                cancels.lock().insert(token.clone(), cancel);
                let (class, cancels) = (class.clone(), cancels.clone());
                tasks.spawn(async move {
                    execute(&class, start, cancelled).await;
                    cancels.lock().remove(&token);
                });
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    if let Some(class) = Arc::into_inner(class)
        && let Some(queue) = Arc::into_inner(class.queue)
    {
        Queue::end(queue).await;
    }
}

/// A runtime for the stages of each class.
struct Threads(Vec<Runtime>);

impl Threads {
    fn start(offers: &[Offer]) -> Result<Self, Error> {
        let runtime = |offer: &Offer| {
            Builder::new_multi_thread()
                .worker_threads(offer.slots.min(THREADS_MAX))
                .thread_name(format!("stage-{}", offer.class))
                .enable_all()
                .build()
                .map_err(|e| Error::Threads {
                    class: offer.class.clone(),
                    reason: e.to_string(),
                })
        };
        let runtimes = offers.iter().map(runtime);
        Ok(Self(runtimes.collect::<Result<_, _>>()?))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Not waited for: a stage that computes on after it was cancelled must not hold the process.
        for runtime in self.0.drain(..) {
            runtime.shutdown_background();
        }
    }
}

fn classes(offers: &[Offer]) -> String {
    let offers = offers.iter().map(|o| format!("{} x {}", o.class, o.slots));
    offers.collect::<Vec<_>>().join(", ")
}
