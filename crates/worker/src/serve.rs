//! A worker's life: connect, serve every class that it offers, stop.

use std::sync::Arc;
use std::time::Duration;

use tidemill_connect::artifacts::Artifacts;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::class::Offered;
use crate::config::Config;
use crate::core::{CheckError, ConnectError, Engine};
use crate::limit::Limits;
use crate::offer::Offer;
use crate::registry::Registry;
use crate::run::Runner;
use crate::store::Store;

/// Between two tries to reach the engine: the first wait, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

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
    /// A device that it should offer cannot be used.
    #[error("resource class {class}: {reason}")]
    Device { class: String, reason: String },
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
        streams: config.streams.clone(),
        limits: Limits::new(&config.identity),
    });
    let mut classes = Vec::with_capacity(config.offers.len());
    for offer in &config.offers {
        classes.push(Offered::open(offer, &config, &runner)?);
    }
    while !stop.is_cancelled() {
        let Some(engine) = reach(&config, &stop).await? else {
            break;
        };
        runner.limits.connected(engine.updates());
        // One queue that ends takes the others along, to begin anew together.
        let session = stop.child_token();
        let mut queues = JoinSet::new();
        let engine = Arc::new(engine);
        for class in &classes {
            queues.spawn(class.serve(&engine, config.grace, &session));
        }
        info!(
            engine = config.engine,
            namespace = config.namespace,
            classes = names(&config.offers),
            "worker serves"
        );
        let mut lost = false;
        while let Some(ended) = queues.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => {
                    return Err(Error::Refused {
                        engine: config.engine.clone(),
                        reason,
                    });
                }
                Err(e) => error!("the polling of a class ended: {e}"),
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

fn names(offers: &[Offer]) -> String {
    let offers = offers.iter().map(|o| format!("{} x {}", o.class, o.slots));
    offers.collect::<Vec<_>>().join(", ")
}
