//! What all parts of a server share.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill_engine::{Error, Time};
use tidemill_store::{Committer, RunIdentity, Store};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Config;
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

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) matching: Matching,
    pub(crate) queue_configs: QueueConfigs,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ids: Identifiers,
    pub(crate) waiters: Waiters,
    pub(crate) timers: Timers,
    pub(crate) workers: Workers,
    pub(crate) shards: Shards,
    /// Effects on other runs that are being carried out.
    pub(crate) outbox: Outbox,
    pub(crate) stop: Stop,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) lone: Arc<Lone>,
}

/// Tells everything that runs in the background that the server stops.
pub(crate) struct Stop(watch::Sender<bool>);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(watch::channel(false).0)
    }

    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Sleeps; false when the server stops before the time has passed.
    pub(crate) async fn sleep(&self, time: Duration) -> bool {
        let mut stopped = self.0.subscribe();
        tokio::select! {
            biased;
            () = tokio::time::sleep(time) => true,
            _ = stopped.wait_for(|stopped| *stopped) => false,
        }
    }
}

/// The answer to whoever comes, or still waits, while the server stops.
pub(crate) fn stopping() -> Error {
    Error::Unavailable("the server is stopping".into())
}

/// What the caller of a read that failed is told.
pub(crate) fn read_failed(error: tidemill_store::Error) -> Error {
    match error {
        tidemill_store::Error::InvalidFilter(_) | tidemill_store::Error::InvalidPageToken => {
            Error::invalid(error.to_string())
        }
        tidemill_store::Error::Corrupt(_) => Error::DataLoss(format!(
            "{error}; `tidemill engine doctor` says where, and docs/operations.md what to do"
        )),
        _ => Error::Unavailable(error.to_string()),
    }
}

/// Makes a call that blocks (the store's do) where it holds nobody up.
pub(crate) fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    blocking_on(&Handle::current(), call)
}

/// On a runtime of one thread the call is one of its tasks, so that what happens there happens in one
/// order: a simulation depends on that.
pub(crate) fn blocking_on<T: Send + 'static>(
    runtime: &Handle,
    call: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    match runtime.runtime_flavor() {
        RuntimeFlavor::CurrentThread => runtime.spawn(async move { call() }),
        _ => runtime.spawn_blocking(call),
    }
}

/// The wall clock, in the engine's terms.
pub(crate) fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A run's identity in the store's terms, from the engine's.
pub(crate) fn identity(id: &tidemill_engine::RunId) -> RunIdentity {
    RunIdentity {
        run: tidemill_store::RunNo(id.no),
        namespace: id.namespace_id,
        workflow_id: id.workflow_id.clone(),
        run_id: tidemill_engine::ids::parse_uuid(&id.run_id).unwrap_or_default(),
    }
}

/// And back.
pub(crate) fn run_id(identity: &RunIdentity) -> tidemill_engine::RunId {
    tidemill_engine::RunId {
        no: identity.run.0,
        namespace_id: identity.namespace,
        workflow_id: identity.workflow_id.clone(),
        run_id: tidemill_engine::ids::format_uuid(&identity.run_id).into(),
    }
}
