//! What can go wrong with artifacts.

use std::path::Path;

/// Why an artifact could not be stored or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached or written now: its folder is gone, its disk full, the network
    /// down. Worth trying again.
    #[error("the artifact store is not available: {0}")]
    Unavailable(String),
    /// The store is there, the object is not.
    #[error(
        "artifact {0} is not in the artifact store: it was collected, or this is another store than the one it was put into"
    )]
    Missing(String),
    /// The stored bytes do not have the hash that is their name.
    #[error(
        "artifact {0} is damaged: its bytes do not have that hash. Remove the object and run the stage that made it again"
    )]
    Corrupt(String),
    /// What was asked makes no sense; trying again is useless.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Whether the same call may succeed later without anyone changing it.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Unavailable(_))
    }

    pub(super) fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        Error::Unavailable(format!("cannot {what} {}: {error}", path.display()))
    }
}
