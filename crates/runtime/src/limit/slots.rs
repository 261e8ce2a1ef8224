//! Who runs under a limit, and who waits to.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidemill_pipeline::limit::{Slot, SlotState};

/// Tasks that run hold leases, which end unless their workers renew them. Those that wait are served in
/// the order in which they came: nobody passes one that needs more room than there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Slots {
    running: Vec<SlotState>,
    waiting: VecDeque<SlotState>,
}

/// What a worker is told of its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) running: Vec<String>,
    pub(super) too_heavy: Vec<String>,
    pub(super) waits: bool,
}

impl Slots {
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn running(&self) -> &[SlotState] {
        &self.running
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &SlotState> {
        self.waiting.iter()
    }

    /// Workers with a task that waits.
    pub(super) fn waiting_workers(&self) -> usize {
        let mut workers: Vec<_> = self.waiting.iter().map(|slot| &slot.worker).collect();
        workers.sort();
        workers.dedup();
        workers.len()
    }

    /// Takes back what nobody has renewed.
    pub(super) fn expire(&mut self, now_ms: i64) {
        self.running.retain(|slot| now_ms < slot.until_ms);
        self.waiting.retain(|slot| now_ms < slot.until_ms);
    }

    /// Takes in all tasks of a worker, and tells which of them may run.
    pub(super) fn ask(
        &mut self,
        worker: &str,
        tasks: &[Slot],
        concurrent: u32,
        lease_ms: u64,
        now_ms: i64,
    ) -> Told {
        let until_ms = now_ms.saturating_add_unsigned(lease_ms);
        let named = |slot: &SlotState| {
            let same = |task: &&Slot| same(&slot.slot, task);
            slot.worker != worker || tasks.iter().any(|task| same(&task))
        };
        self.running.retain(named);
        self.waiting.retain(named);
        let mut told = Told::default();
        for task in tasks {
            // An attempt that the engine has given up does not run beside the one that follows it.
            let outdated =
                |slot: &SlotState| slot.slot.task == task.task && slot.slot.attempt < task.attempt;
            self.running.retain(|slot| !outdated(slot));
            self.waiting.retain(|slot| !outdated(slot));
            let mine = |slot: &&mut SlotState| slot.worker == worker && same(&slot.slot, task);
            if let Some(slot) = self.running.iter_mut().find(mine) {
                slot.until_ms = until_ms;
                slot.slot.runs = true;
            } else if task.weight > concurrent {
                told.too_heavy.push(task.task.clone());
            } else if task.runs {
                // Its lease has ended, and its worker was told to stop it: it is in `running` no more.
            } else if let Some(slot) = self.waiting.iter_mut().find(mine) {
                slot.until_ms = until_ms;
            } else {
                self.waiting.push_back(SlotState {
                    slot: task.clone(),
                    worker: worker.to_owned(),
                    until_ms,
                });
            }
        }
        self.grant(concurrent, until_ms);
        let of_worker = |slots: &mut dyn Iterator<Item = &SlotState>| -> Vec<String> {
            let mine = slots.filter(|slot| slot.worker == worker);
            mine.map(|slot| slot.slot.task.clone()).collect()
        };
        told.running = of_worker(&mut self.running.iter());
        told.waits = !of_worker(&mut self.waiting.iter()).is_empty();
        told
    }

    /// Lets tasks run as long as the first that waits fits.
    fn grant(&mut self, concurrent: u32, until_ms: i64) {
        let weight = |slot: &SlotState| u64::from(slot.slot.weight);
        let mut taken: u64 = self.running.iter().map(weight).sum();
        while let Some(first) = self.waiting.front()
            && taken + weight(first) <= u64::from(concurrent)
        {
            taken += weight(first);
            if let Some(mut slot) = self.waiting.pop_front() {
                slot.until_ms = until_ms;
                slot.slot.runs = true;
                self.running.push(slot);
            }
        }
    }
}

fn same(one: &Slot, other: &Slot) -> bool {
    one.task == other.task && one.attempt == other.attempt
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 1_000;

    fn slot(task: &str, weight: u32) -> Slot {
        Slot {
            task: task.to_owned(),
            attempt: 1,
            weight,
            runs: false,
        }
    }

    fn running(task: &str, weight: u32) -> Slot {
        Slot {
            runs: true,
            ..slot(task, weight)
        }
    }

    /// What of a worker runs after it asked.
    fn ask(slots: &mut Slots, worker: &str, tasks: &[Slot], of: u32, now: i64) -> Vec<String> {
        slots.expire(now);
        slots.ask(worker, tasks, of, LEASE, now).running
    }

    fn taken(slots: &Slots) -> u32 {
        slots.running.iter().map(|slot| slot.slot.weight).sum()
    }

    #[test]
    fn no_more_run_than_may() {
        let mut slots = Slots::default();
        assert_eq!(
            ask(&mut slots, "a", &[slot("1", 1), slot("2", 1)], 2, 0),
            ["1", "2"]
        );
        assert!(ask(&mut slots, "b", &[slot("3", 1)], 2, 1).is_empty());
        // "1" has ended.
        assert_eq!(ask(&mut slots, "a", &[running("2", 1)], 2, 2), ["2"]);
        assert_eq!(ask(&mut slots, "b", &[slot("3", 1)], 2, 3), ["3"]);
        assert_eq!(taken(&slots), 2);
    }

    #[test]
    fn the_slot_of_a_worker_that_died_is_back_after_its_lease() {
        let mut slots = Slots::default();
        ask(&mut slots, "dead", &[slot("1", 1)], 1, 0);
        assert!(ask(&mut slots, "b", &[slot("2", 1)], 1, 999).is_empty());
        assert_eq!(ask(&mut slots, "b", &[slot("2", 1)], 1, 1_000), ["2"]);
        // Renewed, it lasts.
        assert_eq!(ask(&mut slots, "b", &[running("2", 1)], 1, 1_900), ["2"]);
        assert!(ask(&mut slots, "c", &[slot("3", 1)], 1, 2_800).is_empty());
    }

    #[test]
    fn who_came_first_is_served_first_and_a_heavy_one_is_not_passed() {
        let mut slots = Slots::default();
        ask(&mut slots, "a", &[slot("1", 2)], 3, 0);
        assert!(ask(&mut slots, "b", &[slot("heavy", 3)], 3, 1).is_empty());
        assert!(
            ask(&mut slots, "c", &[slot("light", 1)], 3, 2).is_empty(),
            "it would fit, but came later"
        );
        ask(&mut slots, "a", &[], 3, 3);
        assert_eq!(ask(&mut slots, "b", &[slot("heavy", 3)], 3, 4), ["heavy"]);
        assert!(ask(&mut slots, "c", &[slot("light", 1)], 3, 5).is_empty());
        ask(&mut slots, "b", &[], 3, 6);
        assert_eq!(ask(&mut slots, "c", &[slot("light", 1)], 3, 7), ["light"]);
    }

    #[test]
    fn a_worker_that_died_waiting_holds_nobody_up() {
        let mut slots = Slots::default();
        ask(&mut slots, "a", &[slot("1", 1)], 1, 0);
        ask(&mut slots, "dead", &[slot("2", 1)], 1, 1);
        ask(&mut slots, "b", &[slot("3", 1)], 1, 500);
        ask(&mut slots, "a", &[], 1, 1_001);
        assert_eq!(ask(&mut slots, "b", &[slot("3", 1)], 1, 1_002), ["3"]);
    }

    #[test]
    fn a_later_attempt_takes_the_place_of_an_earlier_one() {
        let mut slots = Slots::default();
        ask(&mut slots, "a", &[slot("1", 1)], 1, 0);
        let second = Slot {
            attempt: 2,
            ..slot("1", 1)
        };
        assert_eq!(ask(&mut slots, "b", &[second], 1, 1), ["1"]);
        // The first still runs somewhere: it is told that it has no slot.
        assert!(ask(&mut slots, "a", &[running("1", 1)], 1, 2).is_empty());
        assert_eq!(slots.running.len(), 1);
        assert!(slots.waiting.is_empty());
    }

    #[test]
    fn who_lost_its_slot_does_not_get_it_back_by_renewing() {
        let mut slots = Slots::default();
        ask(&mut slots, "a", &[slot("1", 1)], 1, 0);
        assert_eq!(ask(&mut slots, "b", &[slot("2", 1)], 1, 1_000), ["2"]);
        assert!(ask(&mut slots, "a", &[running("1", 1)], 1, 1_001).is_empty());
    }

    #[test]
    fn what_is_heavier_than_everything_is_refused() {
        let mut slots = Slots::default();
        let told = slots.ask("a", &[slot("1", 3), slot("2", 1)], 2, LEASE, 0);
        assert_eq!(told.too_heavy, ["1"]);
        assert_eq!(told.running, ["2"]);
    }

    #[test]
    fn a_limit_that_shrinks_takes_nothing_away() {
        let mut slots = Slots::default();
        ask(&mut slots, "a", &[slot("1", 1), slot("2", 1)], 2, 0);
        let tasks = [running("1", 1), running("2", 1), slot("3", 1)];
        assert_eq!(ask(&mut slots, "a", &tasks, 1, 1), ["1", "2"]);
        assert_eq!(ask(&mut slots, "a", &tasks[2..], 1, 2), ["3"]);
    }
}
