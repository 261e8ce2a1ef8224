//! The parts of the bench. Each spawns a server of its own, or uses the one that runs.

pub(crate) mod closed;
pub(crate) mod engine;
pub(crate) mod idle;
pub(crate) mod limits;
pub(crate) mod open;
pub(crate) mod payload;

use serde_json::Value;

use crate::table::Figure;

/// What a part measured.
pub(crate) struct Outcome {
    /// For the last line.
    pub(crate) report: Value,
    /// For the table.
    pub(crate) figures: Vec<Figure>,
}

/// A figure that is to be reached at this size only.
pub(crate) fn at_size<T: PartialEq>(
    size: T,
    full: T,
    wanted: crate::table::Wanted,
) -> crate::table::Wanted {
    match size == full {
        true => wanted,
        false => crate::table::Wanted::Nothing,
    }
}
