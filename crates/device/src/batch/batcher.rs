//! Where items come in.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::answers::{Answers, Waiter};
use super::queue::{PRIORITIES, Place, Queue, Queued};
use super::selection::{self, Bounds, Selection};
use super::stats::Counters;
use super::{BadLimits, Error, Execute, Item, Kind, Limits, SafeSizes, Stats, dispatcher};

/// The oldest of the less urgent items passes when it has waited for so many delays.
const PATIENCE_DELAYS: u32 = 10;
/// Items that enter the queue under one lock.
const CHUNK: usize = 1024;

/// Gathers items into batches, and hands each its own answer. When it is dropped it is closed.
pub struct Batcher<I, O> {
    shared: Arc<Shared<I, O>>,
}

impl<I, O> Batcher<I, O>
where
    I: Clone + Send + 'static,
    O: Send + 'static,
{
    /// Has to be called within a tokio runtime, on which the batches run then. `safe` may be shared
    /// with other batchers.
    pub fn new<E>(limits: Limits, execute: Arc<E>, safe: Arc<SafeSizes>) -> Result<Self, BadLimits>
    where
        E: Execute<I, O>,
    {
        limits.check()?;
        let shared = Arc::new(Shared::new(limits));
        tokio::spawn(dispatcher::dispatch(shared.clone(), execute, safe));
        Ok(Self { shared })
    }

    /// Returns when the item has its answer. While the queue is full it waits for room.
    ///
    /// When the future is dropped, the item leaves the queue, or its result is thrown away; a
    /// call is dropped when nobody waits for any of its items.
    ///
    /// Errors: those of the item and of its call; [`Kind::Expired`]; [`Kind::Cancelled`] when the
    /// batcher is closed; [`Kind::Invalid`] for a priority that there is not.
    pub async fn submit(&self, item: Item<I>) -> Result<O, Error> {
        let mut answers = self.submit_all(vec![item]).await;
        answers.pop().expect("one answer for each item")
    }

    /// As [`submit`](Self::submit) for each; the answers are in the order of the items. They may be
    /// more than the queue has room for. Equally urgent ones enter it in their order.
    pub async fn submit_all(&self, items: Vec<Item<I>>) -> Vec<Result<O, Error>> {
        let ticket = Ticket::new(&self.shared, items.len());
        ticket.enter(items).await;
        poll_fn(|cx| ticket.answers.poll(cx)).await
    }
}

impl<I, O> Batcher<I, O> {
    /// Refuses with `reason` what waits and what will come, as [`Kind::Cancelled`]; what is in execution ends.
    pub fn close(&self, reason: &str) {
        self.shared.close(reason);
    }

    /// Returns when it is closed and no batch is in execution.
    pub async fn closed(&self) {
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.shared.state.lock().ended() {
                return;
            }
            ended.await;
        }
    }

    /// Whether no item is in the queue or in execution.
    pub fn is_idle(&self) -> bool {
        let state = self.shared.state.lock();
        state.queue.is_empty() && state.running == 0
    }

    /// What it has done and holds.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The limits that it was made with.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }
}

impl<I, O> Drop for Batcher<I, O> {
    fn drop(&mut self) {
        self.shared.close("the batcher is gone");
    }
}

/// What those who submit, the dispatcher and the batches have in common.
pub(super) struct Shared<I, O> {
    pub(super) limits: Limits,
    pub(super) state: Mutex<State<I, O>>,
    /// For the dispatcher: something happened that it may have waited for.
    pub(super) changed: Notify,
    /// Closed, or a batch of a closed batcher ended.
    ended: Notify,
    /// Of each priority, as many permits as the queue has places.
    room: [Semaphore; PRIORITIES],
    pub(super) counters: Arc<Counters>,
}

pub(super) struct State<I, O> {
    pub(super) queue: Queue<Work<I, O>>,
    /// Those of the next batch.
    pub(super) bounds: Bounds,
    pub(super) phase: Phase,
    pub(super) running: usize,
    /// Why it is closed.
    pub(super) closed: Option<String>,
    /// The last batch took a less urgent item before others.
    passed: bool,
    batches: u64,
    items: u64,
    wait_sum: Duration,
}

/// What the queue waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Gathering,
    Lane,
    Admission,
}

/// What an item carries through the queue.
pub(super) struct Work<I, O> {
    pub(super) value: I,
    pub(super) waiter: Waiter<O>,
}

impl<I, O> State<I, O> {
    fn ended(&self) -> bool {
        self.closed.is_some() && self.running == 0
    }

    pub(super) fn full(&self) -> bool {
        selection::full(&self.queue, &self.bounds)
    }

    /// What the next batch would be.
    pub(super) fn next(&self, delay: Duration) -> Selection {
        selection::select(&self.queue, &self.bounds, self.passing(delay))
    }

    fn passing(&self, delay: Duration) -> Option<(u64, Place)> {
        if self.passed {
            return None;
        }
        let patience = delay.saturating_mul(PATIENCE_DELAYS);
        self.queue.passing(Instant::now(), patience)
    }
}

impl<I, O> Shared<I, O> {
    fn new(limits: Limits) -> Self {
        let room = limits.queue.min(Semaphore::MAX_PERMITS);
        Self {
            state: Mutex::new(State {
                queue: Queue::new(),
                bounds: limits.bounds(),
                phase: Phase::Gathering,
                running: 0,
                closed: None,
                passed: false,
                batches: 0,
                items: 0,
                wait_sum: Duration::ZERO,
            }),
            changed: Notify::new(),
            ended: Notify::new(),
            room: std::array::from_fn(|_| Semaphore::new(room)),
            counters: Arc::default(),
            limits,
        }
    }

    /// Takes the next batch out of the queue, in the order of cost. It counts as running from now on.
    pub(super) fn cut(&self) -> Vec<Queued<Work<I, O>>> {
        let mut state = self.state.lock();
        let passing = state.passing(self.limits.delay);
        let chosen = selection::select(&state.queue, &state.bounds, passing);
        let mut batch = self.take(&mut state, &chosen.places);
        if batch.is_empty() {
            return batch;
        }
        let now = Instant::now();
        state.passed = passing.is_some();
        state.running += 1;
        state.batches += 1;
        state.items += batch.len() as u64;
        state.wait_sum += batch
            .iter()
            .map(|item| now.saturating_duration_since(item.since))
            .sum::<Duration>();
        drop(state);
        batch.sort_by_key(|item| item.cost);
        batch
    }

    /// A batch ended.
    pub(super) fn end(&self) {
        self.state.lock().running -= 1;
        self.changed.notify_one();
        self.ended.notify_waiters();
    }

    /// Removes what is still there of these, and makes room for as many.
    fn take(&self, state: &mut State<I, O>, places: &[Place]) -> Vec<Queued<Work<I, O>>> {
        let mut freed = [0; PRIORITIES];
        let mut taken = Vec::with_capacity(places.len());
        for &place in places {
            if let Some(item) = state.queue.remove(place) {
                freed[usize::from(place.class)] += 1;
                taken.push(item);
            }
        }
        for (room, freed) in self.room.iter().zip(freed) {
            if freed > 0 {
                room.add_permits(freed);
            }
        }
        taken
    }

    /// All that wait get the same error.
    pub(super) fn refuse_all(&self, error: &Error) {
        let mut state = self.state.lock();
        let places = state.queue.places();
        let refused = self.take(&mut state, &places);
        drop(state);
        for item in refused {
            item.value.waiter.answer(Err(error.clone()));
        }
    }

    /// Takes out of the queue whose deadline has passed.
    pub(super) fn take_overdue(&self, state: &mut State<I, O>) -> Vec<Queued<Work<I, O>>> {
        let overdue = state.queue.overdue(Instant::now());
        match overdue.is_empty() {
            true => Vec::new(),
            false => self.take(state, &overdue),
        }
    }

    pub(super) fn close(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(reason.to_owned());
        drop(state);
        for room in &self.room {
            room.close();
        }
        self.refuse_all(&Error::new(Kind::Cancelled, reason));
        self.changed.notify_one();
        self.ended.notify_waiters();
    }

    fn closed(&self) -> Error {
        let state = self.state.lock();
        let reason = state.closed.as_deref().unwrap_or("the batcher is closed");
        Error::new(Kind::Cancelled, reason)
    }

    fn stats(&self) -> Stats {
        let state = self.state.lock();
        let places = state.batches as f64 * self.limits.items as f64;
        Stats {
            batches: state.batches,
            items: state.items,
            fill: match state.batches {
                0 => 0.0,
                _ => state.items as f64 / places,
            },
            queued: state.queue.len(),
            running: state.running,
            oldest_wait_s: state
                .queue
                .oldest()
                .map_or(0.0, |since| since.elapsed().as_secs_f64()),
            wait_sum_s: state.wait_sum.as_secs_f64(),
            ..self.counters.read()
        }
    }
}

/// A submission. Dropped before it has its answers, it takes its items back.
struct Ticket<'a, I, O> {
    shared: &'a Shared<I, O>,
    answers: Arc<Answers<O>>,
}

impl<'a, I, O> Ticket<'a, I, O> {
    fn new(shared: &'a Shared<I, O>, items: usize) -> Self {
        let counters = shared.counters.clone();
        counters.submitted.fetch_add(items as u64, Relaxed);
        Self {
            shared,
            answers: Arc::new(Answers::new(items, counters)),
        }
    }

    /// Returns when each item is in the queue or has its answer.
    async fn enter(&self, items: Vec<Item<I>>) {
        let mut rest = items.into_iter();
        let mut index = 0;
        while let Some(first) = rest.as_slice().first() {
            let (priority, deadline) = (first.priority, first.deadline);
            match self.room(priority, deadline).await {
                Ok(room) => {
                    let alike = rest.as_slice().iter().skip(1).take(CHUNK - 1);
                    let alike = alike
                        .take(room.available_permits())
                        .take_while(|item| item.priority == priority)
                        .count();
                    let more = match room.try_acquire_many(alike as u32) {
                        Ok(permits) => {
                            permits.forget();
                            alike
                        }
                        Err(_) => 0,
                    };
                    let chunk = rest.by_ref().take(1 + more);
                    self.push(index, chunk);
                    index += 1 + more;
                }
                Err(error) => {
                    rest.next();
                    self.waiter(index).answer(Err(error));
                    index += 1;
                }
            }
        }
    }

    /// Returns when the queue has room for one item of this priority, which is taken.
    async fn room(&self, priority: u8, deadline: Option<Instant>) -> Result<&Semaphore, Error> {
        let room = match priority {
            1..=5 => &self.shared.room[usize::from(priority) - 1],
            _ => {
                let message = format!("priority {priority}: it has to be 1 (most urgent) to 5");
                return Err(Error::new(Kind::Invalid, message));
            }
        };
        let acquired = match deadline {
            None => room.acquire().await,
            Some(deadline) => tokio::time::timeout_at(deadline, room.acquire())
                .await
                .map_err(|_| {
                    let queue = self.shared.limits.queue;
                    let what = format!("room in the queue, in which {queue} items are");
                    expired(self.answers.submitted, &what)
                })?,
        };
        match acquired {
            Ok(permit) => {
                permit.forget();
                Ok(room)
            }
            Err(_) => Err(self.shared.closed()),
        }
    }

    fn push(&self, index: usize, items: impl Iterator<Item = Item<I>>) {
        let mut state = self.shared.state.lock();
        if let Some(reason) = state.closed.clone() {
            drop(state);
            for (offset, _) in items.enumerate() {
                let closed = Error::new(Kind::Cancelled, reason.clone());
                self.waiter(index + offset).answer(Err(closed));
            }
            return;
        }
        let was_empty = state.queue.is_empty();
        let next_deadline = state.queue.next_deadline();
        let since = Instant::now();
        let queue = &mut state.queue;
        let places = items.enumerate().map(|(offset, item)| {
            let queued = Queued {
                cost: item.cost,
                since,
                deadline: item.deadline,
                value: Work {
                    value: item.value,
                    waiter: self.waiter(index + offset),
                },
            };
            queue.push(item.priority, queued)
        });
        self.answers.queued(index, places);
        let wake = was_empty
            || state.queue.next_deadline() != next_deadline
            || (state.phase == Phase::Gathering && state.full());
        drop(state);
        if wake {
            self.shared.changed.notify_one();
        }
    }

    fn waiter(&self, index: usize) -> Waiter<O> {
        Waiter::new(self.answers.clone(), index)
    }
}

impl<I, O> Drop for Ticket<'_, I, O> {
    fn drop(&mut self) {
        if self.answers.complete() {
            return;
        }
        let mut state = self.shared.state.lock();
        let places = self.answers.abandon();
        let removed = self.shared.take(&mut state, &places);
        drop(state);
        if !removed.is_empty() {
            self.shared.changed.notify_one();
        }
    }
}

/// The error of an item that has waited too long for `what`.
pub(super) fn expired(submitted: Instant, what: &str) -> Error {
    let waited = submitted.elapsed().as_secs_f64();
    let message = format!("waited {waited:.3} s for {what}, and its deadline passed");
    Error::new(Kind::Expired, message)
}
