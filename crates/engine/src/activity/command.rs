//! The commands by which a workflow schedules an activity and asks for its cancellation.

use prost::Message;
use tidemill_proto::api::command::v1::{
    RequestCancelActivityTaskCommandAttributes, ScheduleActivityTaskCommandAttributes,
};
use tidemill_proto::api::common::v1::{Payload, Payloads};
use tidemill_proto::api::enums::v1::{WorkflowExecutionStatus, WorkflowTaskFailedCause as Cause};
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{
    ActivityTaskCancelRequestedEventAttributes, ActivityTaskCanceledEventAttributes,
    ActivityTaskScheduledEventAttributes, HistoryEvent,
};

use super::start::{self, StartedActivity};
use super::{attempt, is_started, offer, options};
use crate::command::{CommandContext, Refused};
use crate::model::Activity;
use crate::time::{nanos, span};
use crate::tx::Tx;

/// Details of the canceled event of an activity that no worker had; SDKs know the text.
const NOT_STARTED: &str = "ACTIVITY_ID_NOT_STARTED";

/// A scheduled activity.
#[derive(Debug)]
pub struct Scheduled {
    pub scheduled_id: i64,
    /// The activity was started at once, for the worker that sent the command, and is offered to
    /// no other. A later command of the same workflow task can still cancel it: it is to be
    /// handed over only if it is pending when all commands are carried out.
    pub eager: Option<StartedActivity>,
}

/// Schedules an activity. `eager_allowed`: the workflow task's worker may be given it at once.
pub fn schedule(
    tx: &mut Tx<'_>,
    mut attributes: ScheduleActivityTaskCommandAttributes,
    command: &CommandContext,
    eager_allowed: bool,
) -> Result<Scheduled, Refused> {
    const BAD: Cause = Cause::BadScheduleActivityAttributes;
    let limits = tx.limits();
    options::normalise(
        &mut attributes,
        tx.run.run_timeout(),
        tx.run.task_queue(),
        limits,
    )
    .map_err(|text| Refused::new(BAD, text))?;
    if attributes
        .input
        .as_ref()
        .is_some_and(|i| i.encoded_len() > limits.blob_size)
    {
        return Err(Refused::terminate(
            BAD,
            // An SDK's test knows this text.
            "ScheduleActivityTaskCommandAttributes.Input exceeds size limit.",
        ));
    }
    if tx.run.activities.len() >= limits.pending_activities {
        let text = format!(
            "{} activities are pending; no more are allowed",
            tx.run.activities.len()
        );
        return Err(Refused::new(Cause::PendingActivitiesLimitExceeded, text));
    }
    if tx.run.activity_ids.contains_key(&attributes.activity_id) {
        let text = format!(
            "an activity with id `{}` is pending",
            attributes.activity_id
        );
        return Err(Refused::new(Cause::ScheduleActivityDuplicateId, text));
    }
    let eager = eager_allowed
        && attributes.request_eager_execution
        && tx.run.status() == WorkflowExecutionStatus::Running;
    let event = scheduled_event(attributes, command.completed_id);
    let mut activity = record(tx, &event);
    activity.scheduled_batch_id = tx.batch_id();
    activity.scheduled_id = tx.push_event(command.event(event));
    let scheduled_id = activity.scheduled_id;
    if eager {
        activity.stamp = tx.next_stamp();
        let started = start::start_eager(tx, activity, &command.identity);
        return Ok(Scheduled {
            scheduled_id,
            eager: Some(started),
        });
    }
    offer(tx, &mut activity);
    tx.put_activity(activity);
    Ok(Scheduled {
        scheduled_id,
        eager: None,
    })
}

#[expect(deprecated, reason = "the event repeats what the command says")]
fn scheduled_event(
    a: ScheduleActivityTaskCommandAttributes,
    completed_id: i64,
) -> ActivityTaskScheduledEventAttributes {
    ActivityTaskScheduledEventAttributes {
        activity_id: a.activity_id,
        activity_type: a.activity_type,
        task_queue: a.task_queue,
        header: a.header,
        input: a.input,
        schedule_to_close_timeout: a.schedule_to_close_timeout,
        schedule_to_start_timeout: a.schedule_to_start_timeout,
        start_to_close_timeout: a.start_to_close_timeout,
        heartbeat_timeout: a.heartbeat_timeout,
        workflow_task_completed_event_id: completed_id,
        retry_policy: a.retry_policy,
        use_workflow_build_id: a.use_workflow_build_id,
        priority: a.priority,
    }
}

/// The record of an activity's first attempt, without its ids and its task.
pub(crate) fn record(tx: &Tx<'_>, event: &ActivityTaskScheduledEventAttributes) -> Activity {
    Activity {
        activity_id: event.activity_id.clone(),
        activity_type: event
            .activity_type
            .as_ref()
            .map_or_else(String::new, |t| t.name.clone()),
        task_queue: event
            .task_queue
            .as_ref()
            .map_or_else(String::new, |q| q.name.clone()),
        attempt: 1,
        first_scheduled_time: tx.now().0,
        scheduled_time: tx.now().0,
        schedule_to_close: nanos(span(&event.schedule_to_close_timeout)),
        schedule_to_start: nanos(span(&event.schedule_to_start_timeout)),
        start_to_close: nanos(span(&event.start_to_close_timeout)),
        heartbeat: nanos(span(&event.heartbeat_timeout)),
        retry_policy: event.retry_policy.clone(),
        priority: event.priority.clone(),
        ..Default::default()
    }
}

/// Asks for an activity's cancellation. One that no worker has is canceled at once; then the
/// answer is true: the workflow has to be told of that by a new workflow task.
pub fn request_cancel(
    tx: &mut Tx<'_>,
    attributes: RequestCancelActivityTaskCommandAttributes,
    command: &CommandContext,
) -> Result<bool, Refused> {
    let scheduled_id = attributes.scheduled_event_id;
    let bad = |text: String| Refused::new(Cause::BadRequestCancelActivityAttributes, text);
    if scheduled_id <= 0 {
        return Err(bad("scheduled event id is not set".into()));
    }
    let activity = tx.run.activities.get(&scheduled_id).cloned();
    match &activity {
        Some(a) if a.cancel_requested => {
            return Err(bad(format!(
                "cancellation of activity {scheduled_id} was requested before"
            )));
        }
        // The worker of the workflow task cannot know yet that the activity has closed.
        None if !tx.run.buffered.iter().any(|(_, e)| closes(e, scheduled_id)) => {
            return Err(bad(format!("no activity {scheduled_id} is pending")));
        }
        _ => {}
    }
    let event_id = tx.push_event(command.event(ActivityTaskCancelRequestedEventAttributes {
        scheduled_event_id: scheduled_id,
        workflow_task_completed_event_id: command.completed_id,
    }));
    let Some(activity) = activity else {
        return Ok(false);
    };
    let mut activity = (*activity).clone();
    activity.cancel_requested = true;
    activity.cancel_requested_id = event_id;
    if scheduled_id > command.completed_id {
        // Scheduled by this very workflow task: started eagerly or not, no worker has it yet.
        activity.started_time = 0;
    }
    if is_started(&activity) {
        tx.put_activity(activity);
        return Ok(false);
    }
    attempt::close(tx, activity, |scheduled_event_id, started_event_id| {
        ActivityTaskCanceledEventAttributes {
            details: Some(json_string(NOT_STARTED)),
            latest_cancel_requested_event_id: event_id,
            scheduled_event_id,
            started_event_id,
            identity: command.identity.clone(),
            ..Default::default()
        }
        .into()
    });
    Ok(true)
}

fn closes(event: &HistoryEvent, scheduled_id: i64) -> bool {
    use Attributes as A;
    let closed = match &event.attributes {
        Some(A::ActivityTaskCompletedEventAttributes(a)) => a.scheduled_event_id,
        Some(A::ActivityTaskFailedEventAttributes(a)) => a.scheduled_event_id,
        Some(A::ActivityTaskTimedOutEventAttributes(a)) => a.scheduled_event_id,
        Some(A::ActivityTaskCanceledEventAttributes(a)) => a.scheduled_event_id,
        _ => return false,
    };
    closed == scheduled_id
}

fn json_string(text: &str) -> Payloads {
    Payloads {
        payloads: vec![Payload {
            metadata: [("encoding".to_owned(), b"json/plain".to_vec())]
                .into_iter()
                .collect(),
            data: format!("\"{text}\"").into_bytes(),
            ..Default::default()
        }],
    }
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::common::v1::Priority;
    use tidemill_proto::api::enums::v1::EventType as E;
    use tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;

    use super::super::fixture::{
        Bench, COMPLETED, attributes, big, by_id, failure, payload, seconds,
    };
    use super::super::{ActivityRef, attempt};
    use super::*;

    #[test]
    fn scheduled_event_record_and_task() {
        let mut bench = Bench::with(WorkflowExecutionStartedEventAttributes {
            workflow_run_timeout: seconds(60),
            priority: Some(Priority {
                priority_key: 2,
                fairness_key: "w".into(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let given = ScheduleActivityTaskCommandAttributes {
            priority: Some(Priority {
                priority_key: 4,
                ..Default::default()
            }),
            heartbeat_timeout: seconds(90),
            ..attributes()
        };
        let scheduled = bench.schedule(given).unwrap();
        assert!(scheduled.eager.is_none());
        let events = bench.events();
        let [event] = &events[..] else {
            panic!("{events:?}")
        };
        let Some(Attributes::ActivityTaskScheduledEventAttributes(a)) = &event.attributes else {
            panic!()
        };
        assert_eq!(a.workflow_task_completed_event_id, COMPLETED);
        assert_eq!(a.schedule_to_close_timeout, seconds(60));
        assert_eq!(a.schedule_to_start_timeout, seconds(60));
        assert_eq!(a.start_to_close_timeout, seconds(10));
        assert_eq!(a.heartbeat_timeout, seconds(10));
        assert_eq!(a.retry_policy.as_ref().unwrap().backoff_coefficient, 2.0);
        assert_eq!(a.input, Some(payload("in")));
        let activity = bench.activity();
        assert_eq!(
            (activity.scheduled_id, activity.scheduled_batch_id),
            (event.event_id, event.event_id)
        );
        assert_eq!(
            activity.priority.as_ref().unwrap().fairness_key,
            "",
            "the record keeps its own"
        );
        let [task] = &bench.tasks[..] else { panic!() };
        assert_eq!((task.place.queue.as_str(), task.place.priority), ("q", 4));
        assert_eq!(
            (task.scheduled_id, task.stamp),
            (activity.scheduled_id, activity.stamp)
        );
        // The worker sees the merged priority.
        let started = bench.start().unwrap();
        let priority = started.priority.unwrap();
        assert_eq!(
            (priority.priority_key, priority.fairness_key.as_str()),
            (4, "w")
        );
    }

    #[test]
    fn refusals() {
        type Change = fn(&mut ScheduleActivityTaskCommandAttributes);
        let rows: [(Change, Cause, bool); 4] = [
            (
                |a| a.activity_type = None,
                Cause::BadScheduleActivityAttributes,
                false,
            ),
            (
                |a| a.start_to_close_timeout = None,
                Cause::BadScheduleActivityAttributes,
                false,
            ),
            (
                |a| a.input = Some(big()),
                Cause::BadScheduleActivityAttributes,
                true,
            ),
            (|_| {}, Cause::ScheduleActivityDuplicateId, false),
        ];
        for (i, (change, cause, terminate)) in rows.into_iter().enumerate() {
            let mut bench = Bench::new();
            bench.schedule(attributes()).unwrap();
            let mut given = attributes();
            change(&mut given);
            let refused = bench.schedule(given).unwrap_err();
            assert_eq!(
                (refused.cause, refused.terminate),
                (cause, terminate),
                "row {i}"
            );
        }
        let mut bench = Bench::new();
        bench.limits.pending_activities = 1;
        bench.schedule(attributes()).unwrap();
        let other = ScheduleActivityTaskCommandAttributes {
            activity_id: "b".into(),
            ..attributes()
        };
        let refused = bench.schedule(other).unwrap_err();
        assert_eq!(refused.cause, Cause::PendingActivitiesLimitExceeded);
        assert!(!refused.terminate);
    }

    #[test]
    fn an_id_is_free_again_once_its_activity_closed() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        bench.complete(by_id()).unwrap();
        bench.schedule(attributes()).unwrap();
    }

    #[test]
    fn eager_activity_is_started_and_not_offered() {
        let eager = ScheduleActivityTaskCommandAttributes {
            request_eager_execution: true,
            ..attributes()
        };
        let mut bench = Bench::new();
        let scheduled = bench.schedule(eager.clone()).unwrap();
        let started = scheduled.eager.expect("the worker gets it");
        assert!(bench.tasks.is_empty());
        assert_eq!((started.attempt, started.started_time), (1, bench.now));
        assert_eq!(bench.types(), [E::ActivityTaskScheduled]);
        bench.wait(5);
        bench.complete(started.task).unwrap();
        let events = bench.events();
        let Some(Attributes::ActivityTaskStartedEventAttributes(a)) = &events[0].attributes else {
            panic!()
        };
        assert_eq!(a.identity, "decider");
        assert!(!a.request_id.is_empty());

        // Not asked for, not allowed, or a paused run: offered to all.
        let mut bench = Bench::new();
        let scheduled = bench
            .commands(|tx, c| schedule(tx, eager.clone(), c, false))
            .unwrap();
        assert!(scheduled.eager.is_none() && bench.tasks.len() == 1);
        let mut bench = Bench::new();
        bench.run.core.status = WorkflowExecutionStatus::Paused as i32;
        let scheduled = bench.schedule(eager).unwrap();
        assert!(scheduled.eager.is_none() && bench.tasks.is_empty());
        assert!(bench.activity().held);
    }

    #[test]
    fn cancel_before_a_worker_has_it() {
        // Waiting for a worker; backing off.
        for fails in [false, true] {
            let mut bench = Bench::new();
            let id = bench.schedule(attributes()).unwrap().scheduled_id;
            if fails {
                let started = bench.start().unwrap();
                bench.fail(started.task, failure("f")).unwrap();
            }
            bench.events();
            assert!(
                bench.request_cancel(id).unwrap(),
                "a new workflow task is needed"
            );
            assert!(bench.run.activities.is_empty() && bench.tasks.is_empty());
            let events = bench.events();
            let types: Vec<_> = events.iter().map(HistoryEvent::event_type).collect();
            assert_eq!(
                types,
                [
                    E::ActivityTaskCancelRequested,
                    E::ActivityTaskCanceled,
                    E::WorkflowTaskScheduled
                ]
            );
            let Some(Attributes::ActivityTaskCanceledEventAttributes(a)) = &events[1].attributes
            else {
                panic!()
            };
            assert_eq!(a.latest_cancel_requested_event_id, events[0].event_id);
            assert_eq!((a.scheduled_event_id, a.started_event_id), (id, 0));
            assert_eq!(a.identity, "decider");
            assert_eq!(
                a.details.as_ref().unwrap().payloads[0].data,
                b"\"ACTIVITY_ID_NOT_STARTED\""
            );
        }
    }

    #[test]
    fn cancel_in_the_workflow_task_that_scheduled_it() {
        for eager in [false, true] {
            let mut bench = Bench::new();
            let given = ScheduleActivityTaskCommandAttributes {
                request_eager_execution: eager,
                ..attributes()
            };
            let forced = bench
                .commands(|tx, context| {
                    let scheduled = schedule(tx, given, context, true)?;
                    let cancel = RequestCancelActivityTaskCommandAttributes {
                        scheduled_event_id: scheduled.scheduled_id,
                    };
                    request_cancel(tx, cancel, context)
                })
                .unwrap();
            assert!(forced && bench.run.activities.is_empty() && bench.tasks.is_empty());
            let expected = [
                E::ActivityTaskScheduled,
                E::ActivityTaskCancelRequested,
                E::ActivityTaskCanceled,
                E::WorkflowTaskScheduled,
            ];
            assert_eq!(bench.types(), expected, "eager {eager}");
        }
    }

    #[test]
    fn cancel_of_a_started_activity_waits_for_its_worker() {
        let mut bench = Bench::new();
        let id = bench.schedule(attributes()).unwrap().scheduled_id;
        let started = bench.start().unwrap();
        bench.events();
        assert!(!bench.request_cancel(id).unwrap());
        assert_eq!(bench.types(), [E::ActivityTaskCancelRequested]);
        assert!(
            bench
                .heartbeat(started.task.clone(), None)
                .unwrap()
                .cancel_requested
        );
        let again = bench.request_cancel(id).unwrap_err();
        assert_eq!(again.cause, Cause::BadRequestCancelActivityAttributes);
        bench.cancel(started.task).unwrap();
        assert_eq!(
            bench.types(),
            [
                E::ActivityTaskStarted,
                E::ActivityTaskCanceled,
                E::WorkflowTaskScheduled
            ]
        );
    }

    #[test]
    fn cancel_of_what_is_not_there() {
        let mut bench = Bench::new();
        for id in [-1, 0, 1, 99] {
            let refused = bench.request_cancel(id).unwrap_err();
            assert_eq!(
                refused.cause,
                Cause::BadRequestCancelActivityAttributes,
                "{id}"
            );
        }
        // It has closed, but the workflow task's worker cannot know: its close event is buffered.
        let id = bench.schedule(attributes()).unwrap().scheduled_id;
        let started = bench.start().unwrap();
        bench.busy();
        bench.complete(started.task).unwrap();
        bench.events();
        assert!(!bench.request_cancel(id).unwrap());
        assert_eq!(
            bench.types(),
            [
                E::ActivityTaskCancelRequested,
                E::ActivityTaskStarted,
                E::ActivityTaskCompleted,
                E::WorkflowTaskScheduled
            ]
        );
        assert!(bench.request_cancel(id).is_err(), "now it could know");
    }

    #[test]
    fn no_retry_once_cancellation_was_requested() {
        let mut bench = Bench::new();
        let id = bench.schedule(attributes()).unwrap().scheduled_id;
        let started = bench.start().unwrap();
        bench.request_cancel(id).unwrap();
        bench.fail(started.task, failure("f")).unwrap();
        let events = bench.events();
        let failed = events
            .iter()
            .find(|e| e.event_type() == E::ActivityTaskFailed)
            .unwrap();
        let Some(Attributes::ActivityTaskFailedEventAttributes(a)) = &failed.attributes else {
            panic!()
        };
        assert_eq!(
            a.retry_state(),
            tidemill_proto::api::enums::v1::RetryState::CancelRequested
        );
    }

    #[test]
    fn attempts_count_from_one() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        assert_eq!(attempt(&bench.activity()), 1);
        assert!(matches!(
            bench.start().unwrap().task,
            ActivityRef::ByToken { attempt: 1, .. }
        ));
    }
}
