//! The failures that a caller of the engine can meet. They are Temporal's service errors
//! (engine contract section 12.1); the frontend alone knows their gRPC codes and detail messages.

use tidemill_proto::api::enums::v1::{
    NamespaceState, ResourceExhaustedCause, ResourceExhaustedScope,
};
use tidemill_proto::api::failure::v1::Failure;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    InvalidArgument(String),
    /// A run, task, activity or update that is missing, or closed for what was asked.
    #[error("{0}")]
    NotFound(String),
    #[error("Namespace {0} is not found.")]
    NamespaceNotFound(String),
    #[error("{message}")]
    WorkflowExecutionAlreadyStarted {
        message: String,
        start_request_id: String,
        run_id: String,
        first_execution_run_id: String,
    },
    #[error("Namespace already exists.")]
    NamespaceAlreadyExists,
    #[error("{0}")]
    AlreadyExists(String),
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("{0}")]
    WorkflowNotReady(String),
    #[error("Namespace {namespace} has invalid state: {state:?}.")]
    NamespaceInvalidState {
        namespace: String,
        state: NamespaceState,
        allowed: Vec<NamespaceState>,
    },
    #[error("{message}")]
    ResourceExhausted {
        cause: ResourceExhaustedCause,
        scope: ResourceExhaustedScope,
        message: String,
    },
    /// The worker answered a query with a failure.
    #[error("{message}")]
    QueryFailed {
        message: String,
        failure: Option<Box<Failure>>,
    },
    #[error("{0}")]
    PermissionDenied(String),
    #[error("{0}")]
    Aborted(String),
    /// An operation of a multi-operation that was not tried or was undone because another failed.
    #[error("Operation was aborted.")]
    MultiOperationAborted,
    /// One entry for each operation; `None` stands for one that succeeded.
    #[error("{message}")]
    MultiOperation {
        message: String,
        operations: Vec<Option<Error>>,
    },
    /// Retryable: the engine is stopping, or a commit failed and nothing of it was kept.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    DeadlineExceeded(String),
    #[error("{0}")]
    Canceled(String),
    #[error("{0}")]
    Unimplemented(String),
    /// A broken invariant. The run is rolled back and reported.
    #[error("{0}")]
    Internal(String),
    #[error("{0}")]
    DataLoss(String),
}

impl Error {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidArgument(message.into())
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::NotFound(message.into())
    }

    /// The answer to a mutation of a run that has ended.
    pub fn already_completed() -> Self {
        Self::NotFound("workflow execution already completed".into())
    }

    /// The run is about to close and takes no new work until its workflow task is done.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::ResourceExhausted {
            cause: ResourceExhaustedCause::BusyWorkflow,
            scope: ResourceExhaustedScope::Namespace,
            message: message.into(),
        }
    }

    /// A limit on concurrent work was reached.
    pub fn concurrent_limit(message: impl Into<String>) -> Self {
        Self::ResourceExhausted {
            cause: ResourceExhaustedCause::ConcurrentLimit,
            scope: ResourceExhaustedScope::Namespace,
            message: message.into(),
        }
    }
}
