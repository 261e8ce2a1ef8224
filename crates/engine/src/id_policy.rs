//! What a start does when its workflow id is in use: by an open run (conflict policy) or by a
//! closed one (reuse policy). Contract sections 4.2 and 4.3.

use tidemill_proto::api::enums::v1::{
    WorkflowExecutionStatus as Status, WorkflowIdConflictPolicy as Conflict,
    WorkflowIdReusePolicy as Reuse,
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
pub fn decide(
    current: Option<&Run>,
    request_id: &str,
    reuse: Reuse,
    conflict: Conflict,
) -> Result<Decision, Error> {
    let Some(run) = current else {
        return Ok(Decision::Create);
    };
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
            Conflict::Fail | Conflict::Unspecified => Err(already_started(
                run,
                "Workflow execution is already running.",
            )),
        };
    }
    let clean = matches!(run.status(), Status::Completed | Status::ContinuedAsNew);
    match reuse {
        Reuse::AllowDuplicateFailedOnly if clean => Err(already_started(
            run,
            "Workflow execution already finished successfully.",
        )),
        Reuse::RejectDuplicate => Err(already_started(run, "Workflow execution already finished.")),
        _ => Ok(Decision::Create),
    }
}

/// The error that names the run in the way.
pub fn already_started(run: &Run, what: &str) -> Error {
    Error::WorkflowExecutionAlreadyStarted {
        message: format!(
            "{what} WorkflowId: {}, RunId: {}.",
            run.id.workflow_id, run.id.run_id
        ),
        start_request_id: run.core.create_request_id.clone(),
        run_id: run.id.run_id.to_string(),
        first_execution_run_id: run.first_run_id().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{self, Attachment};
    use crate::testing::Rig;

    const OPEN: [Status; 2] = [Status::Running, Status::Paused];
    const CLEAN: [Status; 2] = [Status::Completed, Status::ContinuedAsNew];
    const UNCLEAN: [Status; 4] = [
        Status::Failed,
        Status::Canceled,
        Status::Terminated,
        Status::TimedOut,
    ];
    const REUSE: [Reuse; 5] = [
        Reuse::Unspecified,
        Reuse::AllowDuplicate,
        Reuse::AllowDuplicateFailedOnly,
        Reuse::RejectDuplicate,
        Reuse::TerminateIfRunning,
    ];
    const CONFLICT: [Conflict; 4] = [
        Conflict::Unspecified,
        Conflict::Fail,
        Conflict::UseExisting,
        Conflict::TerminateExisting,
    ];

    /// What is to be decided, without a look at how the code does it; `None` is a refusal.
    fn expected(status: Status, reuse: Reuse, conflict: Conflict) -> Option<Decision> {
        let replaces =
            conflict == Conflict::TerminateExisting || reuse == Reuse::TerminateIfRunning;
        match (OPEN.contains(&status), reuse) {
            (true, _) if replaces => Some(Decision::Replace),
            (true, _) if conflict == Conflict::UseExisting => Some(Decision::UseExisting),
            (true, _) | (false, Reuse::RejectDuplicate) => None,
            (false, Reuse::AllowDuplicateFailedOnly) if CLEAN.contains(&status) => None,
            (false, _) => Some(Decision::Create),
        }
    }

    #[test]
    fn status_by_policies() {
        let mut rig = Rig::idle();
        let attachment = Attachment {
            request_id: "attached".into(),
            ..Default::default()
        };
        rig.op(|run, cx| options::attach(run, attachment, cx))
            .unwrap();
        for status in OPEN.into_iter().chain(CLEAN).chain(UNCLEAN) {
            let mut run = rig.run.clone();
            run.core.status = status as i32;
            for reuse in REUSE {
                for conflict in CONFLICT {
                    let name = format!("{status:?} {reuse:?} {conflict:?}");
                    for request_id in ["other", ""] {
                        let decided = decide(Some(&run), request_id, reuse, conflict);
                        assert_eq!(decided.ok(), expected(status, reuse, conflict), "{name}");
                    }
                    // Repeats are known whatever the policies say.
                    assert_eq!(
                        decide(Some(&run), "create", reuse, conflict),
                        Ok(Decision::Repeated),
                        "{name}"
                    );
                    assert_eq!(
                        decide(Some(&run), "attached", reuse, conflict),
                        Ok(Decision::Attached),
                        "{name}"
                    );
                    assert_eq!(
                        decide(None, "create", reuse, conflict),
                        Ok(Decision::Create),
                        "{name}"
                    );
                }
            }
        }
    }
}
