//! Polls and tasks: each task comes to one worker, whatever comes between.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread;
use tidemill_store::{
    Error, NamespaceId, Nanos, QueueName, RunIdentity, RunNo, StoredTask, TaskKey, TaskRow,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::explore::explore;
use crate::matching::{
    Config, Handout, Matching, Offer, PollOptions, Polled, TaskSource, WorkerInfo,
};
use crate::sync::FAR;

const SPACE: NamespaceId = [1; 16];
const SCHEDULES: usize = 4_000;

/// Memory holds all tasks: nothing is read.
struct NoRows;

impl TaskSource for NoRows {
    fn queues_with_tasks(&self) -> Result<Vec<QueueName>, Error> {
        Ok(Vec::new())
    }

    fn read_tasks(&self, _: &QueueName, _: (u8, i64), _: usize) -> Result<Vec<StoredTask>, Error> {
        unreachable!("memory holds all tasks")
    }

    fn count_tasks(&self, _: &QueueName) -> Result<(i64, Option<Nanos>), Error> {
        unreachable!("memory holds all tasks")
    }
}

fn queue() -> QueueName {
    QueueName {
        namespace: SPACE,
        name: "queue".into(),
        kind: 1,
    }
}

fn task(seq: i64) -> StoredTask {
    let owner = RunIdentity {
        run: RunNo(seq),
        namespace: SPACE,
        workflow_id: format!("w{seq}").into(),
        run_id: [0; 16],
    };
    let key = TaskKey {
        queue: queue(),
        priority: 3,
        seq,
    };
    let task = TaskRow {
        key,
        run: RunNo(seq),
        scheduled_event_id: 2,
        stamp: 0,
        created: 0,
    };
    StoredTask { task, owner }
}

fn seq_of(handout: &Handout) -> i64 {
    match handout.offer() {
        Offer::Task(task) => task.task.key.seq,
        other => panic!("{other:?}"),
    }
}

/// Comes at any moment.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Does not come.
fn never() -> Instant {
    Instant::now() + 2 * FAR
}

fn poll_of(instance: &str, deadline: Instant) -> PollOptions {
    let worker = WorkerInfo {
        worker_instance_key: instance.to_owned(),
        ..WorkerInfo::default()
    };
    PollOptions {
        worker: Arc::new(worker),
        ..PollOptions::new("worker", deadline)
    }
}

struct World {
    matching: Matching,
    /// Carries the sweeper, which is not let run.
    _runtime: Runtime,
}

impl World {
    fn new() -> Arc<Self> {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let config = Config {
            shards: 1,
            ..Config::default()
        };
        let matching = {
            let _inside = runtime.enter();
            Matching::new(config, NoRows, || 0)
        };
        Arc::new(World {
            matching,
            _runtime: runtime,
        })
    }

    fn poll(&self, options: PollOptions) -> Option<Polled> {
        block_on(self.matching.poll(&queue(), options)).expect("it has room for polls")
    }

    /// What its worker does with a task: its row goes, then the handout ends.
    fn start(&self, handout: Handout) -> i64 {
        let seq = seq_of(&handout);
        self.matching.remove(&task(seq).task.key);
        handout.finish();
        seq
    }

    /// Takes tasks until there are so many.
    fn take(&self, mut taken: Vec<i64>, all: usize) -> Vec<i64> {
        while taken.len() < all {
            match self.poll(poll_of("", never())) {
                Some(Polled::Offer(handout)) => taken.push(self.start(handout)),
                _ => panic!("{taken:?} of {all}"),
            }
        }
        taken.sort_unstable();
        taken
    }

    fn nothing_is_left(&self) {
        let left = self.matching.describe(&queue()).stats.backlog_count;
        assert_eq!(left, 0);
    }
}

/// Tasks come while polls wait, reach their deadlines, and give back what they got.
pub fn tasks_beside_deadlines() {
    explore(SCHEDULES, || {
        let world = World::new();
        let adding = {
            let world = world.clone();
            thread::spawn(move || {
                for seq in 1..=2 {
                    world.matching.add(task(seq));
                }
            })
        };
        let polls: Vec<_> = (0..2)
            .map(|poll| {
                let world = world.clone();
                thread::spawn(move || match world.poll(poll_of("", soon())) {
                    Some(Polled::Offer(handout)) if poll == 0 => {
                        handout.requeue();
                        None
                    }
                    Some(Polled::Offer(handout)) => Some(world.start(handout)),
                    Some(Polled::Started { .. }) => panic!("nobody has reserved"),
                    None => None,
                })
            })
            .collect();
        let taken = polls.into_iter().filter_map(|poll| poll.join().unwrap());
        let taken = world.take(taken.collect(), 2);
        adding.join().unwrap();
        assert_eq!(taken, [1, 2]);
        world.nothing_is_left();
    });
}

/// A client goes in the middle of its poll.
pub fn tasks_beside_dropped_polls() {
    explore(SCHEDULES, || {
        let world = World::new();
        let adding = {
            let world = world.clone();
            thread::spawn(move || {
                world.matching.add(task(1));
            })
        };
        let going = {
            let world = world.clone();
            thread::spawn(move || {
                let gone = crate::sync::timeout_at(soon(), async {
                    match world.matching.poll(&queue(), poll_of("", never())).await {
                        Ok(Some(Polled::Offer(handout))) => world.start(handout),
                        _ => panic!("there is no other end"),
                    }
                });
                block_on(gone).ok()
            })
        };
        let staying = {
            let world = world.clone();
            thread::spawn(move || match world.poll(poll_of("", soon())) {
                Some(Polled::Offer(handout)) => Some(world.start(handout)),
                _ => None,
            })
        };
        let taken = going.join().unwrap().into_iter();
        let taken = taken.chain(staying.join().unwrap()).collect();
        assert_eq!(world.take(taken, 1), [1]);
        adding.join().unwrap();
        world.nothing_is_left();
    });
}

/// Tasks start for polls that wait, or their commits fail. A poll for which one has started is told of
/// it, even if its time was over meanwhile; who has waited in vain waits on.
pub fn reservations_beside_deadlines() {
    explore(SCHEDULES, || {
        let world = World::new();
        let started = Arc::new(Mutex::new(Vec::new()));
        let writers: Vec<_> = (1..=2)
            .map(|seq| {
                let (world, started) = (world.clone(), started.clone());
                thread::spawn(move || match world.matching.reserve(&queue(), 3) {
                    Some(reserved) if seq == 1 => {
                        started.lock().unwrap().push(seq);
                        reserved.fulfil(seq);
                    }
                    // The commit fails, and is tried again without a poll.
                    Some(reserved) => {
                        drop(reserved);
                        world.matching.add(task(seq));
                    }
                    None => {
                        world.matching.add(task(seq));
                    }
                })
            })
            .collect();
        let polls: Vec<_> = (0..2)
            .map(|poll| {
                let world = world.clone();
                thread::spawn(move || {
                    let deadline = if poll == 0 { soon() } else { never() };
                    match world.poll(poll_of("", deadline)) {
                        Some(Polled::Offer(handout)) => Some((world.start(handout), false)),
                        Some(Polled::Started { task, .. }) => {
                            Some((*task.downcast::<i64>().unwrap(), true))
                        }
                        None => {
                            assert_eq!(poll, 0, "its time was not over");
                            None
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let got: Vec<_> = polls
            .into_iter()
            .filter_map(|poll| poll.join().unwrap())
            .collect();
        let told = got.iter().filter(|(_, started)| *started).count();
        assert_eq!(told, started.lock().unwrap().len(), "{got:?}");
        let got = got.into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(world.take(got, 2), [1, 2]);
        world.nothing_is_left();
    });
}

/// A worker leaves: once it is told that its polls are answered, nothing is on its way to it.
pub fn leaving_beside_tasks() {
    explore(SCHEDULES, || {
        let world = World::new();
        let adding = {
            let world = world.clone();
            thread::spawn(move || {
                world.matching.add(task(1));
            })
        };
        let polls: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || {
                    let call = world.matching.poll_call("leaves");
                    let polled = world.poll(poll_of("leaves", never()));
                    let taken = match polled {
                        Some(Polled::Offer(handout)) => Some(world.start(handout)),
                        _ => None,
                    };
                    drop(call);
                    taken
                })
            })
            .collect();
        let leaving = {
            let world = world.clone();
            thread::spawn(move || {
                world.matching.end_polls_of("leaves");
                block_on(world.matching.polls_answered("leaves"));
                block_on(world.matching.left("leaves"));
                // Whatever comes from now on is for others.
                world.matching.add(task(2));
                assert!(world.poll(poll_of("leaves", never())).is_none());
            })
        };
        let taken = polls.into_iter().filter_map(|poll| poll.join().unwrap());
        let taken: Vec<_> = taken.collect();
        leaving.join().unwrap();
        assert!(!taken.contains(&2));
        assert_eq!(world.take(taken, 2), [1, 2]);
        adding.join().unwrap();
        world.nothing_is_left();
    });
}

/// A stop ends every poll, whenever it begins.
pub fn a_stop_beside_polls() {
    explore(SCHEDULES, || {
        let world = World::new();
        let polls: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || match world.poll(poll_of("", never())) {
                    Some(Polled::Offer(handout)) => drop(handout),
                    Some(Polled::Started { .. }) => {}
                    None => {}
                })
            })
            .collect();
        let writing = {
            let world = world.clone();
            thread::spawn(move || {
                if let Some(reserved) = world.matching.reserve(&queue(), 3) {
                    drop(reserved);
                }
                world.matching.add(task(1));
            })
        };
        world.matching.shutdown();
        for poll in polls {
            poll.join().unwrap();
        }
        writing.join().unwrap();
    });
}
