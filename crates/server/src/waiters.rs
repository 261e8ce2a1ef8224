//! Callers that wait for something of a run: new history, an update's stage, a query's answer.
//!
//! They are told after the change is durable. Dropping a sender tells its waiters that the run was
//! reloaded, or that the server stops: they ask again. Whoever stops waiting leaves nothing behind.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use tidemill_engine::{Error, UpdateEvent};
use tidemill_proto::api::query::v1::WorkflowQueryResult;
use tidemill_store::RunNo;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, oneshot, watch};

/// Locks are spread, so that waiting on one run does not slow another.
const SPREAD: usize = 16;

pub(crate) struct Waiters(Arc<Lists>);

struct Lists {
    /// Who waits for any new event of a run.
    history: Vec<Mutex<Watched>>,
    /// Who waits for its end only: a busy run tells them once.
    closes: Vec<Mutex<Watched>>,
    updates: Vec<Mutex<HashMap<RunNo, Vec<UpdateWaiter>>>>,
    queries: Vec<Mutex<HashMap<String, QueryWaiter>>>,
    hasher: RandomState,
    next: AtomicU64,
    /// Set before the lists are cleared and read under their locks: nobody is added afterwards.
    closed: AtomicBool,
}

type Watched = HashMap<RunNo, watch::Sender<()>>;

struct UpdateWaiter {
    number: u64,
    update_id: String,
    reply: oneshot::Sender<UpdateEvent>,
}

struct QueryWaiter {
    run: RunNo,
    reply: oneshot::Sender<QueryEvent>,
}

/// Waits for a run's history to grow, or for its end.
pub(crate) struct HistoryWait {
    lists: Arc<Lists>,
    of: fn(&Lists) -> &[Mutex<Watched>],
    run: RunNo,
    /// Taken when the wait ends.
    receive: Option<watch::Receiver<()>>,
}

impl HistoryWait {
    /// Returns when what is waited for has happened since the last call, or the beginning; false when
    /// nobody will tell any more.
    pub(crate) async fn told(&mut self) -> bool {
        match &mut self.receive {
            Some(receive) => receive.changed().await.is_ok(),
            None => false,
        }
    }
}

impl Drop for HistoryWait {
    fn drop(&mut self) {
        let mut map = self.lists.at((self.of)(&self.lists), self.run).lock();
        self.receive = None;
        if map
            .get(&self.run)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            map.remove(&self.run);
        }
    }
}

/// Waits for the next event of an update.
pub(crate) struct UpdateWait {
    lists: Arc<Lists>,
    run: RunNo,
    number: u64,
    receive: oneshot::Receiver<UpdateEvent>,
}

impl UpdateWait {
    /// The event; `None` when nobody will tell any more.
    pub(crate) async fn event(&mut self) -> Option<UpdateEvent> {
        (&mut self.receive).await.ok()
    }
}

impl Drop for UpdateWait {
    fn drop(&mut self) {
        let mut map = self.lists.at(&self.lists.updates, self.run).lock();
        let Some(waiters) = map.get_mut(&self.run) else {
            return;
        };
        waiters.retain(|w| w.number != self.number);
        if waiters.is_empty() {
            map.remove(&self.run);
        }
    }
}

/// Waits for what becomes of a query.
pub(crate) struct QueryWait {
    lists: Arc<Lists>,
    id: String,
    receive: oneshot::Receiver<QueryEvent>,
}

impl QueryWait {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The event; `None` when nobody will tell any more.
    pub(crate) async fn event(&mut self) -> Option<QueryEvent> {
        (&mut self.receive).await.ok()
    }
}

impl Drop for QueryWait {
    fn drop(&mut self) {
        self.lists
            .at(&self.lists.queries, &self.id)
            .lock()
            .remove(&self.id);
    }
}

/// What becomes of a query that waits for a workflow task.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once and taken apart at once, never stored in numbers"
)]
pub(crate) enum QueryEvent {
    Answered(WorkflowQueryResult),
    /// No workflow task will come: dispatch it directly.
    Released,
    Failed(Error),
}

impl Lists {
    fn at<'a, T>(&self, locks: &'a [Mutex<T>], key: impl Hash) -> &'a Mutex<T> {
        &locks[self.hasher.hash_one(key) as usize % SPREAD]
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Lists {
            history: (0..SPREAD).map(|_| Mutex::default()).collect(),
            closes: (0..SPREAD).map(|_| Mutex::default()).collect(),
            updates: (0..SPREAD).map(|_| Mutex::default()).collect(),
            queries: (0..SPREAD).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }))
    }

    pub(crate) fn watch_history(&self, run: RunNo) -> HistoryWait {
        self.watch(run, |lists| &lists.history)
    }

    pub(crate) fn watch_close(&self, run: RunNo) -> HistoryWait {
        self.watch(run, |lists| &lists.closes)
    }

    fn watch(&self, run: RunNo, of: fn(&Lists) -> &[Mutex<Watched>]) -> HistoryWait {
        let lists = &self.0;
        let mut map = lists.at(of(lists), run).lock();
        let receive = if lists.is_closed() {
            None
        } else {
            Some(
                map.entry(run)
                    .or_insert_with(|| watch::channel(()).0)
                    .subscribe(),
            )
        };
        HistoryWait {
            lists: lists.clone(),
            of,
            run,
            receive,
        }
    }

    /// A run's history has grown. `closed`: to its end, or the run was deleted.
    pub(crate) fn history_grew(&self, run: RunNo, closed: bool) {
        let tell = |watched: &[Mutex<Watched>]| {
            if let Some(sender) = self.0.at(watched, run).lock().get(&run) {
                sender.send_replace(());
            }
        };
        tell(&self.0.history);
        if closed {
            tell(&self.0.closes);
        }
    }

    pub(crate) fn wait_for_update(&self, run: RunNo, update_id: &str) -> UpdateWait {
        let lists = &self.0;
        let (reply, receive) = oneshot::channel();
        let number = lists.next.fetch_add(1, Ordering::Relaxed);
        let mut map = lists.at(&lists.updates, run).lock();
        if !lists.is_closed() {
            let waiter = UpdateWaiter {
                number,
                update_id: update_id.to_owned(),
                reply,
            };
            map.entry(run).or_default().push(waiter);
        }
        UpdateWait {
            lists: lists.clone(),
            run,
            number,
            receive,
        }
    }

    pub(crate) fn update_event(&self, run: RunNo, update_id: &str, event: &UpdateEvent) {
        let mut map = self.0.at(&self.0.updates, run).lock();
        let Some(waiters) = map.get_mut(&run) else {
            return;
        };
        for waiter in waiters.extract_if(.., |w| w.update_id == update_id) {
            // Whoever waited may have gone.
            let _ = waiter.reply.send(event.clone());
        }
        if waiters.is_empty() {
            map.remove(&run);
        }
    }

    pub(crate) fn wait_for_query(&self, run: RunNo) -> QueryWait {
        let lists = &self.0;
        let id = uuid::Uuid::new_v4().to_string();
        let (reply, receive) = oneshot::channel();
        let mut map = lists.at(&lists.queries, &id).lock();
        if !lists.is_closed() {
            map.insert(id.clone(), QueryWaiter { run, reply });
        }
        drop(map);
        QueryWait {
            lists: lists.clone(),
            id,
            receive,
        }
    }

    /// Whether a query is waited for still: not if its run was reloaded since.
    pub(crate) fn waits_for_query(&self, id: &str) -> bool {
        self.0.at(&self.0.queries, id).lock().contains_key(id)
    }

    pub(crate) fn query_event(&self, id: &str, event: QueryEvent) {
        if let Some(waiter) = self.0.at(&self.0.queries, id).lock().remove(id) {
            let _ = waiter.reply.send(event);
        }
    }

    /// The run's memory is gone: those who wait for what only memory knew ask again.
    pub(crate) fn run_dropped(&self, run: RunNo) {
        self.0.at(&self.0.updates, run).lock().remove(&run);
        for queries in &self.0.queries {
            queries.lock().retain(|_, w| w.run != run);
        }
    }

    /// The server stops: nobody waits any more.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.history.iter().for_each(|m| m.lock().clear());
        self.0.closes.iter().for_each(|m| m.lock().clear());
        self.0.updates.iter().for_each(|m| m.lock().clear());
        self.0.queries.iter().for_each(|m| m.lock().clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(waiters: &Waiters) -> usize {
        let lists = &waiters.0;
        let watched = lists.history.iter().chain(&lists.closes);
        let history: usize = watched.map(|m| m.lock().len()).sum();
        let updates: usize = lists.updates.iter().map(|m| m.lock().len()).sum();
        let queries: usize = lists.queries.iter().map(|m| m.lock().len()).sum();
        history + updates + queries
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_nothing_behind() {
        let waiters = Waiters::new();
        let run = RunNo(1);
        let waits = (
            waiters.watch_history(run),
            waiters.watch_history(run),
            waiters.wait_for_update(run, "a"),
            waiters.wait_for_update(run, "b"),
            waiters.wait_for_query(run),
            waiters.watch_close(run),
        );
        assert_eq!(left(&waiters), 4);
        drop(waits.0);
        drop(waits.2);
        assert_eq!(left(&waiters), 4, "others wait still");
        let (mut history, mut update, query, mut close) = (waits.1, waits.3, waits.4, waits.5);
        waiters.history_grew(run, false);
        assert!(history.told().await);
        tokio::select! {
            biased;
            _ = close.told() => panic!("the run is open"),
            () = std::future::ready(()) => {}
        }
        waiters.history_grew(run, true);
        assert!(history.told().await && close.told().await);
        waiters.update_event(run, "a", &UpdateEvent::Moved);
        waiters.update_event(run, "b", &UpdateEvent::Accepted);
        assert_eq!(update.event().await, Some(UpdateEvent::Accepted));
        drop((history, update, query, close));
        assert_eq!(left(&waiters), 0);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_run_that_was_dropped_or_a_server_that_stops() {
        for stop in [false, true] {
            let waiters = Waiters::new();
            let run = RunNo(1);
            let mut update = waiters.wait_for_update(run, "a");
            let mut query = waiters.wait_for_query(run);
            let mut history = waiters.watch_history(run);
            let mut close = waiters.watch_close(run);
            if stop {
                waiters.close();
                assert!(!history.told().await);
                assert!(!close.told().await);
                assert!(!waiters.watch_history(run).told().await);
                assert!(waiters.wait_for_update(run, "a").event().await.is_none());
                assert!(waiters.wait_for_query(run).event().await.is_none());
            } else {
                waiters.run_dropped(run);
            }
            assert!(update.event().await.is_none());
            assert!(query.event().await.is_none());
        }
    }
}
