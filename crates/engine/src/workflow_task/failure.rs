//! Workflow tasks that end without being completed: failed, timed out, or not taken in time.

use tidemill_proto::api::common::v1::{Payload, WorkerVersionStamp};
use tidemill_proto::api::enums::v1::{TimeoutType, WorkflowTaskFailedCause as Cause};
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::history::v1::{
    WorkflowTaskFailedEventAttributes, WorkflowTaskTimedOutEventAttributes,
};

use super::{TaskRef, find, make_durable};
use crate::model::WorkflowTask;
use crate::run::Run;
use crate::transition::{Outcome, TaskKind};
use crate::tx::{Cx, Tx};
use crate::{Error, retry};

/// Why and how a started task failed.
pub struct TaskFailure {
    pub cause: Cause,
    pub failure: Option<Failure>,
    pub identity: String,
    pub binary_checksum: String,
    pub worker_version: Option<WorkerVersionStamp>,
}

impl TaskFailure {
    /// A failure that the engine itself raises.
    pub fn by_engine(
        cause: Cause,
        message: impl Into<String>,
        identity: impl Into<String>,
    ) -> Self {
        use tidemill_proto::api::failure::v1::{ServerFailureInfo, failure::FailureInfo};
        Self {
            cause,
            failure: Some(Failure {
                message: message.into(),
                failure_info: Some(FailureInfo::ServerFailureInfo(ServerFailureInfo {
                    non_retryable: true,
                })),
                ..Default::default()
            }),
            identity: identity.into(),
            binary_checksum: String::new(),
            worker_version: None,
        }
    }
}

/// A worker reports that it could not process the task.
pub fn fail(
    run: &Run,
    task: &TaskRef,
    mut failure: TaskFailure,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    find(run, task)?;
    let given = failure.failure.as_ref();
    if let Some(short) = given.and_then(|f| retry::over_limit(f, cx.limits)) {
        failure.failure = Some(short);
    }
    let mut tx = Tx::new(run, cx);
    if failure.cause == Cause::GrpcMessageTooLarge {
        // The same completion would be too large again.
        crate::close::terminate(
            &mut tx,
            crate::close::Termination::by_engine("GRPC_MESSAGE_TOO_LARGE"),
        );
        return Ok(tx.finish(()));
    }
    fail_task(&mut tx, failure);
    Ok(tx.finish(()))
}

/// Records the failure of the started task and asks for the next one.
pub(crate) fn fail_task(tx: &mut Tx<'_>, failure: TaskFailure) {
    make_durable(tx);
    let Some(task) = tx.run.core.workflow_task.take() else {
        return;
    };
    note_problem(
        tx,
        "WorkflowTaskFailed",
        &format!(
            "WorkflowTaskFailedCause{}",
            pascal(failure.cause.as_str_name())
        ),
    );
    if task.attempt <= 1 {
        tx.push(WorkflowTaskFailedEventAttributes {
            scheduled_event_id: task.scheduled_id,
            started_event_id: task.started_id,
            cause: failure.cause as i32,
            failure: failure.failure,
            identity: failure.identity,
            binary_checksum: failure.binary_checksum,
            worker_version: failure.worker_version,
            ..Default::default()
        });
    }
    next_attempt(tx, &task);
}

/// The worker that has the task did not complete it in time.
pub(crate) fn time_out(tx: &mut Tx<'_>) {
    make_durable(tx);
    let Some(task) = tx.run.core.workflow_task.take() else {
        return;
    };
    note_problem(
        tx,
        "WorkflowTaskTimedOut",
        "WorkflowTaskTimedOutCauseStartToClose",
    );
    if task.attempt <= 1 {
        timed_out(tx, &task, TimeoutType::StartToClose);
    }
    next_attempt(tx, &task);
}

/// No worker took the task from its sticky queue in time (or a speculative one from any): it
/// goes to the normal queue as a new task, which is not another attempt.
pub(super) fn start_timed_out(tx: &mut Tx<'_>) {
    make_durable(tx);
    let Some(mut task) = tx.run.core.workflow_task.take() else {
        return;
    };
    if let Some(place) = task.task.take() {
        tx.remove_task(TaskKind::Workflow, place);
    }
    timed_out(tx, &task, TimeoutType::ScheduleToStart);
    tx.run.core.sticky = None;
    tx.run.core.workflow_task_attempt = 1;
    tx.want_workflow_task();
}

fn timed_out(tx: &mut Tx<'_>, task: &WorkflowTask, kind: TimeoutType) {
    tx.push(WorkflowTaskTimedOutEventAttributes {
        scheduled_event_id: task.scheduled_id,
        started_event_id: task.started_id,
        timeout_type: kind as i32,
    });
}

/// A cause's name as messages show it: `WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY` is `BadBinary`.
pub fn cause_name(cause: Cause) -> String {
    pascal(cause.as_str_name())
}

/// `WORKFLOW_TASK_FAILED_CAUSE_BAD_BINARY` as `BadBinary`.
fn pascal(name: &str) -> String {
    name.trim_start_matches("WORKFLOW_TASK_FAILED_CAUSE_")
        .split('_')
        .flat_map(|w| {
            let mut c = w.chars();
            c.next()
                .into_iter()
                .chain(c.map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>())
        })
        .collect()
}

/// After a task that did not complete: stickiness goes, the attempt counts (unless it was the
/// sticky worker that failed: then a fresh worker starts at one), messages are sent again.
fn next_attempt(tx: &mut Tx<'_>, task: &WorkflowTask) {
    let was_sticky = tx.run.core.sticky.take().is_some();
    tx.run.core.workflow_task_attempt = if was_sticky { 1 } else { task.attempt + 1 };
    tx.run.volatile.close_attempted = false;
    crate::update::unsend(tx);
    crate::query::unsend(tx);
    tx.touch_core();
    tx.want_workflow_task();
}

/// Counts a failed or timed-out task; several in a row are made visible in a search attribute.
fn note_problem(tx: &mut Tx<'_>, category: &str, cause: &str) {
    tx.run.core.workflow_task_problems += 1;
    if tx.run.core.workflow_task_problems == tx.limits().reported_problems_after {
        let value = vec![format!("category={category}"), format!("cause={cause}")];
        tx.change_visible(|v| {
            v.search_attributes
                .get_or_insert_default()
                .indexed_fields
                .insert(REPORTED_PROBLEMS.to_owned(), keyword_list(&value));
        });
    }
}

pub(super) const REPORTED_PROBLEMS: &str = "TemporalReportedProblems";

/// A task completed: the run has no problem (any more).
pub(crate) fn clear_problems(tx: &mut Tx<'_>) {
    if tx.run.core.workflow_task_problems >= tx.limits().reported_problems_after {
        tx.change_visible(|v| {
            if let Some(sa) = &mut v.search_attributes {
                sa.indexed_fields.remove(REPORTED_PROBLEMS);
            }
        });
    }
    tx.run.core.workflow_task_problems = 0;
}

fn keyword_list(values: &[String]) -> Payload {
    Payload {
        metadata: [
            ("encoding".to_owned(), b"json/plain".to_vec()),
            ("type".to_owned(), b"KeywordList".to_vec()),
        ]
        .into(),
        data: serde_json::to_vec(values).unwrap_or_default(),
        ..Default::default()
    }
}
