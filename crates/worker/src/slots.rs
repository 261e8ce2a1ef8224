//! The slots of a resource class, shared by all its queues.
//!
//! A class can have more than one queue: a worker of `accelerator` also polls `accelerator/<model>` for
//! the models that it holds. Core reserves a slot before it polls, and a poll of an idle queue keeps its
//! reservation for a minute; were that one of the class's slots, idle queues would starve busy ones.
//! So a reservation is only leave to poll. [`ClassSlots::reserve`] bounds those, and a task that arrives
//! takes its slot with [`ClassSlots::enter`], where it waits when queues brought more than there are
//! slots. A class with one queue never has a task that waits there.
//!
//! A [`Gate`] closes admissions while something is short that slots do not count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use temporalio_sdk_core::{
    ActivitySlotKind, FixedSizeSlotSupplier, LocalActivitySlotKind, NexusSlotKind,
    SlotMarkUsedContext, SlotReleaseContext, SlotReservationContext, SlotSupplier,
    SlotSupplierPermit, WorkerTuner, WorkflowSlotKind,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// How long a task that this worker has taken waits for a closed gate. No other worker can have it any
/// more, so it must not wait for good.
const GATE_WAIT_MOST: Duration = Duration::from_secs(30);

/// The slots of one class.
pub(crate) struct ClassSlots {
    slots: usize,
    semaphore: Arc<Semaphore>,
    gate: Arc<Gate>,
    polls: Mutex<Polls>,
    /// Something changed for those who wait to reserve.
    changed: Notify,
    used: AtomicUsize,
    waiting: AtomicUsize,
}

/// What core holds.
#[derive(Default)]
struct Polls {
    /// Reservations without a task.
    idle: usize,
    /// Tasks that have arrived and not ended.
    in_flight: usize,
}

impl ClassSlots {
    pub(crate) fn new(slots: usize, gate: Arc<Gate>) -> Arc<Self> {
        Arc::new(Self {
            slots,
            semaphore: Arc::new(Semaphore::new(slots)),
            gate,
            polls: Mutex::default(),
            changed: Notify::new(),
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// For the configuration of one queue's worker; each queue needs its own.
    pub(crate) fn tuner(self: &Arc<Self>) -> Arc<dyn WorkerTuner + Send + Sync> {
        Arc::new(Tuner(Arc::new(Queue {
            class: self.clone(),
            idle: Arc::default(),
        })))
    }

    /// A slot for a task that has arrived; it ends with the permit.
    pub(crate) async fn enter(self: &Arc<Self>) -> Permit {
        let waiting = Counted::new(self, |class| &class.waiting);
        let semaphore = self.semaphore.clone();
        let slot = semaphore
            .acquire_owned()
            .await
            .expect("nobody closes the semaphore");
        let _ = timeout(GATE_WAIT_MOST, self.gate.pass()).await;
        drop(waiting);
        Permit {
            _used: Counted::new(self, |class| &class.used),
            _slot: slot,
        }
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Tasks that hold a slot.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Tasks that wait in [`ClassSlots::enter`].
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Tasks that this worker has taken and not reported, with a slot or without.
    pub(crate) fn in_flight(&self) -> usize {
        self.polls.lock().in_flight
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Leave to poll: while slots are free, as many polls of all queues together as are free; and a
    /// queue that has no poll open always gets one, so that no queue keeps another from being seen.
    fn try_reserve(self: &Arc<Self>, idle_of_queue: &Arc<AtomicUsize>) -> Option<Reservation> {
        if !self.gate.is_open() {
            return None;
        }
        let mut polls = self.polls.lock();
        let free = self.slots.saturating_sub(polls.in_flight);
        let alone = idle_of_queue.load(Ordering::Acquire) == 0;
        if free == 0 || (polls.idle >= free && !alone) {
            return None;
        }
        polls.idle += 1;
        idle_of_queue.fetch_add(1, Ordering::AcqRel);
        Some(Reservation {
            class: self.clone(),
            idle_of_queue: idle_of_queue.clone(),
            arrived: AtomicBool::new(false),
        })
    }

    async fn reserve(self: &Arc<Self>, idle_of_queue: &Arc<AtomicUsize>) -> Reservation {
        loop {
            let changed = self.changed.notified();
            let mut gate = self.gate.subscribe();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(reservation) = self.try_reserve(idle_of_queue) {
                return reservation;
            }
            tokio::select! {
                () = changed => {}
                _ = gate.changed() => {}
            }
        }
    }
}

/// A slot in use.
pub(crate) struct Permit {
    _used: Counted,
    _slot: OwnedSemaphorePermit,
}

/// One more in a counter for as long as it lives.
struct Counted {
    class: Arc<ClassSlots>,
    of: fn(&ClassSlots) -> &AtomicUsize,
}

impl Counted {
    fn new(class: &Arc<ClassSlots>, of: fn(&ClassSlots) -> &AtomicUsize) -> Self {
        of(class).fetch_add(1, Ordering::AcqRel);
        Self {
            class: class.clone(),
            of,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.of)(&self.class).fetch_sub(1, Ordering::AcqRel);
    }
}

/// Leave to poll, later the mark of the task that the poll brought.
struct Reservation {
    class: Arc<ClassSlots>,
    idle_of_queue: Arc<AtomicUsize>,
    arrived: AtomicBool,
}

impl Reservation {
    fn mark_arrived(&self) {
        if self.arrived.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut polls = self.class.polls.lock();
        polls.idle -= 1;
        polls.in_flight += 1;
        self.idle_of_queue.fetch_sub(1, Ordering::AcqRel);
        drop(polls);
        // This queue has one poll less.
        self.class.changed.notify_waiters();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut polls = self.class.polls.lock();
        if *self.arrived.get_mut() {
            polls.in_flight -= 1;
        } else {
            polls.idle -= 1;
            self.idle_of_queue.fetch_sub(1, Ordering::AcqRel);
        }
        drop(polls);
        self.class.changed.notify_waiters();
    }
}

/// One queue of a class, as core asks for its slots.
struct Queue {
    class: Arc<ClassSlots>,
    /// Reservations of this queue without a task.
    idle: Arc<AtomicUsize>,
}

#[async_trait]
impl SlotSupplier for Queue {
    type SlotKind = ActivitySlotKind;

    async fn reserve_slot(&self, _: &dyn SlotReservationContext) -> SlotSupplierPermit {
        SlotSupplierPermit::with_user_data(self.class.reserve(&self.idle).await)
    }

    fn try_reserve_slot(&self, _: &dyn SlotReservationContext) -> Option<SlotSupplierPermit> {
        let reservation = self.class.try_reserve(&self.idle)?;
        Some(SlotSupplierPermit::with_user_data(reservation))
    }

    fn mark_slot_used(&self, used: &dyn SlotMarkUsedContext<SlotKind = ActivitySlotKind>) {
        if let Some(reservation) = used.permit().user_data::<Reservation>() {
            reservation.mark_arrived();
        }
    }

    /// The reservation frees itself when core drops it.
    fn release_slot(&self, _: &dyn SlotReleaseContext<SlotKind = ActivitySlotKind>) {}

    /// Core adds the reservations of this queue that have no task.
    fn available_slots(&self) -> Option<usize> {
        let free = self.class.slots.saturating_sub(self.class.in_flight());
        Some(free.saturating_sub(self.idle.load(Ordering::Acquire)))
    }

    fn slot_supplier_kind(&self) -> String {
        match self.class.gate.pace {
            None => "Fixed".to_owned(),
            Some(_) => "ResourceBased".to_owned(),
        }
    }
}

struct Tuner(Arc<Queue>);

/// No more than core demands of kinds that an activity worker never polls.
fn none<K>() -> Arc<FixedSizeSlotSupplier<K>> {
    Arc::new(FixedSizeSlotSupplier::new(1))
}

impl WorkerTuner for Tuner {
    fn workflow_task_slot_supplier(
        &self,
    ) -> Arc<dyn SlotSupplier<SlotKind = WorkflowSlotKind> + Send + Sync> {
        none()
    }

    fn activity_task_slot_supplier(
        &self,
    ) -> Arc<dyn SlotSupplier<SlotKind = ActivitySlotKind> + Send + Sync> {
        self.0.clone()
    }

    fn local_activity_slot_supplier(
        &self,
    ) -> Arc<dyn SlotSupplier<SlotKind = LocalActivitySlotKind> + Send + Sync> {
        none()
    }

    fn nexus_task_slot_supplier(
        &self,
    ) -> Arc<dyn SlotSupplier<SlotKind = NexusSlotKind> + Send + Sync> {
        none()
    }
}

/// Closed for as long as there is a reason: the host's CPU or memory is above its target, a device is
/// short of memory.
pub(crate) struct Gate {
    /// Reasons by their source.
    closed: watch::Sender<BTreeMap<&'static str, String>>,
    /// Least time between two admissions, so that what one admits is measured before the next.
    pace: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

impl Gate {
    /// One that is open until somebody closes it.
    pub(crate) fn open() -> Arc<Self> {
        Self::new(None)
    }

    /// One that admits one task in `pace` even while it is open.
    pub(crate) fn paced(pace: Duration) -> Arc<Self> {
        Self::new(Some(pace))
    }

    fn new(pace: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            closed: watch::Sender::default(),
            pace,
            next: Mutex::default(),
        })
    }

    /// Closes it or opens it again, as far as `source` is concerned. The reason is for people: `CPU of
    /// the host is 93 % busy, above its target of 80 %`.
    pub(crate) fn set(&self, source: &'static str, reason: Option<String>) {
        self.closed.send_if_modified(|closed| match reason {
            Some(reason) => closed.insert(source, reason.clone()) != Some(reason),
            None => closed.remove(source).is_some(),
        });
    }

    pub(crate) fn is_open(&self) -> bool {
        self.closed.borrow().is_empty()
    }

    /// Why it is closed; empty when it is open.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.closed.borrow().values().cloned().collect()
    }

    fn subscribe(&self) -> watch::Receiver<BTreeMap<&'static str, String>> {
        self.closed.subscribe()
    }

    /// Returns when it is open, and the pace allows one more.
    async fn pass(&self) {
        let mut closed = self.subscribe();
        loop {
            // The sender lives in `self`.
            let _ = closed.wait_for(BTreeMap::is_empty).await;
            let Some(pace) = self.pace else { return };
            let turn = {
                let now = Instant::now();
                let mut next = self.next.lock();
                match *next {
                    Some(at) if at > now => at,
                    _ => {
                        *next = Some(now + pace);
                        return;
                    }
                }
            };
            sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests;
