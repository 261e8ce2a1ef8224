//! The stored tasks of one queue: a window in memory over the rows in the store.
//!
//! The window holds every known task whose key is below `limit`; from `limit` on, tasks live in
//! the store only and are counted. A new task below the limit is inserted, and when that makes
//! more than `max`, the largest is dropped and becomes the new limit. Reading a page raises the
//! limit again.
//!
//! A page is read without the lock, so the world moves meanwhile: see [`page`](super::page).
//!
//! The store's rows are not touched here: transitions of the runs write and delete them.

use std::collections::{BTreeMap, HashMap};

use tidemill_store::{Nanos, StoredTask};

use super::beyond::Beyond;
use super::page::Page;

/// Where a task stands in its queue: (priority, seq).
pub(super) type Key = (u8, i64);

const START: Key = (0, i64::MIN);
pub(super) const END: Key = (u8::MAX, i64::MAX);

pub(super) const PRIORITIES: usize = 5;

pub(super) fn key_of(task: &StoredTask) -> Key {
    (task.task.key.priority, task.task.key.seq)
}

/// Priorities are 1 to 5; counters are kept for those.
pub(super) fn slot(priority: u8) -> usize {
    usize::from(priority).clamp(1, PRIORITIES) - 1
}

fn after((priority, seq): Key) -> Key {
    match seq.checked_add(1) {
        Some(seq) => (priority, seq),
        None => (priority.saturating_add(1), i64::MIN),
    }
}

#[derive(Debug)]
struct Entry {
    task: StoredTask,
    /// The row belongs to another queue (a sticky task sent to the normal queue): no page of this
    /// queue would bring it back, so it is never dropped to save memory.
    foreign: bool,
}

/// What became of an added task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    Memory,
    StoreOnly,
    /// It is in memory or with a worker already.
    Known,
}

#[derive(Debug)]
pub(super) struct Backlog {
    max: usize,
    tasks: BTreeMap<Key, Entry>,
    foreign: usize,
    in_memory: [usize; PRIORITIES],
    limit: Key,
    /// Rows of the store at or above the limit.
    beyond: Beyond,
    page: Option<Page>,
    /// Tasks that workers hold and that may still have a row, by the number of the handout.
    out: HashMap<Key, u64>,
    /// Moves with every announced change of the rows.
    changes: u64,
}

impl Backlog {
    /// A queue without rows in the store; `max` tasks are kept in memory.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            tasks: BTreeMap::new(),
            foreign: 0,
            in_memory: [0; PRIORITIES],
            limit: END,
            beyond: Beyond::none(),
            page: None,
            out: HashMap::new(),
            changes: 0,
        }
    }

    /// A queue whose rows are all in the store, uncounted.
    pub(super) fn unloaded(max: usize) -> Self {
        Self {
            limit: START,
            beyond: Beyond::uncounted(),
            ..Self::new(max)
        }
    }

    /// Takes a task again whose handout was finished although it did not start.
    pub(super) fn add_again(&mut self, task: StoredTask, foreign: bool) {
        let key = key_of(&task);
        if !self.tasks.contains_key(&key) && !self.out.contains_key(&key) {
            self.insert_or_leave(task, foreign);
        }
    }

    /// A row became durable.
    pub(super) fn add(&mut self, task: StoredTask, foreign: bool) -> Added {
        self.changes += 1;
        let key = key_of(&task);
        if self.tasks.contains_key(&key) || self.out.contains_key(&key) {
            if !foreign && self.limit != END {
                // A page took it from `beyond` before it was counted there.
                self.beyond.more(key.0);
            }
            return Added::Known;
        }
        self.insert_or_leave(task, foreign)
    }

    fn insert_or_leave(&mut self, task: StoredTask, foreign: bool) -> Added {
        let key = key_of(&task);
        if foreign || key < self.limit {
            self.insert(task, foreign);
            self.shrink();
            if self.tasks.contains_key(&key) {
                Added::Memory
            } else {
                Added::StoreOnly
            }
        } else {
            self.beyond.more(key.0);
            if let Some(page) = &mut self.page {
                page.arrived(task);
            }
            Added::StoreOnly
        }
    }

    fn insert(&mut self, task: StoredTask, foreign: bool) {
        let key = key_of(&task);
        if self.tasks.insert(key, Entry { task, foreign }).is_none() {
            self.in_memory[slot(key.0)] += 1;
            self.foreign += usize::from(foreign);
        }
    }

    fn take(&mut self, key: Key) -> Option<Entry> {
        let entry = self.tasks.remove(&key)?;
        self.in_memory[slot(key.0)] -= 1;
        self.foreign -= usize::from(entry.foreign);
        Some(entry)
    }

    /// Drops the largest tasks beyond `max` from memory.
    fn shrink(&mut self) {
        while self.tasks.len() - self.foreign > self.max {
            let own = self.tasks.iter().rev().find(|(_, entry)| !entry.foreign);
            let Some(key) = own.map(|(key, _)| *key) else {
                return;
            };
            self.take(key);
            self.beyond.more(key.0);
            self.limit = key;
        }
    }

    /// The task that is next, if it is in memory.
    pub(super) fn first(&self) -> Option<Key> {
        self.tasks.first_key_value().map(|(key, _)| *key)
    }

    /// True when the task waits in memory.
    pub(super) fn holds(&self, key: Key) -> bool {
        self.tasks.contains_key(&key)
    }

    /// Takes the first task for a handout.
    pub(super) fn hand_out(&mut self, handout: u64) -> Option<StoredTask> {
        let key = self.first()?;
        let entry = self.take(key)?;
        self.out.insert(key, handout);
        Some(entry.task)
    }

    /// Undoes `hand_out`: the task did not start. False when its row was deleted meanwhile.
    pub(super) fn put_back(&mut self, task: StoredTask, handout: u64, foreign: bool) -> bool {
        let key = key_of(&task);
        if self.out.get(&key) != Some(&handout) {
            return false;
        }
        self.out.remove(&key);
        self.insert_or_leave(task, foreign);
        true
    }

    /// The handed out task needs nothing more: it started, or it was stale.
    pub(super) fn finish(&mut self, key: Key, handout: u64) {
        if self.out.get(&key) == Some(&handout) {
            self.out.remove(&key);
            self.left(key);
        }
    }

    /// A row was deleted. True when a waiting task was dropped for it.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        self.changes += 1;
        if self.out.remove(&key).is_some() {
            self.left(key);
            return false;
        }
        if self.take(key).is_some() {
            return true;
        }
        if key < self.limit {
            return false;
        }
        self.beyond.less(key.0);
        self.left(key);
        true
    }

    /// The row of a task that was sent here from another queue was deleted.
    pub(super) fn remove_foreign(&mut self, key: Key) {
        if self.out.remove(&key).is_none() && self.tasks.get(&key).is_some_and(|e| e.foreign) {
            self.take(key);
        }
    }

    fn left(&mut self, key: Key) {
        if let Some(page) = &mut self.page {
            page.left(key);
        }
    }

    /// Tasks in memory that may be read again from the store.
    fn own(&self) -> usize {
        self.tasks.len() - self.foreign
    }

    /// True when memory has drained so far that a page should be read.
    pub(super) fn wants_page(&self) -> bool {
        self.limit != END && self.page.is_none() && self.own() <= self.max / 4
    }

    /// Rows to read at once. Memory has room for them when a page is wanted.
    pub(super) fn page_size(&self) -> usize {
        (self.max / 2).max(1)
    }

    /// Begins a page; returns from where to read. Ends with `end_page` or `abandon_page`.
    pub(super) fn begin_page(&mut self) -> Key {
        self.page = Some(Page::new(self.limit, self.max));
        self.limit
    }

    /// The page could not be read: all stays in the store.
    pub(super) fn abandon_page(&mut self) {
        self.page = None;
    }

    /// Takes in the rows that were read; fewer than `page_size` mean that the store has no more.
    pub(super) fn end_page(&mut self, rows: Vec<StoredTask>) {
        let Some(page) = self.page.take() else { return };
        if self.limit < page.from {
            return;
        }
        let full = rows.len() >= self.page_size();
        let read_limit = match rows.last() {
            Some(last) if full => after(key_of(last)),
            _ => END,
        };
        let (limit, tasks) = page.merge(rows, read_limit);
        self.limit = limit;
        for task in tasks {
            let key = key_of(&task);
            if !self.tasks.contains_key(&key) && !self.out.contains_key(&key) {
                self.insert(task, false);
                self.beyond.less(key.0);
            }
        }
        if self.limit == END {
            // All rows are known: what counting missed is put right.
            self.beyond = Beyond::none();
        }
        self.shrink();
    }

    pub(super) fn counted(&self) -> bool {
        self.beyond.counted()
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Takes in what the store counted, all rows of the queue included. Ignored when the number
    /// is known already.
    pub(super) fn set_count(&mut self, rows: i64, oldest: Option<Nanos>) {
        if !self.beyond.counted() {
            let here = self.own() + self.out.len();
            self.beyond = Beyond::counting(rows - here as i64, oldest);
        }
    }

    /// Tasks that wait.
    pub(super) fn count(&self) -> i64 {
        self.tasks.len() as i64 + self.beyond.total()
    }

    /// Tasks that wait in one priority. Rows of unknown priority count where the window ends.
    pub(super) fn count_of(&self, priority: u8) -> i64 {
        let at_limit = slot(self.limit.0) == slot(priority);
        self.in_memory[slot(priority)] as i64 + self.beyond.of(priority, at_limit)
    }

    /// Creation time of the oldest task at the head of a priority, or of one priority.
    pub(super) fn oldest(&self, priority: Option<u8>) -> Option<Nanos> {
        let head = |p: u8| {
            self.tasks
                .range((p, i64::MIN)..=(p, i64::MAX))
                .next()
                .map(|(_, entry)| entry.task.task.created)
        };
        let in_memory = match priority {
            Some(p) => head(p),
            None => (1..=PRIORITIES as u8).filter_map(head).min(),
        };
        let beyond = match priority {
            Some(p) if slot(p) != slot(self.limit.0) => None,
            _ => self.beyond.oldest(),
        };
        in_memory.or(beyond)
    }

    /// True when no task waits, in memory or in the store.
    pub(super) fn is_drained(&self) -> bool {
        self.limit == END && self.tasks.is_empty()
    }

    /// True when nothing is known of and nothing is in the store.
    pub(super) fn is_empty(&self) -> bool {
        self.is_drained() && self.out.is_empty() && self.page.is_none()
    }

    /// True when by count nothing is left, but only the store can say so.
    pub(super) fn should_verify(&self) -> bool {
        self.limit != END && self.beyond.counted() && self.count() == 0 && self.wants_page()
    }

    /// Takes all tasks out of memory, those of other queues included. What is only in the store
    /// stays there.
    pub(super) fn drain(&mut self) -> Vec<StoredTask> {
        let mut drained: Vec<_> = std::mem::take(&mut self.tasks)
            .into_values()
            .map(|entry| entry.task)
            .collect();
        self.foreign = 0;
        self.in_memory = [0; PRIORITIES];
        if let Some(page) = &mut self.page {
            drained.extend(page.drain());
            for task in &drained {
                page.left(key_of(task));
            }
        }
        drained
    }
}

#[cfg(test)]
mod tests;
