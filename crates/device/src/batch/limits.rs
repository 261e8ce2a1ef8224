//! How large a batch may be, and how long it may take to fill.

use std::time::Duration;

use super::selection::Bounds;

/// When a batch is full, and how much may wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Items of a batch at most; at least 1.
    pub items: usize,
    /// How long an item waits for others. 0 is allowed: a batch is then what has gathered while
    /// the device was busy.
    pub delay: Duration,
    /// The sum of the items' costs (tokens, bytes) that a batch may have; at least 1.
    pub cost: Option<u64>,
    /// Every item of a batch costs as much as its dearest, as with padding.
    pub padded: bool,
    /// Items of each priority that may wait, at least 1; those who submit more wait until there is
    /// room. Each priority has room of its own, so that urgent items do not wait behind a queue full of others.
    pub queue: usize,
    /// Batches in execution at a time; at least 1.
    pub lanes: usize,
}

/// Limits under which nothing could ever run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLimits {
    /// [`Limits::items`] is 0.
    #[error("a batch of at most 0 items could never run: allow at least 1")]
    Items,
    /// [`Limits::cost`] is 0.
    #[error("a batch that may cost 0 could never run: allow at least 1, or leave the cost out")]
    Cost,
    /// [`Limits::queue`] is 0.
    #[error("a queue with room for 0 items takes none: give it room for at least 1")]
    Queue,
    /// [`Limits::lanes`] is 0.
    #[error("with 0 batches at a time nothing could ever run: allow at least 1")]
    Lanes,
}

impl Limits {
    /// Whether anything can run under these limits.
    pub fn check(&self) -> Result<(), BadLimits> {
        match self {
            Self { items: 0, .. } => Err(BadLimits::Items),
            Self { cost: Some(0), .. } => Err(BadLimits::Cost),
            Self { queue: 0, .. } => Err(BadLimits::Queue),
            Self { lanes: 0, .. } => Err(BadLimits::Lanes),
            _ => Ok(()),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            items: self.items,
            cost: self.cost,
            padded: self.padded,
        }
    }
}
