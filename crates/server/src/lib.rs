//! Tidemill's server: runs the engine over a store.
//!
//! Operations on runs go through shard actors ([`shard`]); commits through the store's committer;
//! what follows a commit through [`publish`]. Tasks meet workers in [`matching`]. The API is one
//! method of [`Server`] for each RPC ([`api`]), in the protocol's messages; transport, and what
//! goes wrong on it, is the frontend's part.

#![expect(
    deprecated,
    reason = "clients still send and read fields that the protocol has deprecated"
)]

mod api;
mod collect;
mod commit;
mod config;
mod core;
pub mod examine;
mod history;
mod identifiers;
mod lone;
pub mod matching;
pub mod metrics;
pub mod namespaces;
mod outbox;
mod publish;
mod queue_configs;
mod record_writer;
mod retention;
pub mod search_attributes;
mod shard;
mod sticky;
mod sync;
mod timers;
mod token;
mod waiters;
mod workers;

use std::sync::Arc;

use tidemill_engine::{Error, Limits};
use tidemill_store::committer::{Finished, NO_LANE};
use tidemill_store::{Commit, Committer, NamespaceId, Store};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use api::Call;
pub use config::Config;
pub use token::TaskToken;

use crate::core::{Core, Stop};
use crate::identifiers::Identifiers;
use crate::lone::Lone;
use crate::matching::Matching;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::outbox::Outbox;
use crate::queue_configs::QueueConfigs;
use crate::shard::Shards;
use crate::timers::Timers;
use crate::waiters::Waiters;
use crate::workers::Workers;

/// A running server. Clones share it.
#[derive(Clone)]
pub struct Server {
    core: Arc<Core>,
    background: Arc<parking_lot::Mutex<Background>>,
}

/// What runs until [`Server::shutdown`].
struct Background {
    tasks: Vec<JoinHandle<()>>,
    actors: Vec<JoinHandle<()>>,
    /// Ends when the committer is closed and all was told.
    teller: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts serving a store. What was left undone when it was last closed goes on.
    pub async fn start(store: Arc<dyn Store>, config: Config) -> Result<Self, Error> {
        // What is durable is told on the runtime, where those who wait for it are: a thread between
        // them would be woken, and would wake each of them, through the system.
        let (finished, mut durable) = mpsc::unbounded_channel::<Finished>();
        let committer = Committer::start_telling(store.clone(), move |batch| {
            let _ = finished.send(batch);
        });
        let teller = tokio::spawn(async move {
            while let Some(batch) = durable.recv().await {
                batch.call_back();
            }
        });
        let server = Self::start_with(store, Arc::new(committer), config).await?;
        server.background.lock().teller = Some(teller);
        Ok(server)
    }

    /// The same with a committer of this store that somebody else drives.
    pub async fn start_with(
        store: Arc<dyn Store>,
        committer: Arc<Committer>,
        config: Config,
    ) -> Result<Self, Error> {
        let (last_run, last_task) = store.high_water().map_err(core::read_failed)?;
        let namespaces =
            Namespaces::open(&*store, committer.clone(), config.namespaces.clone()).await?;
        let metrics = Arc::new(Metrics::new());
        let matching = Matching::new(matching::Config::default(), store.clone(), || core::now().0);
        let queues = matching.load().await.map_err(core::read_failed)?;
        let queue_configs = QueueConfigs::open(&*store, committer.clone(), matching.clone())?;
        let namespaces = Arc::new(namespaces);
        metrics.collect(collect::Figures {
            committer: committer.clone(),
            namespaces: namespaces.clone(),
            matching: matching.clone(),
        });
        let (shards, mailboxes) = Shards::new(config.shards);
        let runtime = tokio::runtime::Handle::current();
        let threads = runtime.metrics().num_workers();
        let callers_commit = config.callers_commit.unwrap_or(threads > 1);
        let lone = Arc::new(Lone::new(callers_commit, threads));
        let core = Arc::new(Core {
            config,
            store,
            committer,
            namespaces,
            matching,
            queue_configs,
            metrics,
            ids: Identifiers::after(last_run, last_task),
            waiters: Waiters::new(),
            timers: Timers::new(),
            workers: Workers::default(),
            lone,
            shards,
            outbox: Outbox::default(),
            stop: Stop::new(),
            runtime,
        });
        let actors = Shards::start(&core, mailboxes);
        let mut tasks = vec![
            tokio::spawn(timers::wake_due(core.clone())),
            tokio::spawn(timers::read_ahead(core.clone())),
            tokio::spawn(outbox::resume(core.clone())),
            tokio::spawn(retention::run(core.clone())),
            tokio::spawn(sticky::give_up_abandoned(core.clone(), queues)),
        ];
        tasks.extend(core.lone.start());
        let background = Background {
            tasks,
            actors,
            teller: None,
        };
        Ok(Self {
            core,
            background: Arc::new(parking_lot::Mutex::new(background)),
        })
    }

    pub fn namespaces(&self) -> &Namespaces {
        &self.core.namespaces
    }

    /// Removes the record of a deleted namespace whose runs are gone, and what was set on its queues.
    pub async fn forget_namespace(&self, id: &NamespaceId) -> Result<(), Error> {
        self.core.namespaces.forget(id).await?;
        self.core.queue_configs.forget(id).await;
        Ok(())
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.core.metrics
    }

    pub fn limits(&self) -> &Limits {
        &self.core.config.limits
    }

    pub fn matching(&self) -> &Matching {
        &self.core.matching
    }

    /// Stops: polls end empty, those who wait are told to come again, what was begun is on disk and
    /// answered, and nothing runs in the background any more. Calls that come later are told to come
    /// again, too. When all clones of the server are gone, the store is closed.
    pub async fn shutdown(&self) {
        self.core.stop.begin();
        self.core.matching.shutdown();
        self.core.waiters.close();
        let (tasks, actors, teller) = {
            let mut background = self.background.lock();
            (
                std::mem::take(&mut background.tasks),
                std::mem::take(&mut background.actors),
                background.teller.take(),
            )
        };
        for task in tasks {
            task.abort();
        }
        self.core.shards.stop();
        for actor in actors {
            // Its panics are contained and were reported.
            let _ = actor.await;
        }
        self.core.barrier().await;
        let core = self.core.clone();
        // Joins threads.
        let _ = core::blocking(move || core.committer.close()).await;
        if let Some(teller) = teller {
            let _ = teller.await;
        }
    }

    /// When the caller's deadline or our own bound ends a wait, whichever is first, with room
    /// left for the answer to travel.
    pub(crate) fn wait_until(&self, call: &Call, most: std::time::Duration) -> Instant {
        let own = Instant::now() + most;
        call.deadline.map_or(own, |d| {
            own.min(
                d - self
                    .core
                    .config
                    .deadline_margin
                    .min(d.saturating_duration_since(Instant::now()) / 2),
            )
        })
    }
}

impl Core {
    /// Waits until everything that was handed to the store before is durable or has failed.
    pub(crate) async fn barrier(&self) {
        let (done, wait) = oneshot::channel();
        self.committer.submit(
            NO_LANE,
            0,
            Commit::default(),
            Box::new(move |_| {
                let _ = done.send(());
            }),
        );
        let _ = wait.await;
    }
}
