//! Completion of a workflow task: its commands, messages and query answers, in order
//! (contract section 1.8).

use std::collections::BTreeMap;

use tidemill_proto::api::command::v1::{Command, command::Attributes as C};
use tidemill_proto::api::common::v1::{MeteringMetadata, WorkerVersionStamp};
use tidemill_proto::api::enums::v1::{CommandType, WorkflowTaskFailedCause as Cause};
use tidemill_proto::api::history::v1::WorkflowTaskCompletedEventAttributes;
use tidemill_proto::api::protocol::v1::Message;
use tidemill_proto::api::query::v1::WorkflowQueryResult;
use tidemill_proto::api::sdk::v1::WorkflowTaskCompletedMetadata;

use crate::activity::StartedActivity;
use crate::close::{self, Termination};
use crate::command::{CommandContext, Refused};
use crate::model::Sticky;
use crate::run::Run;
use crate::time::Time;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};
use crate::workflow_task::{self, Start, Started, TaskFailure, TaskRef};
use crate::{Error, activity, child, external, marker, query, timer, update, upsert};

/// A worker's completion of a workflow task.
#[derive(Clone, Debug, Default)]
pub struct Completion {
    pub commands: Vec<Command>,
    pub messages: Vec<Message>,
    pub query_results: BTreeMap<String, WorkflowQueryResult>,
    pub sticky: Option<Sticky>,
    pub identity: String,
    pub binary_checksum: String,
    pub worker_version: Option<WorkerVersionStamp>,
    pub sdk_metadata: Option<WorkflowTaskCompletedMetadata>,
    pub metering: Option<MeteringMetadata>,
    /// The worker wants the next task in the answer.
    pub return_new_task: bool,
    /// The worker is alive but needs more time (local activities).
    pub force_new_task: bool,
    /// The worker can take back a speculative task although events followed it.
    pub discards_with_events: bool,
    /// The namespace refuses this binary.
    pub bad_binary: bool,
}

/// The answer to a completion.
#[derive(Clone, Debug, Default)]
pub struct Completed {
    pub new_task: Option<Started>,
    /// Activities handed to the worker at once.
    pub activities: Vec<StartedActivity>,
    /// Set when the (speculative) task left no trace: the worker goes back to this event.
    pub reset_history_event_id: i64,
}

/// Completes the started task.
pub fn complete(
    run: &Run,
    task: &TaskRef,
    completion: Completion,
    cx: &Cx<'_>,
) -> Result<Outcome<Completed>, Error> {
    let pending = workflow_task::find(run, task)?;
    check_sequence(&completion.commands)?;
    let heartbeat = completion.force_new_task
        && completion.commands.is_empty()
        && completion.messages.is_empty();
    if heartbeat
        && cx.now.since(Time(pending.original_scheduled_time)) > cx.limits.workflow_task_heartbeat
    {
        return Ok(heartbeat_timed_out(run, cx));
    }
    let worker = Worker {
        identity: completion.identity.clone(),
        binary_checksum: completion.binary_checksum.clone(),
    };
    let attempt = pending.attempt;
    let done = if is_discardable(run, task, &completion) {
        discard(run, completion, cx)
    } else {
        apply(run, completion, heartbeat, cx)
    };
    done.or_else(|refused| refuse(run, attempt, refused, worker, cx))
}

/// Who a completion came from, for the event that says that it was refused.
struct Worker {
    identity: String,
    binary_checksum: String,
}

/// A close command must be the last and the only one.
fn check_sequence(commands: &[Command]) -> Result<(), Error> {
    for (i, command) in commands.iter().enumerate() {
        let kind = command.command_type();
        if kind == CommandType::Unspecified {
            return Err(Error::invalid(format!(
                "command {i} has an unknown type {}",
                command.command_type
            )));
        }
        if closes(kind) && i + 1 != commands.len() {
            return Err(Error::invalid(format!(
                "invalid command sequence: [{}], command {} must be the last command.",
                commands
                    .iter()
                    .map(|c| c
                        .command_type()
                        .as_str_name()
                        .trim_start_matches("COMMAND_TYPE_"))
                    .collect::<Vec<_>>()
                    .join(", "),
                kind.as_str_name().trim_start_matches("COMMAND_TYPE_"),
            )));
        }
    }
    Ok(())
}

/// Whether a command ends the run.
fn closes(kind: CommandType) -> bool {
    use CommandType as T;
    matches!(
        kind,
        T::CompleteWorkflowExecution
            | T::FailWorkflowExecution
            | T::CancelWorkflowExecution
            | T::ContinueAsNewWorkflowExecution
    )
}

/// A task that has only heartbeat for too long is timed out, so that another worker may try.
fn heartbeat_timed_out(run: &Run, cx: &Cx<'_>) -> Outcome<Completed> {
    let mut tx = Tx::new(run, cx);
    workflow_task::time_out(&mut tx);
    tx.finish_with(Err(Error::not_found("workflow task heartbeat timeout")))
}

/// Whether a speculative task has shown the worker nothing that it must keep.
fn is_discardable(run: &Run, task: &TaskRef, completion: &Completion) -> bool {
    let speculative = run
        .core
        .workflow_task
        .as_ref()
        .is_some_and(|t| t.speculative);
    let last = run.core.last_completed_started_id;
    let events_since = task.scheduled_id - 1 - (last + 1);
    speculative
        && completion.commands.is_empty()
        && !completion.force_new_task
        && completion.messages.iter().all(update::is_rejection)
        && last > 0
        && (events_since <= 0 || (completion.discards_with_events && events_since <= 10))
}

/// Ends a speculative task without a trace.
fn discard(run: &Run, completion: Completion, cx: &Cx<'_>) -> Result<Outcome<Completed>, Refused> {
    let mut tx = Tx::new(run, cx);
    tx.run.core.workflow_task = None;
    set_sticky(&mut tx, completion.sticky);
    if tx.run.core.sticky != run.core.sticky {
        tx.touch_core();
    }
    let reset_to = tx.run.core.last_completed_started_id;
    for message in &completion.messages {
        update::on_message(&mut tx, message)?;
    }
    update::reject_unanswered(&mut tx);
    query::answer(&mut tx, completion.query_results);
    let mut completed = Completed {
        reset_history_event_id: reset_to,
        ..Default::default()
    };
    if update::has_admitted(&tx.run) && workflow_task::may_schedule(&tx.run) {
        completed.new_task = next_task(
            &mut tx,
            NextTask::Speculative,
            completion.return_new_task,
            &completion.identity,
        );
    }
    if tx.run.core.workflow_task.is_none() {
        query::release(&mut tx);
    }
    Ok(tx.finish(completed))
}

fn set_sticky(tx: &mut Tx<'_>, sticky: Option<Sticky>) {
    if tx.run.is_open() {
        tx.run.core.sticky = sticky.filter(|s| !s.queue.is_empty());
    }
}

/// The next task of a run, as its last one completes.
#[derive(Clone, Copy, PartialEq)]
enum NextTask {
    Normal,
    Speculative,
}

/// Carries the completion out. An error leaves nothing behind.
fn apply(
    run: &Run,
    completion: Completion,
    heartbeat: bool,
    cx: &Cx<'_>,
) -> Result<Outcome<Completed>, Refused> {
    let mut tx = Tx::new(run, cx);
    let completed_id = record_completed(&mut tx, &completion);
    set_sticky(&mut tx, completion.sticky.clone());
    if completion.bad_binary {
        return Err(Refused::new(
            Cause::BadBinary,
            format!(
                "binary {} already marked as bad deployment",
                completion.binary_checksum
            ),
        ));
    }
    workflow_task::clear_problems(&mut tx);
    let original_scheduled_time = run
        .core
        .workflow_task
        .as_ref()
        .map_or(0, |t| t.original_scheduled_time);

    let mut work = Work::new(completion.messages);
    for command in completion.commands {
        work.command(&mut tx, command, completed_id, &completion.identity)?;
    }
    work.remaining_messages(&mut tx)?;
    let Work {
        activities,
        force_next,
        ..
    } = work;

    query::answer(&mut tx, completion.query_results);
    if tx.run.is_open() && !completion.force_new_task {
        update::reject_unanswered(&mut tx);
    }
    // A later command may have cancelled an activity that an earlier one has started.
    let mut activities = activities;
    activities.retain(|a| tx.run.activities.contains_key(&a.scheduled_id));
    let mut completed = Completed {
        activities,
        ..Default::default()
    };
    if tx.run.is_open() {
        // The task is over: what waited for it may be written, and asks for the next.
        end_task(&mut tx);
        let next = if completion.force_new_task || force_next || tx.flush_buffered() {
            Some(NextTask::Normal)
        } else if update::has_admitted(&tx.run) {
            Some(NextTask::Speculative)
        } else {
            None
        };
        if let Some(next) = next.filter(|_| workflow_task::may_schedule(&tx.run)) {
            let start = completion.return_new_task;
            completed.new_task = next_task(&mut tx, next, start, &completion.identity);
            if heartbeat && let Some(task) = &mut tx.run.core.workflow_task {
                task.original_scheduled_time = original_scheduled_time;
            }
        }
    } else {
        completed.activities.clear();
    }
    if tx.run.core.workflow_task.is_none() {
        query::release(&mut tx);
    }
    Ok(tx.finish(completed))
}

/// Writes the completed event. The task stays pending (as started) while commands are applied,
/// so that events from outside keep being told from the task's own.
fn record_completed(tx: &mut Tx<'_>, completion: &Completion) -> i64 {
    workflow_task::make_durable(tx);
    if tx
        .run
        .core
        .workflow_task
        .as_ref()
        .is_some_and(|t| t.attempt > 1)
    {
        workflow_task::write_transient(tx);
    }
    let task = tx
        .run
        .core
        .workflow_task
        .as_ref()
        .expect("the task was found before");
    let (scheduled_event_id, started_event_id) = (task.scheduled_id, task.started_id);
    let completed_id = tx.push(WorkflowTaskCompletedEventAttributes {
        scheduled_event_id,
        started_event_id,
        identity: completion.identity.clone(),
        binary_checksum: completion.binary_checksum.clone(),
        worker_version: completion.worker_version.clone(),
        sdk_metadata: completion.sdk_metadata.clone(),
        metering_metadata: completion.metering,
        ..Default::default()
    });
    let core = &mut tx.run.core;
    core.workflow_task_attempt = 1;
    core.last_completed_started_id = started_event_id;
    core.last_completed_id = completed_id;
    core.worker_version = completion.worker_version.clone();
    tx.run.volatile.close_attempted = false;
    crate::reset_point::add(tx, completion, completed_id);
    completed_id
}

fn end_task(tx: &mut Tx<'_>) {
    tx.run.core.workflow_task = None;
    tx.touch_core();
}

/// Schedules the next task and, if the worker wants it, starts it for the worker right away.
fn next_task(tx: &mut Tx<'_>, next: NextTask, start: bool, identity: &str) -> Option<Started> {
    match next {
        NextTask::Normal => workflow_task::schedule(tx),
        NextTask::Speculative => workflow_task::schedule_speculative(tx),
    }
    if !start {
        return None;
    }
    tx.withdraw_speculative();
    let task = tx.run.core.workflow_task.as_ref()?;
    let request = Start {
        scheduled_id: task.scheduled_id,
        stamp: task.stamp,
        identity: identity.to_owned(),
        request_id: "request-from-RespondWorkflowTaskCompleted".to_owned(),
        from_sticky: true,
        worker_version: None,
    };
    Some(workflow_task::begin(tx, &request, true))
}

/// What the commands of one completion have produced so far.
struct Work {
    /// Messages not yet consumed, with their place.
    messages: BTreeMap<usize, Message>,
    activities: Vec<StartedActivity>,
    force_next: bool,
}

impl Work {
    fn new(messages: Vec<Message>) -> Self {
        Self {
            messages: messages.into_iter().enumerate().collect(),
            activities: Vec::new(),
            force_next: false,
        }
    }

    fn command(
        &mut self,
        tx: &mut Tx<'_>,
        command: Command,
        completed_id: i64,
        identity: &str,
    ) -> Result<(), Refused> {
        let kind = command.command_type();
        if closes(kind) {
            // Their callers learn the worker's answer rather than that the run has closed.
            self.rejections(tx)?;
        }
        let context = CommandContext {
            completed_id,
            metadata: command.user_metadata,
            identity: identity.to_owned(),
            group_markers: command.event_group_markers,
        };
        let Some(attributes) = command.attributes else {
            return Err(Refused::new(
                missing_cause(kind),
                format!("{} has no attributes", kind.as_str_name()),
            ));
        };
        match attributes {
            C::ScheduleActivityTaskCommandAttributes(a) => {
                let eager = a.request_eager_execution;
                let scheduled = activity::command::schedule(tx, a, &context, eager)?;
                self.activities.extend(scheduled.eager);
            }
            C::RequestCancelActivityTaskCommandAttributes(a) => {
                self.force_next |= activity::command::request_cancel(tx, a, &context)?;
            }
            C::StartTimerCommandAttributes(a) => timer::start(tx, a, &context)?,
            C::CancelTimerCommandAttributes(a) => timer::cancel(tx, a, &context)?,
            C::RecordMarkerCommandAttributes(a) => marker::record(tx, a, &context)?,
            C::UpsertWorkflowSearchAttributesCommandAttributes(a) => {
                upsert::search_attributes(tx, a, &context)?
            }
            C::ModifyWorkflowPropertiesCommandAttributes(a) => upsert::memo(tx, a, &context)?,
            C::StartChildWorkflowExecutionCommandAttributes(a) => {
                child::command::start(tx, a, &context)?
            }
            C::RequestCancelExternalWorkflowExecutionCommandAttributes(a) => {
                external::command::request_cancel(tx, a, &context)?;
            }
            C::SignalExternalWorkflowExecutionCommandAttributes(a) => {
                external::command::signal(tx, a, &context)?
            }
            C::CompleteWorkflowExecutionCommandAttributes(a) => close::complete(tx, a, &context)?,
            C::FailWorkflowExecutionCommandAttributes(a) => close::fail(tx, a, &context)?,
            C::CancelWorkflowExecutionCommandAttributes(a) => close::cancel(tx, a, &context)?,
            C::ContinueAsNewWorkflowExecutionCommandAttributes(a) => {
                close::continue_as_new(tx, a, &context)?
            }
            C::ProtocolMessageCommandAttributes(a) => self.message(tx, &a.message_id)?,
            C::ScheduleNexusOperationCommandAttributes(_) => {
                return Err(Refused::new(
                    Cause::FeatureDisabled,
                    "Nexus operations are not supported by this server",
                ));
            }
            C::RequestCancelNexusOperationCommandAttributes(_) => {
                return Err(Refused::new(
                    Cause::BadRequestCancelNexusOperationAttributes,
                    "Nexus operations are not supported by this server",
                ));
            }
        }
        Ok(())
    }

    fn message(&mut self, tx: &mut Tx<'_>, id: &str) -> Result<(), Refused> {
        let found = self
            .messages
            .iter()
            .find(|(_, m)| m.id == id)
            .map(|(&at, _)| at);
        let Some(message) = found.and_then(|at| self.messages.remove(&at)) else {
            return Err(Refused::new(
                Cause::BadUpdateWorkflowExecutionMessage,
                format!("ProtocolMessageCommand referenced absent message ID {id:?}"),
            ));
        };
        update::on_message(tx, &message)
    }

    fn rejections(&mut self, tx: &mut Tx<'_>) -> Result<(), Refused> {
        let (rejections, rest) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(_, m)| update::is_rejection(m));
        self.messages = rest;
        BTreeMap::into_values(rejections).try_for_each(|message| update::on_message(tx, &message))
    }

    /// Messages that no command named: normally rejections. After a close command the rest means
    /// nothing any more.
    fn remaining_messages(&mut self, tx: &mut Tx<'_>) -> Result<(), Refused> {
        for (_, message) in std::mem::take(&mut self.messages) {
            if tx.run.is_open() {
                update::on_message(tx, &message)?;
            }
        }
        Ok(())
    }
}

fn missing_cause(kind: CommandType) -> Cause {
    use CommandType as T;
    match kind {
        T::ScheduleActivityTask => Cause::BadScheduleActivityAttributes,
        T::RequestCancelActivityTask => Cause::BadRequestCancelActivityAttributes,
        T::StartTimer => Cause::BadStartTimerAttributes,
        T::CancelTimer => Cause::BadCancelTimerAttributes,
        T::RecordMarker => Cause::BadRecordMarkerAttributes,
        T::CompleteWorkflowExecution => Cause::BadCompleteWorkflowExecutionAttributes,
        T::FailWorkflowExecution => Cause::BadFailWorkflowExecutionAttributes,
        T::CancelWorkflowExecution => Cause::BadCancelWorkflowExecutionAttributes,
        T::RequestCancelExternalWorkflowExecution => {
            Cause::BadRequestCancelExternalWorkflowExecutionAttributes
        }
        T::SignalExternalWorkflowExecution => Cause::BadSignalWorkflowExecutionAttributes,
        T::ContinueAsNewWorkflowExecution => Cause::BadContinueAsNewAttributes,
        T::StartChildWorkflowExecution => Cause::BadStartChildExecutionAttributes,
        T::UpsertWorkflowSearchAttributes => Cause::BadSearchAttributes,
        T::ModifyWorkflowProperties => Cause::BadModifyWorkflowPropertiesAttributes,
        T::ProtocolMessage => Cause::BadUpdateWorkflowExecutionMessage,
        T::ScheduleNexusOperation => Cause::BadScheduleNexusOperationAttributes,
        T::RequestCancelNexusOperation => Cause::BadRequestCancelNexusOperationAttributes,
        T::Unspecified => Cause::Unspecified,
    }
}

/// A command was refused: nothing of the completion stands. The task fails (or the run is
/// terminated), and the worker learns why.
fn refuse(
    run: &Run,
    attempt: i32,
    refused: Refused,
    worker: Worker,
    cx: &Cx<'_>,
) -> Result<Outcome<Completed>, Error> {
    let text = format!(
        "{}: {}",
        workflow_task::cause_name(refused.cause),
        refused.message
    );
    let error = Error::invalid(text.clone());
    let mut tx = Tx::new(run, cx);
    update::abort_sent(&mut tx);
    if attempt > 1 && refused.cause != Cause::UnhandledCommand && !refused.terminate {
        // Not again at once: the task times out first, which slows the loop down.
        return Ok(tx.finish_with(Err(error)));
    }
    let failure = TaskFailure::by_engine(refused.cause, text.clone(), worker.identity);
    workflow_task::fail_task(
        &mut tx,
        TaskFailure {
            binary_checksum: worker.binary_checksum,
            ..failure
        },
    );
    if refused.terminate {
        close::terminate(&mut tx, Termination::by_engine(text));
    } else if refused.cause == Cause::UnhandledCommand {
        tx.run.volatile.close_attempted = true;
    }
    Ok(tx.finish_with(Err(error)))
}

#[cfg(test)]
mod tests;
