//! Why a task failed, in the terms in which it is decided what comes next.

use std::time::Duration;

use tidemill_pipeline::stage::StageType;

/// The failure of a whole task. Single items fail by being returned as failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub message: String,
    pub kind: ErrorKind,
    /// When to try again at the earliest, if whoever refused said so.
    pub retry_after: Option<Duration>,
}

/// The kind of a failure: the `type` of the activity's application failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The parameters or the input are wrong: trying again is useless.
    Invalid,
    /// Something is missing or not reachable at this moment.
    Unavailable,
    /// The artifact store is not reachable: the run waits until it is, however long that takes.
    ArtifactStoreUnavailable,
    /// Asked too often.
    RateLimited,
    /// A device is short of memory for a reason that passes: tried again, elsewhere if possible.
    OutOfMemory,
    /// The model needs more memory than a device has: trying again is useless.
    ModelTooLarge,
    /// Anything else; tried again as the stage's policy says.
    Failed,
    /// The run was cancelled, or the worker stops.
    Cancelled,
}

impl ErrorKind {
    /// The failure's `type` on the wire.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "Invalid",
            ErrorKind::Unavailable => "Unavailable",
            ErrorKind::ArtifactStoreUnavailable => "ArtifactStoreUnavailable",
            ErrorKind::RateLimited => "RateLimited",
            ErrorKind::OutOfMemory => "OutOfMemory",
            ErrorKind::ModelTooLarge => "ModelTooLarge",
            ErrorKind::Failed => "Failed",
            ErrorKind::Cancelled => "Cancelled",
        }
    }

    pub fn is_retryable(self) -> bool {
        !matches!(self, ErrorKind::Invalid | ErrorKind::ModelTooLarge)
    }
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            kind,
            retry_after: None,
        }
    }

    /// Wrong parameters or input: say where and what to do.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    pub(crate) fn wrong_kind(stage: &StageType) -> Self {
        Self::invalid(format!(
            "stage type {} is of kind {:?} and cannot be run as another",
            stage.name, stage.kind
        ))
    }
}
