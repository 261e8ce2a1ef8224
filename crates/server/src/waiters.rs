//! Callers that wait for something of a run: new history, an update's stage, a query's answer.
//!
//! They are told after the change is durable. Dropping a sender tells its waiters that the run was
//! reloaded: they ask again.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use parking_lot::Mutex;
use tidemill_engine::{Error, UpdateEvent};
use tidemill_proto::api::query::v1::WorkflowQueryResult;
use tidemill_store::RunNo;
use tokio::sync::{oneshot, watch};

/// Locks are spread, so that waiting on one run does not slow another.
const SPREAD: usize = 16;

pub(crate) struct Waiters {
    history: Vec<Mutex<HashMap<RunNo, watch::Sender<i64>>>>,
    updates: Vec<Mutex<HashMap<RunNo, Vec<UpdateWaiter>>>>,
    queries: Vec<Mutex<HashMap<String, QueryWaiter>>>,
    hasher: RandomState,
}

struct UpdateWaiter {
    update_id: String,
    reply: oneshot::Sender<UpdateEvent>,
}

struct QueryWaiter {
    run: RunNo,
    reply: oneshot::Sender<QueryEvent>,
}

/// What becomes of a query that waits for a workflow task.
#[derive(Debug)]
pub(crate) enum QueryEvent {
    Answered(WorkflowQueryResult),
    /// No workflow task will come: dispatch it directly.
    Released,
    Failed(Error),
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self {
            history: (0..SPREAD).map(|_| Mutex::default()).collect(),
            updates: (0..SPREAD).map(|_| Mutex::default()).collect(),
            queries: (0..SPREAD).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    fn at<'a, T>(&self, locks: &'a [Mutex<T>], key: impl Hash) -> &'a Mutex<T> {
        &locks[self.hasher.hash_one(key) as usize % SPREAD]
    }

    /// Watches a run's next event id; -1 once the run was dropped from memory.
    pub(crate) fn watch_history(&self, run: RunNo) -> watch::Receiver<i64> {
        let mut map = self.at(&self.history, run).lock();
        map.entry(run).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// History has grown to `next_event_id`.
    pub(crate) fn history_grew(&self, run: RunNo, next_event_id: i64) {
        let mut map = self.at(&self.history, run).lock();
        if let Some(sender) = map.get(&run) {
            if sender.receiver_count() == 0 {
                map.remove(&run);
            } else {
                sender.send_replace(next_event_id);
            }
        }
    }

    pub(crate) fn wait_for_update(&self, run: RunNo, update_id: &str) -> oneshot::Receiver<UpdateEvent> {
        let (reply, receive) = oneshot::channel();
        let mut map = self.at(&self.updates, run).lock();
        let waiters = map.entry(run).or_default();
        waiters.retain(|w| !w.reply.is_closed());
        waiters.push(UpdateWaiter { update_id: update_id.to_owned(), reply });
        receive
    }

    pub(crate) fn update_event(&self, run: RunNo, update_id: &str, event: &UpdateEvent) {
        let mut map = self.at(&self.updates, run).lock();
        let Some(waiters) = map.get_mut(&run) else { return };
        for waiter in waiters.extract_if(.., |w| w.update_id == update_id) {
            // Whoever waited may have gone.
            let _ = waiter.reply.send(event.clone());
        }
        if waiters.is_empty() {
            map.remove(&run);
        }
    }

    pub(crate) fn wait_for_query(&self, run: RunNo, id: &str) -> oneshot::Receiver<QueryEvent> {
        let (reply, receive) = oneshot::channel();
        self.at(&self.queries, id).lock().insert(id.to_owned(), QueryWaiter { run, reply });
        receive
    }

    pub(crate) fn query_event(&self, id: &str, event: QueryEvent) {
        if let Some(waiter) = self.at(&self.queries, id).lock().remove(id) {
            let _ = waiter.reply.send(event);
        }
    }

    pub(crate) fn forget_query(&self, id: &str) {
        self.at(&self.queries, id).lock().remove(id);
    }

    /// The run's memory is gone: those who wait for what only memory knew ask again.
    pub(crate) fn run_dropped(&self, run: RunNo) {
        self.at(&self.updates, run).lock().remove(&run);
        for queries in &self.queries {
            queries.lock().retain(|_, w| w.run != run);
        }
    }

    /// The server stops: nobody waits any more.
    pub(crate) fn close(&self) {
        self.history.iter().for_each(|m| m.lock().clear());
        self.updates.iter().for_each(|m| m.lock().clear());
        self.queries.iter().for_each(|m| m.lock().clear());
    }
}
