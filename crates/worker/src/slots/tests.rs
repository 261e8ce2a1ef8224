use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

type Idle = Arc<AtomicUsize>;

fn class(slots: usize) -> Arc<ClassSlots> {
    ClassSlots::new(slots, Gate::open())
}

fn polls_open(class: &Arc<ClassSlots>, queue: &Idle) -> Vec<Reservation> {
    std::iter::from_fn(|| class.try_reserve(queue)).collect()
}

fn is_ready<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(future.poll(&mut context), Poll::Ready(_))
}

#[test]
fn one_queue_never_takes_more_tasks_than_there_are_slots() {
    let class = class(4);
    let queue = Idle::default();
    let polls = polls_open(&class, &queue);
    assert_eq!(polls.len(), 4);
    polls.iter().for_each(Reservation::mark_arrived);
    assert_eq!(class.in_flight(), 4);
    // No poll is open, and yet there is no leave to poll: every slot has its task.
    assert!(class.try_reserve(&queue).is_none());
    drop(polls);
    assert_eq!(class.in_flight(), 0);
    assert_eq!(polls_open(&class, &queue).len(), 4);
}

#[test]
fn idle_queues_do_not_starve_a_busy_one() {
    let class = class(1);
    let (idle, busy) = (Idle::default(), Idle::default());
    let idle_polls = polls_open(&class, &idle);
    assert_eq!(idle_polls.len(), 1);
    for _ in 0..3 {
        let polls = polls_open(&class, &busy);
        assert_eq!(polls.len(), 1, "the other queue's poll is no task");
        polls[0].mark_arrived();
        assert!(class.try_reserve(&busy).is_none(), "the slot has its task");
    }
    drop(idle_polls);
}

#[test]
fn further_queues_cost_at_most_one_poll_each_beyond_the_free_slots() {
    for slots in 1..6 {
        for queues in 1..5 {
            let class = class(slots);
            let queues: Vec<Idle> = (0..queues).map(|_| Idle::default()).collect();
            let polls: Vec<_> = queues.iter().map(|q| polls_open(&class, q)).collect();
            assert!(polls.iter().all(|of_queue| !of_queue.is_empty()));
            let open: usize = polls.iter().map(Vec::len).sum();
            assert!(open < slots + queues.len(), "{open} of {slots} slots");
        }
    }
}

#[test]
fn a_reservation_frees_what_it_held_exactly_once() {
    let class = class(2);
    let queue = Idle::default();
    let reservation = class.try_reserve(&queue).unwrap();
    reservation.mark_arrived();
    reservation.mark_arrived();
    assert_eq!((class.in_flight(), class.polls.lock().idle), (1, 0));
    drop(reservation);
    drop(class.try_reserve(&queue));
    assert_eq!((class.in_flight(), class.polls.lock().idle), (0, 0));
    assert_eq!(queue.load(Ordering::Acquire), 0);
}

#[tokio::test]
async fn a_freed_slot_wakes_who_waits_to_poll() {
    let class = class(1);
    let (first, second) = (Idle::default(), Idle::default());
    let task = class.try_reserve(&first).unwrap();
    task.mark_arrived();
    let mut waits = pin!(class.reserve(&second));
    assert!(!is_ready(waits.as_mut()));
    drop(task);
    waits.await;
    // One that gives up waiting leaves nothing behind.
    assert_eq!(class.polls.lock().idle, 0);
    assert_eq!(class.in_flight(), 0);
}

#[tokio::test]
async fn a_task_that_arrives_when_all_slots_are_used_waits_for_its_own() {
    let class = class(2);
    let first = class.enter().await;
    let _second = class.enter().await;
    let mut third = pin!(class.enter());
    assert!(!is_ready(third.as_mut()));
    assert_eq!((class.used(), class.waiting()), (2, 1));
    drop(first);
    let third = third.await;
    assert_eq!((class.used(), class.waiting()), (2, 0));
    drop(third);
    assert_eq!(class.used(), 1);
    {
        let _fourth = class.enter().await;
        let mut fifth = pin!(class.enter());
        assert!(!is_ready(fifth.as_mut()));
    }
    assert_eq!((class.used(), class.waiting()), (1, 0), "one that gave up");
}

#[tokio::test(start_paused = true)]
async fn a_closed_gate_stops_polls_and_tasks() {
    let gate = Gate::open();
    let class = ClassSlots::new(2, gate.clone());
    let queue = Idle::default();
    gate.set("cpu", Some("busy".into()));
    gate.set("memory", Some("short".into()));
    assert_eq!(gate.reasons(), ["busy", "short"]);
    let mut poll = pin!(class.reserve(&queue));
    let mut task = pin!(class.enter());
    assert!(!is_ready(poll.as_mut()) && !is_ready(task.as_mut()));
    gate.set("cpu", None);
    assert!(!is_ready(poll.as_mut()) && !is_ready(task.as_mut()));
    gate.set("memory", None);
    poll.await;
    task.await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_taken_does_not_wait_for_a_gate_for_good() {
    let gate = Gate::open();
    gate.set("cpu", Some("busy".into()));
    let class = ClassSlots::new(2, gate);
    let start = Instant::now();
    let _permit = class.enter().await;
    assert_eq!(start.elapsed(), GATE_WAIT_MOST);
    assert_eq!(class.used(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_paced_gate_admits_one_at_a_time_and_none_once_it_closes() {
    let pace = Duration::from_millis(50);
    let gate = Gate::paced(pace);
    let class = ClassSlots::new(8, gate.clone());
    let start = Instant::now();
    let mut permits = Vec::new();
    for _ in 0..3 {
        permits.push(class.enter().await);
    }
    assert_eq!(start.elapsed(), pace * 2);
    let mut fourth = pin!(class.enter());
    assert!(!is_ready(fourth.as_mut()));
    gate.set("cpu", Some("busy".into()));
    let waited = timeout(pace * 100, fourth.as_mut()).await;
    assert!(
        waited.is_err(),
        "it closed while the fourth had its turn to come"
    );
    gate.set("cpu", None);
    fourth.await;
}
