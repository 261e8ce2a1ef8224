use std::collections::HashSet;

use super::super::testing::{Random, task};
use super::*;

/// A backlog together with the rows that the store would hold.
struct World {
    backlog: Backlog,
    rows: BTreeMap<Key, StoredTask>,
    handouts: u64,
}

impl World {
    fn new(max: usize) -> Self {
        Self {
            backlog: Backlog::new(max),
            rows: BTreeMap::new(),
            handouts: 0,
        }
    }

    fn add(&mut self, priority: u8, seq: i64) -> Added {
        let task = task("q", priority, seq);
        self.rows.insert(key_of(&task), task.clone());
        self.backlog.add(task, false)
    }

    fn read(&self, from: Key) -> Vec<StoredTask> {
        self.rows
            .range(from..)
            .take(self.backlog.page_size())
            .map(|(_, t)| t.clone())
            .collect()
    }

    fn page(&mut self) {
        let from = self.backlog.begin_page();
        let rows = self.read(from);
        self.backlog.end_page(rows);
    }

    fn hand_out(&mut self) -> Option<(StoredTask, u64)> {
        self.handouts += 1;
        self.backlog
            .hand_out(self.handouts)
            .map(|task| (task, self.handouts))
    }

    /// Hands out the first task and lets it start.
    fn start(&mut self) -> Option<Key> {
        let (task, handout) = self.hand_out()?;
        let key = key_of(&task);
        self.rows.remove(&key);
        self.backlog.remove(key);
        self.backlog.finish(key, handout);
        Some(key)
    }

    fn drain(&mut self) -> Vec<Key> {
        let mut keys = Vec::new();
        loop {
            if self.backlog.wants_page() {
                self.page();
            }
            match self.start() {
                Some(key) => keys.push(key),
                None if self.backlog.wants_page() => {}
                None => return keys,
            }
        }
    }
}

#[test]
fn priority_comes_first_then_the_order_of_arrival() {
    let mut world = World::new(100);
    for (priority, seq) in [(3, 1), (5, 2), (1, 3), (3, 4), (1, 5)] {
        assert_eq!(world.add(priority, seq), Added::Memory);
    }
    assert_eq!(world.backlog.count(), 5);
    assert_eq!(world.backlog.count_of(1), 2);
    assert_eq!(world.drain(), [(1, 3), (1, 5), (3, 1), (3, 4), (5, 2)]);
    assert!(world.backlog.is_empty());
}

#[test]
fn what_does_not_fit_stays_in_the_store_and_is_counted() {
    let mut world = World::new(4);
    for seq in 0..10 {
        let added = world.add(3, seq);
        assert_eq!(added == Added::Memory, seq < 4, "{seq}");
    }
    assert_eq!(world.backlog.tasks.len(), 4);
    assert_eq!(world.backlog.count(), 10);
    // An urgent task displaces the last one.
    assert_eq!(world.add(1, 10), Added::Memory);
    assert_eq!(world.backlog.tasks.len(), 4);
    assert_eq!(world.backlog.limit, (3, 3));
    assert_eq!(world.backlog.count(), 11);
    assert_eq!(world.backlog.count_of(3), 10);
    let mut expected = vec![(1, 10)];
    expected.extend((0..10).map(|seq| (3, seq)));
    assert_eq!(world.drain(), expected);
    assert_eq!(world.backlog.count(), 0);
    assert!(world.backlog.is_empty());
}

#[test]
fn a_page_misses_nothing_that_happens_meanwhile() {
    let mut world = World::new(4);
    for seq in [10, 20, 30, 40, 50, 60, 70] {
        world.add(3, seq);
    }
    for _ in 0..4 {
        world.start();
    }
    let from = world.backlog.begin_page();
    assert_eq!(from, (3, 50));
    let rows = world.read(from);
    // Added after the rows were read, one below the page's end, one above; 50 is deleted.
    world.add(3, 55);
    world.add(3, 65);
    world.rows.remove(&(3, 50));
    assert!(world.backlog.remove((3, 50)));
    world.backlog.end_page(rows);
    assert_eq!(world.backlog.count(), 4);
    assert_eq!(world.drain(), [(3, 55), (3, 60), (3, 65), (3, 70)]);
    assert_eq!(world.backlog.count(), 0);
}

#[test]
fn a_page_does_not_hand_out_what_a_worker_holds() {
    let mut world = World::new(4);
    for seq in 0..5 {
        world.add(3, seq);
    }
    let mut held = vec![world.hand_out().unwrap()];
    // An urgent task lowers the limit while 0 is out, then memory drains.
    for seq in 5..9 {
        world.add(1, seq);
    }
    assert_eq!(world.backlog.limit, (3, 1));
    for _ in 0..3 {
        world.start();
    }
    world.page();
    held.push(world.hand_out().unwrap());
    let (task, handout) = held.remove(0);
    assert_eq!(key_of(&task), (3, 0));
    assert!(world.backlog.put_back(task, handout, false));
    assert!(!world.backlog.put_back(held[0].0.clone(), 99, false));
    assert_eq!(world.backlog.first(), Some((3, 0)));
    assert_eq!(world.backlog.count(), 5);
}

#[test]
fn a_page_keeps_what_left_and_came_back() {
    let mut world = World::new(4);
    for seq in 0..5 {
        world.add(3, seq);
    }
    let mut held: Vec<_> = (0..4).map(|_| world.hand_out().unwrap()).collect();
    let (last, handout) = held.pop().unwrap();
    for (task, handout) in held {
        world.backlog.put_back(task, handout, false);
    }
    // Urgent tasks lower the limit below the one that is out, then memory drains.
    world.add(1, 10);
    world.add(1, 11);
    assert_eq!(world.backlog.limit, (3, 2));
    let mut started: Vec<_> = (0..3).map(|_| world.start().unwrap()).collect();
    let from = world.backlog.begin_page();
    let rows = world.read(from);
    world.backlog.finish(key_of(&last), handout);
    world.backlog.add_again(last, false);
    world.backlog.end_page(rows);
    started.extend(world.drain());
    assert_eq!(
        started,
        [(1, 10), (1, 11), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)]
    );
    assert_eq!(world.backlog.count(), 0);
}

#[test]
fn a_page_that_would_leave_a_gap_is_ignored() {
    let mut world = World::new(4);
    for seq in 0..12 {
        world.add(3, seq);
    }
    for _ in 0..3 {
        world.start();
    }
    let from = world.backlog.begin_page();
    let rows = world.read(from);
    for seq in 100..105 {
        world.add(1, seq);
    }
    assert!(world.backlog.limit < from);
    world.backlog.end_page(rows);
    assert_eq!(world.backlog.count(), 14);
    let mut expected: Vec<Key> = (100..105).map(|seq| (1, seq)).collect();
    expected.extend((3..12).map(|seq| (3, seq)));
    assert_eq!(world.drain(), expected);
}

#[test]
fn many_arrivals_during_a_page_do_not_pile_up() {
    let mut world = World::new(4);
    for seq in 0..8 {
        world.add(3, seq);
    }
    for _ in 0..4 {
        world.start();
    }
    let from = world.backlog.begin_page();
    let rows = world.read(from);
    for seq in 8..100 {
        world.add(3, seq);
    }
    assert_eq!(world.backlog.page.as_ref().unwrap().arrivals(), 4);
    world.backlog.end_page(rows);
    assert!(world.backlog.tasks.len() <= 4);
    assert_eq!(world.backlog.count(), 96);
    assert_eq!(
        world.drain(),
        (4..100).map(|seq| (3, seq)).collect::<Vec<_>>()
    );
}

#[test]
fn a_restart_reads_and_counts() {
    let mut world = World::new(4);
    for seq in 0..9 {
        world.add(if seq % 2 == 0 { 2 } else { 4 }, seq);
    }
    world.backlog = Backlog::unloaded(4);
    assert_eq!(world.backlog.count(), 0);
    world.backlog.set_count(9, Some(7));
    world.backlog.set_count(900, Some(7));
    assert_eq!(world.backlog.count(), 9);
    assert_eq!(world.backlog.oldest(None), Some(7));
    world.add(4, 100);
    assert_eq!(world.backlog.count(), 10);
    world.page();
    assert_eq!(world.backlog.count(), 10);
    assert_eq!(world.drain().len(), 10);
    assert_eq!(world.backlog.count(), 0);
    assert!(world.backlog.is_empty());
}

#[test]
fn a_row_seen_by_a_page_before_its_add_is_neither_lost_nor_twice() {
    for started_before_the_add in [false, true] {
        let mut world = World::new(2);
        for seq in 0..5 {
            world.add(3, seq);
        }
        world.start();
        world.start();
        let late = task("q", 3, 5);
        world.rows.insert(key_of(&late), late.clone());
        world.page();
        let mut keys = vec![];
        if started_before_the_add {
            keys = world.drain();
            assert_eq!(keys.last(), Some(&(3, 5)));
            world.backlog.add(late, false);
            assert!(world.backlog.count() >= 0);
        } else {
            world.backlog.add(late, false);
            assert_eq!(world.backlog.count(), 4);
            keys.extend(world.drain());
            assert_eq!(keys, [(3, 2), (3, 3), (3, 4), (3, 5)]);
        }
    }
}

#[test]
fn foreign_tasks_are_never_left_to_the_store() {
    let mut world = World::new(2);
    for seq in 0..10 {
        world.backlog.add(task("sticky", 3, seq), true);
    }
    world.add(3, 20);
    world.add(3, 21);
    world.add(3, 22);
    assert_eq!(world.backlog.tasks.len(), 12);
    assert_eq!(world.backlog.limit, (3, 22));
    let mut expected: Vec<Key> = (0..10).map(|seq| (3, seq)).collect();
    expected.extend([(3, 20), (3, 21), (3, 22)]);
    assert_eq!(world.drain(), expected);
}

#[test]
fn the_head_of_the_oldest_priority_gives_the_age() {
    let mut world = World::new(100);
    world.add(5, 3);
    world.add(1, 9);
    // `task` takes the sequence as the creation time.
    assert_eq!(world.backlog.oldest(None), Some(3));
    assert_eq!(world.backlog.oldest(Some(1)), Some(9));
    assert_eq!(world.backlog.oldest(Some(2)), None);
}

/// Random adds, starts, put-backs, deletions and pages that overlap them: every row is handed
/// out exactly once or deleted, in an order that never inverts what memory covers, and counts
/// are exact.
#[test]
fn random_histories_lose_nothing_and_count_right() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut world = World::new(1 + random.below(6) as usize);
        let mut seq = 0;
        let mut reading: Option<Vec<StoredTask>> = None;
        let mut held: Vec<(StoredTask, u64)> = Vec::new();
        let mut done: HashSet<Key> = HashSet::new();
        for _ in 0..400 {
            match random.below(12) {
                0..=3 => {
                    seq += 1;
                    world.add(1 + random.below(5) as u8, seq);
                }
                4 | 5 => held.extend(world.hand_out()),
                6 | 7 if !held.is_empty() => {
                    let (task, handout) =
                        held.swap_remove(random.below(held.len() as u64) as usize);
                    let key = key_of(&task);
                    assert!(done.insert(key), "seed {seed}: {key:?} twice");
                    world.rows.remove(&key);
                    world.backlog.remove(key);
                    world.backlog.finish(key, handout);
                }
                8 if !held.is_empty() => {
                    let (task, handout) =
                        held.swap_remove(random.below(held.len() as u64) as usize);
                    if random.below(2) == 0 {
                        assert!(world.backlog.put_back(task, handout, false));
                    } else {
                        world.backlog.finish(key_of(&task), handout);
                        world.backlog.add_again(task, false);
                    }
                }
                9 if !world.rows.is_empty() => {
                    let at = random.below(world.rows.len() as u64) as usize;
                    let key = *world.rows.keys().nth(at).unwrap();
                    if held.iter().all(|(task, _)| key_of(task) != key) {
                        world.rows.remove(&key);
                        assert!(world.backlog.remove(key), "seed {seed}");
                        done.insert(key);
                    }
                }
                10 if reading.is_none() && world.backlog.wants_page() => {
                    let from = world.backlog.begin_page();
                    reading = Some(world.read(from));
                }
                11 => {
                    if let Some(rows) = reading.take() {
                        world.backlog.end_page(rows);
                    }
                }
                _ => {}
            }
            let waiting = world.rows.len() - held.len();
            assert_eq!(world.backlog.count(), waiting as i64, "seed {seed}");
            assert!(world.backlog.own() <= world.backlog.max, "seed {seed}");
        }
        if let Some(rows) = reading.take() {
            world.backlog.end_page(rows);
        }
        for (task, handout) in held {
            world.backlog.put_back(task, handout, false);
        }
        for key in world.drain() {
            assert!(done.insert(key), "seed {seed}: {key:?} twice");
        }
        assert_eq!(done.len() as i64, seq, "seed {seed}");
        assert!(world.backlog.is_empty(), "seed {seed}");
    }
}
