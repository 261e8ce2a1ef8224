//! The commit queue: submissions of several lanes, a store that fails, a stop in the middle.

use std::collections::BTreeMap;
use std::sync::Arc;

use shuttle::sync::{Mutex, mpsc};
use shuttle::thread;
use tidemill_store_models::{Commit, Committer, Ticket};

use crate::explore::explore;
use crate::toy::{FAILS, Toy, commit};

/// What became of a submission.
#[derive(Debug)]
struct Done {
    ok: bool,
    /// The commit was in the store when its caller was told.
    stored: bool,
    /// The ticket that was known to be settled then.
    durable: Ticket,
}

#[derive(Default)]
struct Seen {
    /// By commit.
    done: BTreeMap<i64, Done>,
    /// Commits in the order in which their callers were told, but for those that came too late.
    told: Vec<i64>,
}

struct World {
    committer: Committer,
    store: Arc<Toy>,
    seen: Arc<Mutex<Seen>>,
}

impl World {
    fn new(outages: u32) -> Arc<Self> {
        let store = Arc::new(Toy::failing(outages));
        Arc::new(World {
            committer: Committer::start(store.clone()),
            store,
            seen: Arc::default(),
        })
    }

    fn submit(self: &Arc<Self>, lane: usize, generation: u64, number: i64, what: Commit) -> Ticket {
        let world = Arc::downgrade(self);
        let caller = thread::current().id();
        let on_done = Box::new(move |outcome: tidemill_store_models::committer::Outcome| {
            // Nobody is told when all is over.
            let Some(world) = world.upgrade() else { return };
            let done = Done {
                ok: outcome.is_ok(),
                stored: world.store.holds(number),
                durable: world.committer.durable(),
            };
            let mut seen = world.seen.lock().unwrap();
            // After the end the caller itself is refused; before, it may write what it submits.
            if thread::current().id() != caller || done.ok {
                seen.told.push(number);
            }
            let before = seen.done.insert(number, done);
            drop(seen);
            if let Some(before) = before {
                // A panic here would be caught by the committer.
                world.seen.lock().unwrap().told.extend([number, number]);
                eprintln!("told twice of {number}: {before:?}");
            }
        });
        // One lane hands over, the others write themselves when they are alone.
        match lane {
            0 => self.committer.submit(lane, generation, what, on_done),
            _ => self.committer.submit_here(lane, generation, what, on_done),
        }
    }

    /// All threads but this one have ended.
    fn check(&self, tickets: &BTreeMap<i64, Ticket>) {
        let seen = self.seen.lock().unwrap();
        assert_eq!(
            seen.done.keys().collect::<Vec<_>>(),
            tickets.keys().collect::<Vec<_>>(),
            "each is told, once"
        );
        let told: Vec<_> = seen.told.iter().map(|number| tickets[number]).collect();
        assert!(told.is_sorted_by(|a, b| a < b), "in order: {told:?}");
        for (number, done) in &seen.done {
            assert_eq!(done.ok, self.store.holds(*number), "{number}: {done:?}");
            assert_eq!(done.ok, done.stored, "{number}: {done:?}");
            assert!(
                !done.ok || done.durable >= tickets[number],
                "{number}: {done:?}"
            );
        }
        let stored: Vec<_> = self.store.applied().iter().map(|n| tickets[n]).collect();
        assert!(
            stored.is_sorted_by(|a, b| a < b),
            "once and in order: {stored:?}"
        );
    }
}

/// Each lane submits commits of its own; the second commit of lane 0 is refused by the store.
fn lanes(outages: u32) {
    let world = World::new(outages);
    let tickets = Arc::new(Mutex::new(BTreeMap::new()));
    let threads: Vec<_> = (0..2)
        .map(|lane: i64| {
            let (world, tickets) = (world.clone(), tickets.clone());
            thread::spawn(move || {
                for n in 0..3 {
                    let number = lane * 10 + n;
                    let fails = if number == 1 { FAILS } else { 0 };
                    let ticket = world.submit(lane as usize, 0, number, commit(number + fails));
                    tickets.lock().unwrap().insert(number, ticket);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    world.committer.close();
    let tickets = tickets.lock().unwrap();
    world.check(&tickets);
    let done = |number: i64| world.seen.lock().unwrap().done[&number].ok;
    assert!(!done(1) && !done(2), "2 rests on 1, which is not");
    for lane in [0, 10] {
        let fates: Vec<_> = (lane..lane + 3).map(done).collect();
        assert!(
            fates.is_sorted_by(|a, b| a >= b),
            "what rests on a failure: {fates:?}"
        );
        assert!(outages > 0 || lane == 0 || fates == [true; 3], "{fates:?}");
    }
}

#[test]
fn callers_are_told_in_order_of_what_is_stored() {
    explore(1_500, || lanes(0));
}

#[test]
fn a_store_that_fails_a_while_loses_no_answer() {
    explore(1_500, || lanes(2));
}

#[test]
fn a_stop_answers_all_that_were_submitted() {
    for lane in [0, 1] {
        explore(1_500, move || stop(lane));
    }
}

fn stop(lane: usize) {
    let world = World::new(0);
    let submitting = {
        let world = world.clone();
        thread::spawn(move || {
            (0..3)
                .map(|number| (number, world.submit(lane, 0, number, commit(number))))
                .collect::<BTreeMap<_, _>>()
        })
    };
    world.committer.close();
    // What was submitted by then is answered by now.
    let told = world.seen.lock().unwrap().told.len();
    let tickets = submitting.join().unwrap();
    assert_eq!(told, world.seen.lock().unwrap().told.len());
    world.check(&tickets);
    let fates: Vec<_> = {
        let seen = world.seen.lock().unwrap();
        seen.done.values().map(|done| done.ok).collect()
    };
    assert!(fates.is_sorted_by(|a, b| a >= b), "{fates:?}");
}

/// Nobody but the caller itself wakes the writer: it is on the way to sleep, asleep, or at work.
#[test]
fn whoever_waits_for_an_answer_gets_it() {
    explore(1_500, || {
        let store = Arc::new(Toy::failing(0));
        let committer = Arc::new(Committer::start(store));
        let callers: Vec<_> = (0..2)
            .map(|lane: i64| {
                let committer = committer.clone();
                thread::spawn(move || {
                    for n in 0..2 {
                        let (done, answer) = mpsc::channel();
                        let on_done = Box::new(move |outcome| done.send(outcome).unwrap());
                        committer.submit_here(lane as usize, 0, commit(lane * 10 + n), on_done);
                        assert!(answer.recv().unwrap().is_ok());
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
    });
}
