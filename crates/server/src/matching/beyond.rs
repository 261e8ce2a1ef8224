//! Counts the tasks of a queue that are only in the store.
//!
//! The figures follow what is announced (rows added, read, deleted) instead of counting rows again
//! and again. They may be off by a few while the first count after a start races with commits; as
//! soon as a page reaches the end of the store, they are exact.

use tidemill_store::Nanos;

use super::backlog::{PRIORITIES, slot};

#[derive(Debug)]
pub(super) struct Beyond {
    /// By priority. May be below zero for a moment: a page can show a row before it is announced.
    known: [i64; PRIORITIES],
    /// Rows that were counted without their priorities.
    any: i64,
    /// The oldest row when they were counted.
    oldest: Option<Nanos>,
    counted: bool,
}

impl Beyond {
    /// Nothing is in the store only.
    pub(super) fn none() -> Self {
        Self {
            known: [0; PRIORITIES],
            any: 0,
            oldest: None,
            counted: true,
        }
    }

    /// An unknown number of rows.
    pub(super) fn uncounted() -> Self {
        Self {
            counted: false,
            ..Self::none()
        }
    }

    pub(super) fn counting(rows: i64, oldest: Option<Nanos>) -> Self {
        Self {
            any: rows.max(0),
            oldest,
            ..Self::none()
        }
    }

    pub(super) fn counted(&self) -> bool {
        self.counted
    }

    pub(super) fn more(&mut self, priority: u8) {
        self.known[slot(priority)] += 1;
    }

    pub(super) fn less(&mut self, priority: u8) {
        let known = &mut self.known[slot(priority)];
        if *known > 0 || self.any == 0 {
            *known -= 1;
        } else {
            self.any -= 1;
        }
    }

    pub(super) fn total(&self) -> i64 {
        (self.known.iter().sum::<i64>() + self.any).max(0)
    }

    /// The rows of one priority, those of unknown priority included if asked for.
    pub(super) fn of(&self, priority: u8, with_any: bool) -> i64 {
        let any = if with_any { self.any } else { 0 };
        (self.known[slot(priority)].max(0) + any).min(self.total())
    }

    /// Creation time of the oldest row, if there are rows and it was counted.
    pub(super) fn oldest(&self) -> Option<Nanos> {
        self.oldest.filter(|_| self.total() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_never_below_zero() {
        let mut beyond = Beyond::none();
        beyond.less(3);
        assert_eq!((beyond.total(), beyond.of(3, true)), (0, 0));
        beyond.more(3);
        beyond.more(5);
        assert_eq!(
            (beyond.total(), beyond.of(3, true), beyond.of(5, false)),
            (1, 0, 1)
        );
    }

    #[test]
    fn counted_rows_go_when_no_known_one_is_left() {
        let mut beyond = Beyond::counting(2, Some(7));
        beyond.more(1);
        assert_eq!(
            (beyond.total(), beyond.of(1, false), beyond.of(3, true)),
            (3, 1, 2)
        );
        for left in [2, 1, 0] {
            assert_eq!(beyond.oldest(), Some(7));
            beyond.less(1);
            assert_eq!(beyond.total(), left);
        }
        assert_eq!(beyond.oldest(), None);
        assert_eq!(Beyond::counting(-4, None).total(), 0);
    }
}
