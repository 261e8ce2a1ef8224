//! What a start does when its workflow id is in use: by an open run (conflict policy) or by a
//! closed one (reuse policy). Contract sections 4.2 and 4.3.

use tidemill_proto::api::enums::v1::{
    WorkflowExecutionStatus as Status, WorkflowIdConflictPolicy as Conflict, WorkflowIdReusePolicy as Reuse,
};

use crate::Error;
use crate::run::Run;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No run is in the way.
    Create,
    /// The open run is terminated in the same commit.
    Replace,
    /// The open run is the answer.
    UseExisting,
    /// This very request has made the run that is there (it may have closed since).
    Repeated,
    /// This very request was attached to the run that is there.
    Attached,
}

/// Decides what becomes of a start request.
pub fn decide(current: Option<&Run>, request_id: &str, reuse: Reuse, conflict: Conflict) -> Result<Decision, Error> {
    let Some(run) = current else { return Ok(Decision::Create) };
    if !request_id.is_empty() && run.core.create_request_id == request_id {
        return Ok(Decision::Repeated);
    }
    if run.attached.contains_key(request_id) {
        return Ok(Decision::Attached);
    }
    let (reuse, conflict) = match reuse {
        Reuse::TerminateIfRunning => (Reuse::AllowDuplicate, Conflict::TerminateExisting),
        other => (other, conflict),
    };
    if run.is_open() {
        return match conflict {
            Conflict::UseExisting => Ok(Decision::UseExisting),
            Conflict::TerminateExisting => Ok(Decision::Replace),
            Conflict::Fail | Conflict::Unspecified => {
                Err(already_started(run, "Workflow execution is already running."))
            }
        };
    }
    let clean = matches!(run.status(), Status::Completed | Status::ContinuedAsNew);
    match reuse {
        Reuse::AllowDuplicateFailedOnly if clean => {
            Err(already_started(run, "Workflow execution already finished successfully."))
        }
        Reuse::RejectDuplicate => Err(already_started(run, "Workflow execution already finished.")),
        _ => Ok(Decision::Create),
    }
}

/// The error that names the run in the way.
pub fn already_started(run: &Run, what: &str) -> Error {
    Error::WorkflowExecutionAlreadyStarted {
        message: format!("{what} WorkflowId: {}, RunId: {}.", run.id.workflow_id, run.id.run_id),
        start_request_id: run.core.create_request_id.clone(),
        run_id: run.id.run_id.to_string(),
        first_execution_run_id: run.first_run_id().to_owned(),
    }
}
