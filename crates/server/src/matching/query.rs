//! Direct queries: offered to a poller, answered by the worker through its token (contract 6.1).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tidemill_proto::api::query::v1::{WorkflowQuery, WorkflowQueryResult};
use tidemill_store::{QueueName, RunIdentity};
use tokio::time::Instant;

use super::Matching;
use super::offer::{QueryTask, Transient};
use super::queue::Queue;
use crate::sync::{Mutex, oneshot};

/// Names a query in a worker's token. Random, so that a token of an earlier process, or a made-up
/// one, answers nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u128);

/// A query to be dispatched.
#[derive(Clone, Debug)]
pub struct QueryRequest {
    pub owner: RunIdentity,
    /// The workflow's priority, 1 (first) to 5.
    pub priority: u8,
    pub query: WorkflowQuery,
}

/// Why a query was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Nobody has polled the queue lately. Said about a second before the deadline.
    #[error("no poller seen for task queue recently, worker may be down")]
    NoPoller,
    #[error("query timed out")]
    TimedOut,
    /// The sticky queue was unloaded: try the normal queue.
    #[error("task queue was unloaded")]
    Unloaded,
    #[error("server is stopping")]
    Stopping,
}

/// How long before the deadline `NoPoller` is said.
const EARLY: Duration = Duration::from_secs(1);

type Answer = Result<WorkflowQueryResult, QueryError>;

/// The queries that wait for their answers, in shards.
pub(super) struct Queries {
    shards: Vec<Mutex<HashMap<QueryId, oneshot::Sender<Answer>>>>,
    hasher: RandomState,
}

impl Queries {
    pub(super) fn new(shards: usize) -> Self {
        let shards = (0..shards.max(1)).map(|_| Mutex::default()).collect();
        Self {
            shards,
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, id: QueryId) -> &Mutex<HashMap<QueryId, oneshot::Sender<Answer>>> {
        &self.shards[self.hasher.hash_one(id) as usize % self.shards.len()]
    }

    fn register(&self, id: QueryId) -> oneshot::Receiver<Answer> {
        let (send, receive) = oneshot::channel();
        self.shard(id).lock().insert(id, send);
        receive
    }

    /// False when the query is unknown, answered or given up.
    pub(super) fn answer(&self, id: QueryId, answer: Answer) -> bool {
        let sender = self.shard(id).lock().remove(&id);
        sender.is_some_and(|sender| sender.send(answer).is_ok())
    }

    fn forget(&self, id: QueryId) {
        self.shard(id).lock().remove(&id);
    }

    /// Ends all of them.
    pub(super) fn stop(&self) {
        for shard in &self.shards {
            for (_, sender) in shard.lock().drain() {
                // Whoever asked may have gone already.
                let _ = sender.send(Err(QueryError::Stopping));
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// Takes a query back when its caller has gone or gives up.
struct Asked<'a> {
    matching: &'a Matching,
    queue: Arc<Queue>,
    id: QueryId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.matching.queries().forget(self.id);
        self.queue.lock().transients.remove_query(self.id);
    }
}

impl Matching {
    /// Offers the query to a poller of the queue and waits for its answer until the deadline.
    /// Dropping the future withdraws the query.
    pub async fn dispatch_query(
        &self,
        queue: &QueueName,
        request: QueryRequest,
        deadline: Instant,
    ) -> Result<WorkflowQueryResult, QueryError> {
        let id = QueryId(uuid::Uuid::new_v4().as_u128());
        let mut answer = self.queries().register(id);
        let QueryRequest {
            owner,
            priority,
            query,
        } = request;
        let task = QueryTask {
            id,
            owner,
            priority,
            query,
            deadline,
        };
        let (queue, closed) = self.with_queue(queue, |queue, s| {
            queue.add_transient(s, Transient::Query(task));
            (Arc::clone(queue), s.closed)
        });
        let asked = Asked {
            matching: self,
            queue,
            id,
        };
        if closed {
            return Err(QueryError::Stopping);
        }
        let early = deadline.checked_sub(EARLY).unwrap_or(deadline);
        if let Ok(answered) = crate::sync::timeout_at(early, &mut answer).await {
            return answered.unwrap_or(Err(QueryError::Stopping));
        }
        if !asked.has_chance() {
            return Err(QueryError::NoPoller);
        }
        match crate::sync::timeout_at(deadline, &mut answer).await {
            Ok(answered) => answered.unwrap_or(Err(QueryError::Stopping)),
            Err(_) => Err(QueryError::TimedOut),
        }
    }

    /// A worker answered a query. False when nobody waits for the answer any more, or the id is
    /// unknown: NotFound for the worker.
    pub fn answer_query(&self, id: QueryId, result: WorkflowQueryResult) -> bool {
        self.queries().answer(id, Ok(result))
    }
}

impl Asked<'_> {
    /// True when a worker has the query, or one was there lately and may come back.
    fn has_chance(&self) -> bool {
        let window = self.queue.env.config.query_poller_window;
        let s = self.queue.lock();
        s.pollers.present(Instant::now(), window) || !s.transients.holds_query(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Rig, queue, run};
    use super::super::{Handout, Offer};
    use super::*;

    fn request(kind: &str) -> QueryRequest {
        let query = WorkflowQuery {
            query_type: kind.into(),
            ..Default::default()
        };
        QueryRequest {
            owner: run(1),
            priority: 3,
            query,
        }
    }

    fn id_of(handout: &Handout) -> QueryId {
        match handout.offer() {
            Offer::Query(task) => task.id,
            other => panic!("{other:?}"),
        }
    }

    fn answered() -> WorkflowQueryResult {
        WorkflowQueryResult {
            result_type: 1,
            ..Default::default()
        }
    }

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_answers_once() {
        let rig = Rig::new();
        let q = queue("q");
        let ask = rig.matching.dispatch_query(&q, request("state"), after(10));
        let work = async {
            let handout = rig.poll("q", 5).await.unwrap();
            let id = id_of(&handout);
            handout.finish();
            assert!(rig.matching.answer_query(id, answered()));
            assert!(!rig.matching.answer_query(id, answered()));
        };
        let (answer, ()) = tokio::join!(ask, work);
        assert_eq!(answer, Ok(answered()));
        assert_eq!(rig.matching.queries().len(), 0);
        assert!(!rig.matching.answer_query(QueryId(7), answered()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_poller_the_answer_comes_a_second_early() {
        let rig = Rig::new();
        let begun = Instant::now();
        let answer = rig
            .matching
            .dispatch_query(&queue("q"), request("state"), after(10))
            .await;
        assert_eq!(answer, Err(QueryError::NoPoller));
        assert_eq!(begun.elapsed(), Duration::from_secs(9));
        assert_eq!(rig.matching.queries().len(), 0);
        assert!(
            rig.poll("q", 1).await.is_none(),
            "a query given up is not handed out"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_poller_that_was_there_lately_gives_it_the_whole_time() {
        // (poll ended this long before the query, outcome)
        for (gone, expected) in [(5, QueryError::TimedOut), (15, QueryError::NoPoller)] {
            let rig = Rig::new();
            assert!(rig.poll("q", 1).await.is_none());
            tokio::time::sleep(Duration::from_secs(gone)).await;
            let answer = rig
                .matching
                .dispatch_query(&queue("q"), request("s"), after(10))
                .await;
            assert_eq!(answer, Err(expected), "gone for {gone} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_takes_the_query_and_dies_costs_the_whole_time() {
        let rig = Rig::new();
        let q = queue("q");
        let begun = Instant::now();
        let ask = rig.matching.dispatch_query(&q, request("state"), after(60));
        let work = async { rig.poll("q", 5).await.unwrap().finish() };
        let (answer, ()) = tokio::join!(ask, work);
        assert_eq!(answer, Err(QueryError::TimedOut));
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_query_is_forgotten() {
        let rig = Rig::new();
        let q = queue("q");
        let ask = rig.matching.dispatch_query(&q, request("state"), after(10));
        assert!(
            tokio::time::timeout(Duration::from_secs(2), ask)
                .await
                .is_err()
        );
        assert_eq!(rig.matching.queries().len(), 0);
        assert!(rig.poll("q", 1).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_that_did_not_reach_its_worker_goes_to_the_next() {
        let rig = Rig::new();
        let q = queue("q");
        let ask = rig.matching.dispatch_query(&q, request("state"), after(10));
        let work = async {
            let first = rig.poll("q", 5).await.unwrap();
            let id = id_of(&first);
            drop(first);
            let second = rig.poll("q", 5).await.unwrap();
            assert_eq!(id_of(&second), id);
            second.finish();
            rig.matching.answer_query(id, answered());
        };
        let (answer, ()) = tokio::join!(ask, work);
        assert_eq!(answer, Ok(answered()));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_and_unload_end_queries_at_once() {
        for unload in [true, false] {
            let rig = Rig::new();
            let q = queue("q");
            let begun = Instant::now();
            let ask = rig.matching.dispatch_query(&q, request("state"), after(10));
            let end = async {
                if unload {
                    drop(rig.matching.unload(&q))
                } else {
                    rig.matching.shutdown()
                }
            };
            let (answer, ()) = tokio::join!(ask, end);
            let expected = if unload {
                QueryError::Unloaded
            } else {
                QueryError::Stopping
            };
            assert_eq!(answer, Err(expected));
            assert_eq!(begun.elapsed(), Duration::ZERO);
        }
        let rig = Rig::new();
        rig.matching.shutdown();
        let answer = rig
            .matching
            .dispatch_query(&queue("q"), request("s"), after(10))
            .await;
        assert_eq!(answer, Err(QueryError::Stopping));
    }
}
