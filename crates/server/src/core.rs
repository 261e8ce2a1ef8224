//! What all parts of a server share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_engine::Time;
use tidemill_store::{Committer, RunIdentity, Store};

use crate::Config;
use crate::identifiers::Identifiers;
use crate::matching::Matching;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
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
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ids: Identifiers,
    pub(crate) waiters: Waiters,
    pub(crate) timers: Timers,
    pub(crate) workers: Workers,
    pub(crate) shards: Shards,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// The wall clock, in the engine's terms.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
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
