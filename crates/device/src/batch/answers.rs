//! Where the items of one submission get their answers: each exactly one, whatever happens to the
//! batch that it was in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::queue::Place;
use super::stats::Counters;
use super::{Error, Kind};

/// The answers of one submission.
///
/// Its lock is taken after that of the batcher's state, never before.
pub(super) struct Answers<O> {
    pub(super) submitted: Instant,
    counters: Arc<Counters>,
    inner: Mutex<Inner<O>>,
}

struct Inner<O> {
    slots: Vec<Slot<O>>,
    /// Slots without an answer.
    left: usize,
    abandoned: bool,
    waker: Option<Waker>,
}

/// Where an item is.
enum Slot<O> {
    Outside,
    /// Or in a batch that has just been cut.
    Queued(Place),
    Called(Arc<Call>),
    Done(Result<O, Error>),
}

/// A call in execution, for those who may lose interest in it.
pub(super) struct Call {
    wanted: AtomicUsize,
    unwanted: Notify,
}

impl Call {
    /// Returns when nobody waits for any of its items.
    pub(super) async fn unwanted(&self) {
        self.unwanted.notified().await;
    }

    fn leave(&self) {
        if self.wanted.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.unwanted.notify_one();
        }
    }
}

impl<O> Answers<O> {
    pub(super) fn new(items: usize, counters: Arc<Counters>) -> Self {
        Self {
            submitted: Instant::now(),
            counters,
            inner: Mutex::new(Inner {
                slots: (0..items).map(|_| Slot::Outside).collect(),
                left: items,
                abandoned: false,
                waker: None,
            }),
        }
    }

    /// The items from `first` on are in the queue, at these places.
    pub(super) fn queued(&self, first: usize, places: impl Iterator<Item = Place>) {
        let mut inner = self.inner.lock();
        for (slot, place) in inner.slots[first..].iter_mut().zip(places) {
            *slot = Slot::Queued(place);
        }
    }

    /// All answers in the order of submission, once.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Vec<Result<O, Error>>> {
        let mut inner = self.inner.lock();
        if inner.left > 0 {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let slots = std::mem::take(&mut inner.slots);
        drop(inner);
        Poll::Ready(slots.into_iter().map(Slot::answer).collect())
    }

    pub(super) fn complete(&self) -> bool {
        self.inner.lock().left == 0
    }

    /// Nobody will ask for the answers. Returns where items may be in the queue.
    pub(super) fn abandon(&self) -> Vec<Place> {
        let mut inner = self.inner.lock();
        inner.abandoned = true;
        self.counters.abandoned(inner.left);
        inner.left = 0;
        let slots = std::mem::take(&mut inner.slots);
        drop(inner);
        let mut places = Vec::new();
        for slot in slots {
            match slot {
                Slot::Queued(place) => places.push(place),
                Slot::Called(call) => call.leave(),
                Slot::Outside | Slot::Done(_) => {}
            }
        }
        places
    }

    fn put(&self, index: usize, result: Result<O, Error>) {
        let mut inner = self.inner.lock();
        if inner.abandoned {
            return;
        }
        self.counters.answered(&result);
        inner.slots[index] = Slot::Done(result);
        inner.left -= 1;
        if inner.left == 0
            && let Some(waker) = inner.waker.take()
        {
            drop(inner);
            waker.wake();
        }
    }
}

impl<O> Slot<O> {
    fn answer(self) -> Result<O, Error> {
        match self {
            Self::Done(result) => result,
            _ => unreachable!("no slot is left without an answer"),
        }
    }
}

/// The duty to answer one item. Dropped without an answer, it says that the batcher stopped.
pub(super) struct Waiter<O> {
    answers: Option<Arc<Answers<O>>>,
    index: usize,
}

impl<O> Waiter<O> {
    pub(super) fn new(answers: Arc<Answers<O>>, index: usize) -> Self {
        Self {
            answers: Some(answers),
            index,
        }
    }

    /// An answer that nobody waits for is thrown away.
    pub(super) fn answer(mut self, result: Result<O, Error>) {
        if let Some(answers) = self.answers.take() {
            answers.put(self.index, result);
        }
    }

    pub(super) fn submitted(&self) -> Option<Instant> {
        Some(self.answers.as_ref()?.submitted)
    }

    /// The item is about to be in `call`; false when nobody waits for it.
    fn join(&self, call: &Arc<Call>) -> bool {
        let Some(answers) = &self.answers else {
            return false;
        };
        let mut inner = answers.inner.lock();
        if inner.abandoned {
            return false;
        }
        inner.slots[self.index] = Slot::Called(call.clone());
        true
    }
}

impl<O> Drop for Waiter<O> {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            let stopped = Error::new(Kind::Cancelled, "the batcher stopped");
            answers.put(self.index, Err(stopped));
        }
    }
}

/// Begins a call with those of the `items` that somebody waits for; `None` when there are none.
pub(super) fn begin<T, O>(
    items: &mut Vec<T>,
    waiter: impl Fn(&T) -> &Waiter<O>,
) -> Option<Arc<Call>> {
    // It counts as wanted until all have joined: leaving may begin before joining ends.
    let call = Arc::new(Call {
        wanted: AtomicUsize::new(items.len() + 1),
        unwanted: Notify::new(),
    });
    items.retain(|item| {
        let joined = waiter(item).join(&call);
        if !joined {
            call.leave();
        }
        joined
    });
    call.leave();
    (!items.is_empty()).then_some(call)
}
