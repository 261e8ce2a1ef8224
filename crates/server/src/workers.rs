//! The inventory of workers: what each said in its last heartbeat (contract 8.6).
//!
//! In memory only, and bounded: a worker that is silent for five minutes is forgotten, and when
//! heartbeats of too many arrive, those silent for longest go first. After a restart of the server
//! the inventory fills again with the next heartbeats.
//!
//! A worker that went silent is not what it last said it was. The protocol has no status for that,
//! so one that was running is shown as [`WorkerStatus::Unspecified`] from two heartbeat intervals
//! on: nobody knows. `Shutdown` stays the word for workers that took their leave.
//!
//! Not here: who polls a queue (that is matching's, from the polls themselves), and commands to
//! workers.

mod query;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tidemill_engine::time;
use tidemill_proto::api::enums::v1::WorkerStatus;
use tidemill_proto::api::worker::v1::WorkerHeartbeat;
use tidemill_store::NamespaceId;
use tokio::time::Instant;

pub(crate) use query::Query;

/// How long a worker is listed after its last heartbeat.
const TTL: Duration = Duration::from_secs(300);
/// The interval of a worker that has not told it yet; the SDKs' default.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
/// What is believed of intervals that workers tell. SDKs take one second to one minute.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Silent for so many intervals, a worker is taken for gone.
const INTERVALS_MISSED: u32 = 2;
/// All heartbeats together. One has about a kilobyte.
const BYTES_MAX: usize = 64 << 20;
/// What a worker costs beside its encoded heartbeat, roughly.
const WORKER_BYTES: usize = 512;

/// A worker as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Worker {
    /// As the worker sent it, but for its status.
    pub(crate) heartbeat: Arc<WorkerHeartbeat>,
    pub(crate) status: WorkerStatus,
}

#[derive(Debug, Default)]
pub(crate) struct Workers {
    inventory: Mutex<Inventory>,
}

type Key = (NamespaceId, Arc<str>);

#[derive(Debug, Default)]
struct Inventory {
    workers: BTreeMap<Key, Entry>,
    /// The same workers in the order of their last heartbeats.
    by_age: BTreeMap<u64, Key>,
    next_age: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    heartbeat: Arc<WorkerHeartbeat>,
    status: WorkerStatus,
    seen: Instant,
    /// What the worker told of its interval with its last heartbeat and the one before.
    intervals: [Option<Duration>; 2],
    age: u64,
    bytes: usize,
}

impl Workers {
    /// Takes heartbeats in; one without an instance key says nothing about anybody.
    pub(crate) fn record(
        &self,
        namespace: NamespaceId,
        heartbeats: Vec<WorkerHeartbeat>,
        now: Instant,
    ) {
        let mut inventory = self.inventory.lock();
        for heartbeat in heartbeats {
            let status = heartbeat.status();
            inventory.put(namespace, heartbeat, status, now);
        }
        inventory.forget(now);
    }

    /// A worker takes its leave, perhaps with a last heartbeat. A worker that says that it is still
    /// draining is believed; it counts as shut down once it is silent.
    pub(crate) fn shut_down(
        &self,
        namespace: NamespaceId,
        key: &str,
        last: Option<WorkerHeartbeat>,
        now: Instant,
    ) {
        let mut inventory = self.inventory.lock();
        match last {
            Some(mut heartbeat) => {
                if heartbeat.worker_instance_key.is_empty() {
                    key.clone_into(&mut heartbeat.worker_instance_key);
                }
                let status = match heartbeat.status() {
                    WorkerStatus::ShuttingDown => WorkerStatus::ShuttingDown,
                    _ => WorkerStatus::Shutdown,
                };
                inventory.put(namespace, heartbeat, status, now);
            }
            None => {
                if let Some(entry) = inventory.workers.get_mut(&(namespace, Arc::from(key))) {
                    entry.status = WorkerStatus::Shutdown;
                }
            }
        }
        inventory.forget(now);
    }

    pub(crate) fn get(&self, namespace: NamespaceId, key: &str, now: Instant) -> Option<Worker> {
        let inventory = self.inventory.lock();
        let entry = inventory.workers.get(&(namespace, Arc::from(key)))?;
        entry.is_known(now).then(|| entry.shown(now))
    }

    /// At most `limit` workers that the query means, in the order of their keys, from the one after
    /// `after` on.
    pub(crate) fn list(
        &self,
        namespace: NamespaceId,
        query: &Query,
        after: Option<&str>,
        limit: usize,
        now: Instant,
    ) -> Vec<Worker> {
        let mut workers = self.all(namespace, after, now);
        workers.retain(|worker| query.matches(worker));
        workers.truncate(limit);
        workers
    }

    pub(crate) fn count(&self, namespace: NamespaceId, query: &Query, now: Instant) -> usize {
        self.all(namespace, None, now)
            .iter()
            .filter(|worker| query.matches(worker))
            .count()
    }

    /// A copy, so that no query is evaluated under the lock that heartbeats need.
    fn all(&self, namespace: NamespaceId, after: Option<&str>, now: Instant) -> Vec<Worker> {
        let first = match after {
            Some(key) => Bound::Excluded((namespace, Arc::from(key))),
            None => Bound::Included((namespace, Arc::from(""))),
        };
        let inventory = self.inventory.lock();
        inventory
            .workers
            .range((first, Bound::Unbounded))
            .take_while(|((of, _), _)| *of == namespace)
            .filter(|(_, entry)| entry.is_known(now))
            .map(|(_, entry)| entry.shown(now))
            .collect()
    }
}

impl Inventory {
    fn put(
        &mut self,
        namespace: NamespaceId,
        heartbeat: WorkerHeartbeat,
        status: WorkerStatus,
        now: Instant,
    ) {
        if heartbeat.worker_instance_key.is_empty() {
            return;
        }
        let key: Key = (namespace, heartbeat.worker_instance_key.as_str().into());
        let before = self.remove(&key).and_then(|entry| entry.intervals[0]);
        let interval = time::span_opt(&heartbeat.elapsed_since_last_heartbeat);
        let age = self.next_age;
        self.next_age += 1;
        let bytes = heartbeat.encoded_len() + WORKER_BYTES;
        self.bytes += bytes;
        self.by_age.insert(age, key.clone());
        let entry = Entry {
            heartbeat: Arc::new(heartbeat),
            status,
            seen: now,
            intervals: [interval, before],
            age,
            bytes,
        };
        self.workers.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.workers.remove(key)?;
        self.by_age.remove(&entry.age);
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// Forgets who was silent for too long, and more of those silent for longest while there are
    /// too many.
    fn forget(&mut self, now: Instant) {
        while let Some(key) = self.by_age.values().next() {
            let known = self
                .workers
                .get(key)
                .is_some_and(|entry| entry.is_known(now));
            if known && self.bytes <= BYTES_MAX {
                return;
            }
            let key = key.clone();
            self.remove(&key);
        }
    }
}

impl Entry {
    fn is_known(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < TTL
    }

    /// The larger of the last two: one heartbeat out of turn does not make the next one late.
    fn interval(&self) -> Duration {
        let told = self.intervals.iter().flatten().max();
        told.map_or(INTERVAL_DEFAULT, |interval| {
            (*interval).clamp(INTERVAL_MIN, INTERVAL_MAX)
        })
    }

    fn shown(&self, now: Instant) -> Worker {
        let silent = now.saturating_duration_since(self.seen) > self.interval() * INTERVALS_MISSED;
        let status = match self.status {
            WorkerStatus::Running if silent => WorkerStatus::Unspecified,
            WorkerStatus::ShuttingDown if silent => WorkerStatus::Shutdown,
            status => status,
        };
        Worker {
            heartbeat: self.heartbeat.clone(),
            status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WorkerStatus::{Running, Shutdown, ShuttingDown, Unspecified};

    const NAMESPACE: NamespaceId = [1; 16];

    fn beat(key: &str, status: WorkerStatus, interval_seconds: u64) -> WorkerHeartbeat {
        let interval = Duration::from_secs(interval_seconds);
        WorkerHeartbeat {
            worker_instance_key: key.into(),
            status: status as i32,
            elapsed_since_last_heartbeat: (interval_seconds > 0)
                .then(|| time::proto_span(interval))
                .flatten(),
            ..Default::default()
        }
    }

    fn keys(workers: &[Worker]) -> Vec<&str> {
        workers
            .iter()
            .map(|worker| worker.heartbeat.worker_instance_key.as_str())
            .collect()
    }

    fn list(workers: &Workers, query: &str, now: Instant) -> Vec<Worker> {
        workers.list(
            NAMESPACE,
            &Query::parse(query).unwrap(),
            None,
            usize::MAX,
            now,
        )
    }

    #[test]
    fn a_silent_worker_is_shown_as_such() {
        // (said, with the intervals of its heartbeats, silent for, shown as)
        let rows: &[(WorkerStatus, &[u64], u64, WorkerStatus)] = &[
            (Running, &[0], 120, Running),
            (Running, &[0], 121, Unspecified),
            (Running, &[10], 20, Running),
            (Running, &[10], 21, Unspecified),
            // One out of turn, then two.
            (Running, &[10, 0], 20, Running),
            (Running, &[10, 1], 20, Running),
            (Running, &[10, 1], 21, Unspecified),
            (Running, &[10, 1, 1], 3, Unspecified),
            (Running, &[100_000], 121, Unspecified),
            (ShuttingDown, &[10], 20, ShuttingDown),
            (ShuttingDown, &[10], 21, Shutdown),
            (Shutdown, &[10], 21, Shutdown),
            (Unspecified, &[10], 1, Unspecified),
        ];
        for (said, intervals, silent, shown) in rows {
            let workers = Workers::default();
            let start = Instant::now();
            for interval in *intervals {
                workers.record(NAMESPACE, vec![beat("a", *said, *interval)], start);
            }
            let worker = workers
                .get(NAMESPACE, "a", start + Duration::from_secs(*silent))
                .unwrap();
            assert_eq!(worker.status, *shown, "{said:?} {intervals:?} {silent}");
            workers.record(
                NAMESPACE,
                vec![beat("a", Running, 10)],
                start + Duration::from_secs(250),
            );
            let worker = workers
                .get(NAMESPACE, "a", start + Duration::from_secs(250))
                .unwrap();
            assert_eq!(worker.status, Running);
        }
    }

    #[test]
    fn workers_are_forgotten_five_minutes_after_their_last_heartbeat() {
        let workers = Workers::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        workers.record(
            NAMESPACE,
            vec![beat("a", Running, 0), beat("b", Running, 0)],
            start,
        );
        workers.record(NAMESPACE, vec![beat("a", Running, 60)], after(60));
        assert_eq!(keys(&list(&workers, "", after(299))), ["a", "b"]);
        assert_eq!(keys(&list(&workers, "", after(300))), ["a"]);
        assert!(workers.get(NAMESPACE, "b", after(300)).is_none());
        assert_eq!(workers.inventory.lock().workers.len(), 2);
        workers.record(NAMESPACE, Vec::new(), after(300));
        assert_eq!(workers.inventory.lock().workers.len(), 1);
        workers.record(NAMESPACE, Vec::new(), after(360));
        let inventory = workers.inventory.lock();
        assert_eq!(
            (
                inventory.workers.len(),
                inventory.by_age.len(),
                inventory.bytes
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn memory_is_bounded_and_the_longest_silent_go_first() {
        let workers = Workers::default();
        let now = Instant::now();
        let large = |key: String| WorkerHeartbeat {
            sdk_name: "x".repeat(1 << 20),
            ..beat(&key, Running, 0)
        };
        workers.record(
            NAMESPACE,
            vec![large("first".into()), large("second".into())],
            now,
        );
        for n in 0..100 {
            workers.record(NAMESPACE, vec![large(format!("worker-{n}"))], now);
            workers.record(NAMESPACE, vec![large("first".into())], now);
        }
        assert!(workers.get(NAMESPACE, "first", now).is_some());
        assert!(workers.get(NAMESPACE, "second", now).is_none());
        let inventory = workers.inventory.lock();
        assert!(inventory.bytes <= BYTES_MAX);
        assert!(inventory.workers.len() > 60);
    }

    #[test]
    fn a_list_is_read_in_pages_and_by_namespace() {
        let workers = Workers::default();
        let now = Instant::now();
        let beats = ["d", "b", "a", "c", ""].map(|key| beat(key, Running, 0));
        workers.record(NAMESPACE, beats.to_vec(), now);
        workers.record([0; 16], beats.to_vec(), now);
        workers.record([2; 16], beats.to_vec(), now);
        let query = Query::parse("WorkerInstanceKey != 'b'").unwrap();
        let page = |after| workers.list(NAMESPACE, &query, after, 2, now);
        assert_eq!(keys(&page(None)), ["a", "c"]);
        assert_eq!(keys(&page(Some("c"))), ["d"]);
        assert_eq!(keys(&page(Some("d"))), [""; 0]);
        assert_eq!(workers.count(NAMESPACE, &query, now), 3);
        assert_eq!(workers.count([9; 16], &query, now), 0);
    }

    #[test]
    fn a_worker_that_takes_its_leave_is_not_running() {
        // (its last heartbeat, shown as)
        let rows = [
            (None, Shutdown),
            (Some(Running), Shutdown),
            (Some(Unspecified), Shutdown),
            (Some(ShuttingDown), ShuttingDown),
            (Some(Shutdown), Shutdown),
        ];
        for (last, shown) in rows {
            let workers = Workers::default();
            let now = Instant::now();
            workers.record(NAMESPACE, vec![beat("a", Running, 10)], now);
            // The heartbeat may leave its key to the request.
            workers.shut_down(NAMESPACE, "a", last.map(|status| beat("", status, 10)), now);
            assert_eq!(
                workers.get(NAMESPACE, "a", now).unwrap().status,
                shown,
                "{last:?}"
            );
            assert!(list(&workers, "WorkerStatus = 'Running'", now).is_empty());
        }
        let workers = Workers::default();
        workers.shut_down(NAMESPACE, "unknown", None, Instant::now());
        workers.shut_down(NAMESPACE, "", Some(beat("", Running, 0)), Instant::now());
        assert!(list(&workers, "", Instant::now()).is_empty());
    }
}
