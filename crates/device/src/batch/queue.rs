//! The items that wait, by priority and age.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// Priorities 1 to 5.
pub(super) const PRIORITIES: usize = 5;

/// What waits. `T` is whatever its owner needs to run and answer it.
pub(super) struct Queue<T> {
    /// By priority, the most urgent first; in each the oldest first.
    classes: [BTreeMap<u64, Queued<T>>; PRIORITIES],
    /// Of those that have a deadline.
    deadlines: BTreeSet<(Instant, Place)>,
    next: u64,
    cost: u128,
    /// No item costs more. It is exact while nothing leaves.
    dearest: u64,
}

pub(super) struct Queued<T> {
    pub(super) cost: u64,
    pub(super) since: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) value: T,
}

/// Where an item is in the queue. The order is that of urgency, then age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Index of the priority.
    pub(super) class: u8,
    /// Later items have higher ones, whatever their priority.
    pub(super) number: u64,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            classes: std::array::from_fn(|_| BTreeMap::new()),
            deadlines: BTreeSet::new(),
            next: 0,
            cost: 0,
            dearest: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.classes.iter().map(BTreeMap::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.classes.iter().all(BTreeMap::is_empty)
    }

    /// The sum of all costs.
    pub(super) fn cost(&self) -> u128 {
        self.cost
    }

    /// No item costs more than this.
    pub(super) fn dearest(&self) -> u64 {
        self.dearest
    }

    /// `priority` is 1 to 5.
    pub(super) fn push(&mut self, priority: u8, item: Queued<T>) -> Place {
        let place = Place {
            class: priority - 1,
            number: self.next,
        };
        self.next += 1;
        self.cost += u128::from(item.cost);
        self.dearest = self.dearest.max(item.cost);
        if let Some(deadline) = item.deadline {
            self.deadlines.insert((deadline, place));
        }
        self.classes[usize::from(place.class)].insert(place.number, item);
        place
    }

    /// `None` when it has left.
    pub(super) fn remove(&mut self, place: Place) -> Option<Queued<T>> {
        let item = self.classes[usize::from(place.class)].remove(&place.number)?;
        if let Some(deadline) = item.deadline {
            self.deadlines.remove(&(deadline, place));
        }
        self.cost -= u128::from(item.cost);
        if self.is_empty() {
            self.dearest = 0;
        }
        Some(item)
    }

    /// Everything, the most urgent first.
    pub(super) fn places(&self) -> Vec<Place> {
        let classes = (0..PRIORITIES as u8).zip(&self.classes);
        classes
            .flat_map(|(class, items)| items.keys().map(move |&number| Place { class, number }))
            .collect()
    }

    /// Those whose deadline is `now` or before.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Place> {
        let overdue = self.deadlines.iter();
        overdue
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|&(_, place)| place)
            .collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Since when the oldest item has waited.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let oldest = self.classes.iter().filter_map(BTreeMap::first_key_value);
        oldest.map(|(_, item)| item.since).min()
    }

    /// Cost and place of the items of a priority, the oldest first.
    pub(super) fn class(&self, class: u8) -> impl Iterator<Item = (u64, Place)> {
        let items = self.classes[usize::from(class)].iter();
        items.map(move |(&number, item)| (item.cost, Place { class, number }))
    }

    /// The oldest of those that are less urgent than the most urgent, when it has waited for so long.
    pub(super) fn passing(&self, now: Instant, patience: Duration) -> Option<(u64, Place)> {
        let mut waiting = (0..PRIORITIES as u8)
            .zip(&self.classes)
            .filter_map(|(class, items)| Some((class, items.first_key_value()?)));
        waiting.next();
        let (class, (&number, item)) = waiting.min_by_key(|(_, (number, _))| **number)?;
        (now.saturating_duration_since(item.since) >= patience)
            .then_some((item.cost, Place { class, number }))
    }
}
