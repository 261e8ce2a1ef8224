//! Items of many tasks become one call, and each gets its own result.
//!
//! It knows neither devices nor models: an [`Execute`] admits and executes batches. All items of a
//! [`Batcher`] may share a call; what must not be mixed goes to batchers of its own, which
//! [`Batchers`] keeps by key.
//!
//! # When a batch leaves
//!
//! When it is full, in items or in cost, or its oldest item has waited for [`Limits::delay`],
//! whichever is first. It then waits for a lane and for [`Execute::admit`]. Items that come in the
//! meantime still join: what is in the batch is decided when it may begin, so a busy device gets
//! full batches without anyone waiting for them.
//!
//! # Which items it takes, when there are more than fit
//!
//! 1. Urgent ones first: less urgent ones get only the places that more urgent ones leave.
//! 2. The oldest item of the most urgent priority that waits is always among them.
//! 3. Of each priority's oldest, as many as four batches hold, those are taken whose cost is nearest
//!    to that oldest item's, so that long and short ones are not mixed.
//! 4. When the oldest of the less urgent items has waited for ten times the delay, it passes: it gets a
//!    place before all others, in every second batch at most. So nothing waits for ever,
//!    and more urgent items have all the places but one of two batches.
//!
//! # What an error of a whole call means
//!
//! | kind | what follows |
//! |---|---|
//! | `Failed`, `Invalid`, a panic, a wrong number of results | the batch is halved until the item that fails is alone; it gets the error, the others their results |
//! | `BatchTooLarge` | it is halved, and [`SafeSizes`] remembers what fitted; an item that is too large alone gets the error |
//! | all others | every item of the batch that has no result yet gets it |
//!
//! A device that fails whatever it is given is not asked once for each item: when no part of a batch
//! succeeds in three splits, each of them a half of the one before, all that is left of the batch gets the
//! errors that it has. That is seven calls. (Four poison items, unluckily placed, look the same.)

mod answers;
mod batcher;
mod batchers;
mod dispatcher;
mod limits;
mod queue;
mod safe_sizes;
mod selection;
mod splitting;
mod stats;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub use batcher::Batcher;
pub use batchers::Batchers;
pub use limits::{BadLimits, Limits};
pub use safe_sizes::{SafeSizes, Size};
pub use stats::Stats;

/// An item on its way into a batch.
#[derive(Clone, Debug)]
pub struct Item<I> {
    /// What [`Execute::execute`] gets.
    pub value: I,
    /// In the unit of [`Limits::cost`]. An item above the limit makes a batch of its own.
    pub cost: u64,
    /// 1 is the most urgent, 5 the least, 3 the usual. Others are refused as [`Kind::Invalid`].
    pub priority: u8,
    /// It is refused with its reason when its batch has not begun by then.
    pub deadline: Option<Instant>,
}

impl<I> Item<I> {
    /// An item of cost 1 and the usual priority, without a deadline.
    pub fn new(value: I) -> Self {
        Self {
            value,
            cost: 1,
            priority: 3,
            deadline: None,
        }
    }
}

/// Why an item, or all that were in a call, have no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What it means for those whom it hits.
    pub kind: Kind,
    /// For people: what happened, with the numbers.
    pub message: String,
    /// When it is worth to try again, if anyone said so.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// Without a time after which to try again.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }
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
    /// The batch needs more memory than there is: half of it is tried. An item that gets this was
    /// alone in its call.
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

    /// Under which name the size that fits into memory is remembered: model and device, such as
    /// `minilm@3f2a on sim:0`.
    fn scope(&self) -> String;

    /// Why admission is not granted at this moment. Items that expire meanwhile say so.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// Returns when a batch may begin. While it waits, further items join, so it is told no more
    /// than how many are there: `items` of the sum `cost`. An error hits all that are waiting. The
    /// future is dropped when nobody waits any more.
    async fn admit(&self, items: usize, cost: u64) -> Result<Self::Permit, Error>;

    /// One result for each item, in their order. An error is that of the whole call. The future is
    /// dropped when nobody waits for any of its items. After an error it is called again with parts
    /// of the batch and the same permit.
    async fn execute(
        &self,
        permit: &mut Self::Permit,
        items: Vec<I>,
    ) -> Result<Vec<Result<O, Error>>, Error>;
}
