//! What can be offered to a worker, and the offers that are never in the store.

use std::collections::BTreeMap;

use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_store::{RunIdentity, StoredTask};
use tokio::time::Instant;

use super::query::QueryId;

/// One thing that a poll can bring.
#[derive(Clone, Debug, PartialEq)]
pub enum Offer {
    /// A workflow or activity task with a durable row.
    Task(StoredTask),
    /// A speculative workflow task: it exists in memory only (contract 1.11).
    Speculative(SpeculativeTask),
    /// A direct query: no workflow task, no events (contract 6.1).
    Query(QueryTask),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SpeculativeTask {
    pub owner: RunIdentity,
    pub scheduled_event_id: i64,
    /// Distinguishes successive tasks of one scheduled event id.
    pub stamp: i64,
    /// 1 (first) to 5.
    pub priority: u8,
    /// Its schedule-to-start timeout: after it, the task is forgotten. The run's own timer deals
    /// with the consequences.
    pub deadline: Instant,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueryTask {
    /// Goes into the task token; the worker's answer is matched by it.
    pub id: QueryId,
    pub owner: RunIdentity,
    /// 1 (first) to 5.
    pub priority: u8,
    pub query: WorkflowQuery,
    pub deadline: Instant,
}

/// An offer that lives in memory only.
#[derive(Clone, Debug)]
pub(super) enum Transient {
    Speculative(SpeculativeTask),
    Query(QueryTask),
}

impl Transient {
    pub(super) fn priority(&self) -> u8 {
        match self {
            Self::Speculative(task) => task.priority,
            Self::Query(task) => task.priority,
        }
    }

    fn deadline(&self) -> Instant {
        match self {
            Self::Speculative(task) => task.deadline,
            Self::Query(task) => task.deadline,
        }
    }
}

impl From<Transient> for Offer {
    fn from(transient: Transient) -> Self {
        match transient {
            Transient::Speculative(task) => Offer::Speculative(task),
            Transient::Query(task) => Offer::Query(task),
        }
    }
}

/// Transient offers in (priority, arrival) order. Expired ones are dropped when they are met, and
/// all of them whenever the collection has doubled.
#[derive(Debug, Default)]
pub(super) struct Transients {
    offers: BTreeMap<(u8, i64), Transient>,
    next: i64,
    front: i64,
    purge_at: usize,
}

const PURGE_MIN: usize = 32;

impl Transients {
    pub(super) fn push(&mut self, offer: Transient, now: Instant) {
        self.next += 1;
        self.offers.insert((offer.priority(), self.next), offer);
        if self.offers.len() > self.purge_at.max(PURGE_MIN) {
            self.purge(now);
            self.purge_at = self.offers.len() * 2;
        }
    }

    /// Puts an offer before all others of its priority.
    pub(super) fn push_front(&mut self, offer: Transient) {
        self.front -= 1;
        self.offers.insert((offer.priority(), self.front), offer);
    }

    /// The priority of the next offer that has not expired.
    pub(super) fn first(&mut self, now: Instant) -> Option<u8> {
        while let Some(entry) = self.offers.first_entry() {
            if entry.get().deadline() > now {
                return Some(entry.key().0);
            }
            entry.remove();
        }
        None
    }

    pub(super) fn pop(&mut self) -> Option<Transient> {
        self.offers.pop_first().map(|(_, offer)| offer)
    }

    pub(super) fn purge(&mut self, now: Instant) {
        self.offers.retain(|_, offer| offer.deadline() > now);
    }

    fn find_query(&self, id: QueryId) -> Option<(u8, i64)> {
        let is_it = |offer: &Transient| matches!(offer, Transient::Query(task) if task.id == id);
        self.offers
            .iter()
            .find(|(_, offer)| is_it(offer))
            .map(|(key, _)| *key)
    }

    /// True when the query waits here.
    pub(super) fn holds_query(&self, id: QueryId) -> bool {
        self.find_query(id).is_some()
    }

    pub(super) fn remove_query(&mut self, id: QueryId) {
        if let Some(key) = self.find_query(id) {
            self.offers.remove(&key);
        }
    }

    pub(super) fn drain(&mut self) -> Vec<Transient> {
        std::mem::take(&mut self.offers).into_values().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::run;
    use super::*;

    fn offer(n: i64, priority: u8, deadline: Instant) -> Transient {
        Transient::Speculative(SpeculativeTask {
            owner: run(n),
            scheduled_event_id: n,
            stamp: 0,
            priority,
            deadline,
        })
    }

    fn id(offer: Option<Transient>) -> i64 {
        match offer {
            Some(Transient::Speculative(task)) => task.scheduled_event_id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn order_is_priority_then_arrival_and_returned_ones_go_first() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut offers = Transients::default();
        for (n, priority) in [(1, 3), (2, 3), (3, 1), (4, 5)] {
            offers.push(offer(n, priority, later), now);
        }
        assert_eq!(offers.first(now), Some(1));
        assert_eq!(id(offers.pop()), 3);
        let first = offers.pop().unwrap();
        assert_eq!(id(Some(first.clone())), 1);
        offers.push_front(first);
        assert_eq!(id(offers.pop()), 1);
        assert_eq!(id(offers.pop()), 2);
        assert_eq!(id(offers.pop()), 4);
        assert!(offers.is_empty());
    }

    #[test]
    fn expired_offers_are_skipped_and_do_not_pile_up() {
        let start = Instant::now();
        let mut offers = Transients::default();
        for n in 0..10_000 {
            let now = start + Duration::from_secs(n as u64);
            offers.push(offer(n, 3, now + Duration::from_secs(5)), now);
        }
        assert!(offers.offers.len() <= 64);
        let now = start + Duration::from_secs(10_000);
        assert_eq!(offers.first(now), Some(3));
        assert_eq!(id(offers.pop()), 9_996);
        assert_eq!(offers.first(now + Duration::from_secs(60)), None);
        assert!(offers.is_empty());
    }
}
