//! One task queue: its tasks, its waiting pollers, and the rule that brings them together.
//!
//! All that happens to a queue happens under its own lock, held for memory work only. Reading
//! pages and waiting for a rate limit happen outside and come back through the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tidemill_store::{Nanos, QueueName, StoredTask};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::backlog::{Added, Backlog, Key, key_of};
use super::offer::{Offer, Transient, Transients};
use super::pollers::{PollerInfo, Pollers, WorkerInfo};
use super::rate::Limiter;
use super::reserve::Fulfilled;
use super::stats::Rates;
use super::{Config, TaskSource};
use crate::sync::{Mutex, MutexGuard, blocking_on, oneshot};

/// How long to wait after the store failed to read a page.
const READ_RETRY: Duration = Duration::from_secs(1);

/// Scaling decisions per second and queue (contract 8.5).
const SCALING_PER_SECOND: f64 = 10.0;
/// A poller that waited this long for its task is one too many.
const SCALE_DOWN_WAIT: Duration = Duration::from_secs(1);
/// A backlog whose head is older wants one more poller.
const SCALE_UP_AGE: Duration = Duration::from_millis(200);
/// So does a queue where tasks come faster than they go by this ratio.
const SCALE_UP_RATIO: f64 = 1.2;

/// What all queues share.
pub(super) struct Env {
    pub(super) config: Config,
    pub(super) source: Box<dyn TaskSource>,
    pub(super) wall: Box<dyn Fn() -> Nanos + Send + Sync>,
    pub(super) runtime: tokio::runtime::Handle,
}

/// A matched offer on its way to a poller. Plain data: nothing happens when it is dropped, so the
/// poll that waits for it must take it back (see `Waiting` in `poll`).
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) offer: Offer,
    /// Distinguishes successive handouts of one task.
    pub(super) handout: u64,
    pub(super) from_backlog: bool,
    pub(super) backlog_count: i64,
    pub(super) scaling: Option<i32>,
}

/// What comes to a poll that waits.
pub(super) enum Arrival {
    Offer(Delivery),
    /// A task that has started for this poll, see [`reserve`](super::reserve).
    Started(Fulfilled),
    /// There was to be one, and is not: poll again.
    Again,
}

/// A poll that waits.
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) identity: Arc<str>,
    pub(super) sticky: bool,
    pub(super) worker: Arc<WorkerInfo>,
    pub(super) deliver: oneshot::Sender<Arrival>,
}

pub(super) struct Queue {
    pub(super) name: QueueName,
    pub(super) env: Arc<Env>,
    state: Mutex<State>,
}

pub(super) struct State {
    /// Removed from the map of queues: look the queue up again.
    pub(super) dead: bool,
    /// The service stopped: nothing is handed out any more.
    pub(super) closed: bool,
    pub(super) sticky: bool,
    pub(super) backlog: Backlog,
    pub(super) transients: Transients,
    /// By arrival.
    pub(super) waiters: BTreeMap<u64, Waiter>,
    next: u64,
    /// Handouts that are neither finished nor put back.
    pub(super) outstanding: usize,
    pub(super) limiter: Limiter,
    /// When the queue is looked at again for its rate limit.
    timer: Option<(Instant, AbortHandle)>,
    pub(super) rates: Rates,
    pub(super) pollers: Pollers,
    scaling: Limiter,
    /// Own tasks that wait in another queue (sticky tasks sent to the normal queue).
    pub(super) forwarded: HashMap<Key, QueueName>,
    pub(super) touched: Instant,
}

/// Where the next offer comes from.
enum Next {
    Transient,
    Task,
}

/// What a poll finds when it begins.
#[expect(
    clippy::large_enum_variant,
    reason = "lives for a moment on the stack, once for each poll"
)]
pub(super) enum Begun {
    Delivery(Delivery),
    Wait(u64, oneshot::Receiver<Arrival>),
    Closed,
}

impl Queue {
    pub(super) fn new(name: QueueName, env: Arc<Env>, stored: bool) -> Self {
        let now = Instant::now();
        let max = env.config.memory_tasks_max;
        let mut scaling = Limiter::new(now);
        scaling.set_worker(SCALING_PER_SECOND, now);
        let state = State {
            dead: false,
            closed: false,
            sticky: false,
            backlog: if stored {
                Backlog::unloaded(max)
            } else {
                Backlog::new(max)
            },
            transients: Transients::default(),
            waiters: BTreeMap::new(),
            next: 0,
            outstanding: 0,
            limiter: Limiter::new(now),
            timer: None,
            rates: Rates::new(now),
            pollers: Pollers::default(),
            scaling,
            forwarded: HashMap::new(),
            touched: now,
        };
        Self {
            name,
            env,
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn foreign(&self, task: &StoredTask) -> bool {
        task.task.key.queue != self.name
    }

    /// A task became durable. True when it went to a waiting poller at once.
    pub(super) fn add(self: &Arc<Self>, s: &mut State, task: StoredTask) -> bool {
        let now = Instant::now();
        s.touched = now;
        let foreign = self.foreign(&task);
        let key = key_of(&task);
        let nothing_waits = s.backlog.first().is_none();
        match s.backlog.add(task, foreign) {
            Added::Known => return false,
            Added::StoreOnly => {
                s.rates.added(key.0, now);
                return false;
            }
            Added::Memory => s.rates.added(key.0, now),
        }
        self.pump(s, nothing_waits);
        !s.backlog.holds(key)
    }

    /// A task whose handout was finished is to be offered again.
    pub(super) fn add_again(self: &Arc<Self>, s: &mut State, task: StoredTask) {
        s.touched = Instant::now();
        let foreign = self.foreign(&task);
        s.backlog.add_again(task, foreign);
        self.pump(s, false);
    }

    /// Offers what is never in the store.
    pub(super) fn add_transient(self: &Arc<Self>, s: &mut State, offer: Transient) {
        let now = Instant::now();
        s.touched = now;
        if let Transient::Speculative(task) = &offer {
            s.rates.added(task.priority, now);
        }
        s.transients.push(offer, now);
        self.pump(s, true);
    }

    /// The row of a task was deleted. Returns the queue that holds the task, if another does.
    pub(super) fn remove(self: &Arc<Self>, s: &mut State, key: Key) -> Option<QueueName> {
        s.touched = Instant::now();
        let holder = s.forwarded.remove(&key);
        if holder.is_none() {
            s.backlog.remove(key);
            self.read_page_if_wanted(s);
        }
        holder
    }

    /// Begins a poll: brings a task at once or leaves a waiter behind.
    pub(super) fn begin_poll(
        self: &Arc<Self>,
        s: &mut State,
        poller: PollerInfo,
        sticky: bool,
    ) -> Begun {
        let now = Instant::now();
        s.touched = now;
        if s.closed {
            return Begun::Closed;
        }
        let rate = poller.max_tasks_per_second;
        let (identity, worker) = (poller.identity.clone(), poller.worker.clone());
        s.pollers
            .began(poller, now, self.env.config.poller_retention);
        if let Some(rate) = rate
            && s.limiter.set_worker(rate, now)
        {
            self.rearm(s);
        }
        // Those who wait already come first; whatever they could have, they have.
        let (deliver, mut receive) = oneshot::channel();
        s.next += 1;
        let id = s.next;
        s.waiters.insert(
            id,
            Waiter {
                since: now,
                identity,
                sticky,
                worker,
                deliver,
            },
        );
        self.pump(s, false);
        match receive.try_recv() {
            Ok(Arrival::Offer(delivery)) => Begun::Delivery(delivery),
            // Nobody else knows of this poll before the lock is given back.
            Ok(Arrival::Started(_) | Arrival::Again) | Err(_) => Begun::Wait(id, receive),
        }
    }

    /// Ends a poll, whatever came of it; `undelivered` goes back to the front.
    pub(super) fn end_poll(
        self: &Arc<Self>,
        s: &mut State,
        waiter: Option<u64>,
        identity: &Arc<str>,
        undelivered: Option<Delivery>,
    ) {
        let now = Instant::now();
        s.touched = now;
        if let Some(id) = waiter {
            s.waiters.remove(&id);
        }
        s.pollers.ended(identity, now, (self.env.wall)());
        if let Some(delivery) = undelivered {
            self.put_back(s, delivery.offer, delivery.handout);
        }
    }

    /// Ends a waiting poll whose time is over. False when it waits for none but its own task any more,
    /// or has it.
    pub(super) fn withdraw(&self, s: &mut State, waiter: u64) -> bool {
        s.waiters.remove(&waiter).is_some()
    }

    /// Ends all waiting polls empty.
    pub(super) fn end_polls(&self, s: &mut State) {
        // A dropped sender is an empty answer.
        s.waiters.clear();
    }

    /// Ends the waiting polls of one worker empty.
    pub(super) fn end_polls_of(&self, s: &mut State, instance: &str) {
        s.waiters
            .retain(|_, waiter| waiter.worker.worker_instance_key != instance);
    }

    /// The service stops. A timer would keep the queue, and with it the store, until it runs out.
    pub(super) fn close(&self, s: &mut State) {
        s.closed = true;
        if let Some((_, timer)) = s.timer.take() {
            timer.abort();
        }
        self.end_polls(s);
    }

    /// A handed out offer did not reach its worker, or its start is to be tried again.
    pub(super) fn put_back(self: &Arc<Self>, s: &mut State, offer: Offer, handout: u64) {
        let now = Instant::now();
        s.touched = now;
        s.outstanding -= 1;
        match offer {
            Offer::Task(task) => {
                let foreign = self.foreign(&task);
                let key = key_of(&task);
                if s.backlog.put_back(task, handout, foreign) {
                    s.limiter.refund();
                    s.rates.undispatched(key.0, now);
                }
            }
            Offer::Speculative(task) => {
                s.rates.undispatched(task.priority, now);
                s.transients.push_front(Transient::Speculative(task));
            }
            Offer::Query(task) => s.transients.push_front(Transient::Query(task)),
        }
        self.pump(s, false);
    }

    /// A handed out offer needs nothing more.
    pub(super) fn finish(self: &Arc<Self>, s: &mut State, offer: &Offer, handout: u64) {
        s.outstanding -= 1;
        if let Offer::Task(task) = offer {
            s.backlog.finish(key_of(task), handout);
        }
        self.read_page_if_wanted(s);
    }

    pub(super) fn set_api_rate(self: &Arc<Self>, s: &mut State, rate: Option<f64>) {
        let now = Instant::now();
        s.touched = now;
        if s.limiter.set_api(rate, now) {
            self.rearm(s);
            self.pump(s, false);
        }
    }

    /// The best offer that may go now: priority first; within one, what is in memory only goes
    /// before stored tasks, because it is short-lived and somebody waits for it.
    fn next_offer(&self, s: &mut State, now: Instant) -> Option<Next> {
        let task = s.backlog.first();
        match s.transients.first(now) {
            Some(priority) if task.is_none_or(|task| priority <= task.0) => Some(Next::Transient),
            transient => {
                if task.is_some() && s.limiter.try_take(now) {
                    Some(Next::Task)
                } else {
                    transient.map(|_| Next::Transient)
                }
            }
        }
    }

    /// Hands offers to waiting polls for as long as there are both. `fresh`: what is there now
    /// found no earlier chance, so it does not come from a backlog.
    fn pump(self: &Arc<Self>, s: &mut State, fresh: bool) {
        let now = Instant::now();
        while !s.closed && !s.waiters.is_empty() {
            let Some(next) = self.next_offer(s, now) else {
                break;
            };
            self.deliver(s, next, fresh, now);
        }
        if !s.waiters.is_empty() && s.backlog.first().is_some() {
            self.arm(s, now);
        }
        self.read_page_if_wanted(s);
    }

    fn deliver(self: &Arc<Self>, s: &mut State, next: Next, fresh: bool, now: Instant) {
        s.next += 1;
        let handout = s.next;
        let offer = match next {
            Next::Transient => s.transients.pop().map(Offer::from),
            Next::Task => s.backlog.hand_out(handout).map(Offer::Task),
        };
        let Some(offer) = offer else { return };
        match &offer {
            Offer::Task(task) => s.rates.dispatched(task.task.key.priority, now),
            Offer::Speculative(task) => s.rates.dispatched(task.priority, now),
            Offer::Query(_) => {}
        }
        s.outstanding += 1;
        let mut delivery = Delivery {
            offer,
            handout,
            from_backlog: !fresh,
            backlog_count: s.backlog.count(),
            scaling: None,
        };
        while let Some((_, waiter)) = s.waiters.pop_first() {
            delivery.scaling = self.scaling(s, now, waiter.since, fresh);
            match waiter.deliver.send(Arrival::Offer(delivery)) {
                // This poll has gone; the next in line gets it.
                Err(Arrival::Offer(undelivered)) => delivery = undelivered,
                Ok(()) | Err(_) => return,
            }
        }
        self.put_back(s, delivery.offer, delivery.handout);
    }

    /// Whether the worker should poll more or less (contract 8.5).
    pub(super) fn scaling(
        &self,
        s: &mut State,
        now: Instant,
        since: Instant,
        fresh: bool,
    ) -> Option<i32> {
        let waited = now.saturating_duration_since(since);
        let delta = if waited >= SCALE_DOWN_WAIT && fresh {
            -1
        } else if self.backlog_age(s) > SCALE_UP_AGE {
            1
        } else {
            let (add, dispatch) = s.rates.per_second(None, now);
            if dispatch > 0.0 && add / dispatch > SCALE_UP_RATIO {
                1
            } else {
                return None;
            }
        };
        s.scaling.try_take(now).then_some(delta)
    }

    pub(super) fn backlog_age(&self, s: &State) -> Duration {
        if s.backlog.count() == 0 {
            return Duration::ZERO;
        }
        self.age(s.backlog.oldest(None))
    }

    pub(super) fn age(&self, created: Option<Nanos>) -> Duration {
        let age = created.map_or(0, |created| (self.env.wall)().saturating_sub(created));
        Duration::from_nanos(age.max(0).unsigned_abs())
    }

    /// Sees to it that the queue is looked at when the rate limit allows the next task.
    fn arm(self: &Arc<Self>, s: &mut State, now: Instant) {
        if s.closed || s.timer.is_some() {
            return;
        }
        let Some(at) = s.limiter.ready_at(now) else {
            return;
        };
        let queue = Arc::clone(self);
        let timer = self.env.runtime.spawn(async move {
            tokio::time::sleep_until(at).await;
            let mut s = queue.lock();
            if s.timer.as_ref().is_some_and(|(armed, _)| *armed == at) {
                s.timer = None;
                queue.pump(&mut s, false);
            }
        });
        s.timer = Some((at, timer.abort_handle()));
    }

    /// The rate changed: what was armed is wrong.
    fn rearm(self: &Arc<Self>, s: &mut State) {
        if let Some((_, timer)) = s.timer.take() {
            timer.abort();
        }
    }

    /// Reads the next page when memory has drained and somebody polls.
    fn read_page_if_wanted(self: &Arc<Self>, s: &mut State) {
        let wanted = s.pollers.polls() > 0 || s.backlog.should_verify();
        if wanted && !s.closed && s.backlog.wants_page() {
            self.read_page(s);
        }
    }

    pub(super) fn read_page(self: &Arc<Self>, s: &mut State) {
        let from = s.backlog.begin_page();
        let queue = Arc::clone(self);
        blocking_on(&self.env.runtime, move || queue.read_tasks(from));
    }

    /// Reads one page; when more is wanted, `pump` asks for the next. Blocks.
    fn read_tasks(self: &Arc<Self>, from: Key) {
        let size = self.lock().backlog.page_size();
        match self.env.source.read_tasks(&self.name, from, size) {
            Ok(rows) => {
                let mut s = self.lock();
                s.backlog.end_page(rows);
                self.pump(&mut s, false);
            }
            Err(error) => {
                tracing::error!(queue = %self.name.name, %error, "cannot read tasks");
                self.lock().backlog.abandon_page();
                self.retry_later();
            }
        }
        self.count();
    }

    fn retry_later(self: &Arc<Self>) {
        let queue = Arc::clone(self);
        self.env.runtime.spawn(async move {
            tokio::time::sleep(READ_RETRY).await;
            queue.read_page_if_wanted(&mut queue.lock());
        });
    }

    /// Counts the rows in the store. Blocks. Rows that change meanwhile make it count again, a few
    /// times; after that the figure is as good as it gets until all rows have been read.
    pub(super) fn count(&self) {
        for last in [false, false, true] {
            let (counted, changes) = {
                let s = self.lock();
                (s.backlog.counted(), s.backlog.changes())
            };
            if counted {
                return;
            }
            match self.env.source.count_tasks(&self.name) {
                Ok((rows, oldest)) => {
                    let mut s = self.lock();
                    if last || s.backlog.changes() == changes {
                        s.backlog.set_count(rows, oldest);
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(queue = %self.name.name, %error, "cannot count tasks");
                    return;
                }
            }
        }
    }

    /// True when nothing would be lost by forgetting the queue.
    pub(super) fn is_idle(&self, s: &State, now: Instant) -> bool {
        let config = &self.env.config;
        let idle_after = if s.sticky {
            config.sticky_idle_after
        } else {
            config.idle_after
        };
        s.backlog.is_empty()
            && s.transients.is_empty()
            && s.forwarded.is_empty()
            && s.outstanding == 0
            && s.pollers.polls() == 0
            && s.limiter.api_rate().is_none()
            && now.saturating_duration_since(s.touched) >= idle_after
    }

    /// Drops what has expired.
    pub(super) fn tidy(self: &Arc<Self>, s: &mut State, now: Instant) {
        s.transients.purge(now);
        s.pollers.prune(now, self.env.config.poller_retention);
        if s.backlog.should_verify() && !s.closed {
            self.read_page(s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Rig, queue, seq_of};
    use super::*;

    /// A poll whose receiver has gone while its waiter is still in the queue.
    fn going(rig: &Rig) {
        let poller = PollerInfo {
            identity: "going".into(),
            last_access: 0,
            max_tasks_per_second: None,
            worker: Arc::default(),
        };
        let begun = rig
            .matching
            .with_queue(&queue("q"), |queue, s| queue.begin_poll(s, poller, false));
        assert!(matches!(begun, Begun::Wait(..)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_just_going_is_passed_over() {
        let rig = Rig::new();
        going(&rig);
        let (handout, added) = tokio::join!(rig.poll("q", 10), async { rig.add("q", 3, 1) });
        assert!(added);
        rig.start(handout.unwrap());
        going(&rig);
        assert!(!rig.add("q", 3, 2));
        assert_eq!(rig.stats("q").backlog_count, 1);
        assert_eq!(seq_of(&rig.poll("q", 1).await.unwrap()), 2);
    }
}
