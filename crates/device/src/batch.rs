//! Items of many tasks become one call, and each gets its own result.
//!
//! It knows neither devices nor models: an [`Execute`] admits and executes batches.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

/// When a batch is full, and how much may wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Items of a batch at most; at least 1.
    pub items: usize,
    /// How long an item waits for others.
    pub delay: Duration,
    /// The sum of the items' costs (tokens, bytes) that a batch may have.
    pub cost: Option<u64>,
    /// Every item of a batch costs as much as its dearest, as with padding.
    pub padded: bool,
    /// Items that may wait; those who submit more wait until there is room.
    pub queue: usize,
    /// Batches in execution at a time.
    pub lanes: usize,
}

/// An item on its way into a batch.
#[derive(Clone, Debug)]
pub struct Item<I> {
    pub value: I,
    /// In the unit of [`Limits::cost`]. An item above the limit makes a batch of its own.
    pub cost: u64,
    /// 1 is the most urgent, 5 the least, 3 the usual.
    pub priority: u8,
    /// It is refused with its reason when its batch has not begun by then.
    pub deadline: Option<Instant>,
}

/// Why an item, or all that were in a call, have no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub retry_after: Option<Duration>,
}

/// What an error means for the items that it hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The call broke; perhaps for one item's sake. The batch is split to find out.
    Failed,
    /// This item is wrong, and no other call would make it right. Never of a whole call.
    Invalid,
    /// Nothing can be done now: all items are handed back, to be tried again later.
    Unavailable,
    /// The same, because the server was asked too often.
    RateLimited,
    /// Memory is short for a reason that passes: tried again later, elsewhere if possible.
    OutOfMemory,
    /// The batch needs more memory than there is: half of it is tried.
    BatchTooLarge,
    /// The model alone needs more memory than there is: never tried again.
    ModelTooLarge,
    /// The item waited past its deadline.
    Expired,
    /// Whoever submitted it went away, or the worker stops.
    Cancelled,
}

/// What runs batches.
#[async_trait]
pub trait Execute<I, O>: Send + Sync + 'static {
    /// Held from the admission of a batch to its end: a lease, a loaded model.
    type Permit: Send;

    /// Returns when a batch may begin. While it waits, further items join, so it is told no more
    /// than how many are there: `items` of the sum `cost`. An error hits all that are waiting.
    async fn admit(&self, items: usize, cost: u64) -> Result<Self::Permit, Error>;

    /// One result for each item, in their order. An error is that of the whole call.
    async fn execute(
        &self,
        permit: &mut Self::Permit,
        items: Vec<I>,
    ) -> Result<Vec<Result<O, Error>>, Error>;
}
