//! Everything at once: tasks, polls that come and go, starts that fail, starts before a task is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::testing::{Random, Rig, look, queue, seq_of};
use super::{Offer, PollOptions, Polled};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Threads add, poll, drop polls half-way, drop handouts and start tasks. Each task starts
/// exactly once and none is lost, also when most of them are only in the store.
#[test]
fn chaos_starts_each_task_exactly_once() {
    let mut brought = 0;
    for seed in 0..6_u64 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        brought += runtime.block_on(chaos(seed));
    }
    assert!(brought > 0, "no poll ever waited");
}

/// How many tasks started for a poll before they were written.
async fn chaos(seed: u64) -> usize {
    const TASKS: i64 = 1500;
    const QUEUES: [&str; 3] = ["q0", "q1", "q2"];
    let memory = [4, 50, 5000][seed as usize % 3];
    let rig = Arc::new(Rig::with(|config| config.memory_tasks_max = memory));
    let started = Arc::new(Mutex::new(BTreeMap::<i64, usize>::new()));
    // Tasks that started for a poll before they had a row, and those that a poll brought.
    let at_once = Arc::new(Mutex::new(BTreeSet::new()));
    let brought = Arc::new(Mutex::new(Vec::new()));
    let put_back = Arc::new(AtomicUsize::new(0));
    let mut jobs = Vec::new();
    for part in 0..3_i64 {
        let rig = Arc::clone(&rig);
        let (started, at_once) = (Arc::clone(&started), Arc::clone(&at_once));
        let mut random = Random::new(seed * 100 + part as u64);
        jobs.push(tokio::spawn(async move {
            let name = QUEUES[part as usize];
            for seq in (0..TASKS).filter(|seq| seq % 3 == part) {
                let priority = 1 + random.below(5) as u8;
                if let Some(poll) = rig.matching.reserve(&queue(name), priority) {
                    // The commit takes its time, and may fail; then the task comes again.
                    match random.below(20) {
                        0 => tokio::time::sleep(Duration::from_millis(random.below(40))).await,
                        1..=8 => tokio::task::yield_now().await,
                        _ => {}
                    }
                    if random.below(4) > 0 {
                        *started.lock().entry(seq).or_default() += 1;
                        at_once.lock().insert(seq);
                        poll.fulfil(seq);
                        continue;
                    }
                }
                rig.add(name, priority, seq);
                if random.below(20) == 0 {
                    // Long enough for polls to wait for what comes next.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                if random.below(10) == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    for worker in 0..12_u64 {
        let rig = Arc::clone(&rig);
        let started = Arc::clone(&started);
        let put_back = Arc::clone(&put_back);
        let brought = Arc::clone(&brought);
        let mut random = Random::new(seed * 1000 + worker);
        jobs.push(tokio::spawn(async move {
            let name = QUEUES[(worker % 3) as usize];
            let q = queue(name);
            while started.lock().len() < TASKS as usize {
                let options = PollOptions::new("w", Instant::now() + Duration::from_millis(20));
                let mut poll = Box::pin(rig.matching.poll(&q, options));
                let handout = if random.below(3) == 0 {
                    // Gives up after a few looks, perhaps just when a task was delivered.
                    let mut looked = None;
                    for _ in 0..random.below(4) {
                        looked = look(&mut poll);
                        if looked.is_some() {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    looked
                } else {
                    Some(poll.await)
                };
                let handout = match handout {
                    Some(Ok(Some(Polled::Offer(handout)))) => handout,
                    Some(Ok(Some(Polled::Started { task, .. }))) => {
                        brought.lock().push(*task.downcast::<i64>().unwrap());
                        continue;
                    }
                    _ => continue,
                };
                match random.below(8) {
                    0 => {
                        handout.requeue();
                        continue;
                    }
                    1 => {
                        // Another worker may have it and start it before it is put back.
                        let Offer::Task(task) = handout.offer().clone() else {
                            panic!()
                        };
                        handout.finish();
                        put_back.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        rig.matching.requeue(task);
                        continue;
                    }
                    _ => {}
                }
                tokio::task::yield_now().await;
                let seq = seq_of(&handout);
                if rig.start(handout) {
                    *started.lock().entry(seq).or_default() += 1;
                }
            }
        }));
    }
    for job in jobs {
        job.await.unwrap();
    }
    let started = std::mem::take(&mut *started.lock());
    assert_eq!(started.len(), TASKS as usize, "seed {seed}");
    assert!(started.values().all(|n| *n == 1), "seed {seed}");
    // What started at once came to its poll, if that was there still, and to no other.
    let at_once = std::mem::take(&mut *at_once.lock());
    let mut brought = std::mem::take(&mut *brought.lock());
    brought.sort_unstable();
    assert!(brought.is_sorted_by(|a, b| a < b), "seed {seed}");
    assert!(
        brought.iter().all(|seq| at_once.contains(seq)),
        "seed {seed}"
    );
    for name in QUEUES {
        let left = rig.matching.find(&queue(name)).unwrap();
        assert_eq!(left.lock().outstanding, 0, "seed {seed}");
        // Polls let the queue read up to the end of the store, whatever that takes.
        while rig.stats(name).backlog_count > 0 {
            let soon = Instant::now() + Duration::from_millis(1);
            let options = PollOptions::new("w", soon);
            if let Some(again) = rig.matching.offered(&queue(name), options).await.unwrap() {
                assert!(!rig.start(again), "seed {seed}");
            }
        }
    }
    assert!(
        rig.duplicates() <= put_back.load(Ordering::Relaxed),
        "seed {seed}"
    );
    brought.len()
}
