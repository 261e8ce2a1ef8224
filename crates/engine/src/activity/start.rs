//! A worker takes an activity: recorded, but without an event until the activity closes
//! (contract 3.2).

use std::time::Duration;

use tidemill_proto::api::common::v1::{Payloads, Priority, RetryPolicy, WorkerVersionStamp};

use super::{ActivityRef, attempt, is_started, merged_priority, stale};
use crate::Error;
use crate::model::Activity;
use crate::run::Run;
use crate::time::Time;
use crate::transition::{Outcome, TaskKind};
use crate::tx::{Cx, Tx};

/// A worker takes a task that it was offered.
#[derive(Clone, Debug)]
pub struct StartActivity {
    pub scheduled_id: i64,
    pub stamp: i64,
    pub identity: String,
    /// Fresh for each hand-over; a repeat with the same one gets the same answer.
    pub request_id: String,
    pub worker_version: Option<WorkerVersionStamp>,
}

/// An attempt as its worker is told of it. Type, input and header are in the scheduled event.
#[derive(Clone, Debug, PartialEq)]
pub struct StartedActivity {
    /// What the task token must hold: always [`ActivityRef::ByToken`]. Its attempt is a count
    /// of the engine's and can differ from [`StartedActivity::attempt`] after a reset.
    pub task: ActivityRef,
    pub scheduled_id: i64,
    /// First event id of the batch that holds the scheduled event.
    pub scheduled_batch_id: i64,
    pub activity_id: String,
    pub activity_type: String,
    pub task_queue: String,
    /// 1 for the first.
    pub attempt: i32,
    pub heartbeat_details: Option<Payloads>,
    /// When the first attempt was scheduled.
    pub scheduled_time: Time,
    pub attempt_scheduled_time: Time,
    pub started_time: Time,
    /// Zero for none, like the other timeouts.
    pub schedule_to_close: Duration,
    pub start_to_close: Duration,
    pub heartbeat: Duration,
    pub retry_policy: Option<RetryPolicy>,
    /// The activity's priority over its workflow's.
    pub priority: Option<Priority>,
}

/// Records that a worker has taken an activity. `NotFound` when the offer is stale: it is to be
/// dropped, and the worker goes on polling.
pub fn start(
    run: &Run,
    request: &StartActivity,
    cx: &Cx<'_>,
) -> Result<Outcome<StartedActivity>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let activity = run
        .activities
        .get(&request.scheduled_id)
        .ok_or_else(stale)?;
    if is_started(activity) {
        if activity.request_id == request.request_id && activity.stamp == request.stamp {
            return Ok(Outcome::unchanged(started(run, activity)));
        }
        return Err(Error::not_found("activity has been started"));
    }
    // Whatever parks or reschedules an activity changes its stamp; the rest is for safety.
    if activity.stamp != request.stamp || activity.pause.is_some() || activity.held {
        return Err(stale());
    }
    let mut tx = Tx::new(run, cx);
    let activity = (**activity).clone();
    let (identity, request_id) = (request.identity.clone(), request.request_id.clone());
    let reply = begin(
        &mut tx,
        activity,
        identity,
        request_id,
        request.worker_version.clone(),
    );
    Ok(tx.finish(reply))
}

/// Starts an activity for the worker that sent the command for it (contract 1.12).
pub(super) fn start_eager(tx: &mut Tx<'_>, activity: Activity, identity: &str) -> StartedActivity {
    let request_id = tx.cx.uuid();
    begin(tx, activity, identity.to_owned(), request_id, None)
}

fn begin(
    tx: &mut Tx<'_>,
    mut activity: Activity,
    identity: String,
    request_id: String,
    worker_version: Option<WorkerVersionStamp>,
) -> StartedActivity {
    if let Some(place) = activity.task.take() {
        tx.remove_task(TaskKind::Activity, place);
    }
    activity.started_time = tx.now().0;
    activity.identity = identity;
    activity.request_id = request_id;
    activity.worker_version = worker_version;
    let reply = started(&tx.run, &activity);
    tx.put_activity(activity);
    reply
}

fn started(run: &Run, activity: &Activity) -> StartedActivity {
    let timeout = |n: i64| Duration::from_nanos(n.max(0) as u64);
    StartedActivity {
        task: ActivityRef::ByToken {
            scheduled_id: activity.scheduled_id,
            attempt: activity.attempt,
            started_time: Time(activity.started_time),
        },
        scheduled_id: activity.scheduled_id,
        scheduled_batch_id: activity.scheduled_batch_id,
        activity_id: activity.activity_id.clone(),
        activity_type: activity.activity_type.clone(),
        task_queue: activity.task_queue.clone(),
        attempt: attempt(activity),
        heartbeat_details: activity.heartbeat_details.clone(),
        scheduled_time: Time(activity.first_scheduled_time),
        attempt_scheduled_time: Time(activity.scheduled_time),
        started_time: Time(activity.started_time),
        schedule_to_close: timeout(activity.schedule_to_close),
        start_to_close: timeout(activity.start_to_close),
        heartbeat: timeout(activity.heartbeat),
        retry_policy: activity.retry_policy.clone(),
        priority: merged_priority(run, activity),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;

    use super::super::fixture::{Bench, attributes, failure, payload};
    use super::super::hold_all;
    use super::*;

    #[test]
    fn start_writes_no_event() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        bench.events();
        bench.wait(20);
        let started = bench.start().unwrap();
        assert!(bench.events().is_empty() && bench.tasks.is_empty());
        assert_eq!(started.started_time, bench.now);
        assert_eq!(started.start_to_close, Duration::from_secs(10));
        assert_eq!(
            (started.activity_id.as_str(), started.activity_type.as_str()),
            ("a", "T")
        );
        assert_eq!(started.retry_policy.unwrap().backoff_coefficient, 2.0);
    }

    #[test]
    fn a_repeat_gets_the_same_answer_and_others_are_stale() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        let task = bench.tasks[0].clone();
        let first = bench.start_task(&task, "req").unwrap();
        bench.wait(5);
        assert_eq!(bench.start_task(&task, "req").unwrap(), first);
        let other = bench.start_task(&task, "other");
        assert!(matches!(other, Err(Error::NotFound(_))), "{other:?}");
    }

    #[test]
    fn what_makes_an_offer_stale() {
        type Step = fn(&mut Bench);
        let rows: [(&str, Step); 5] = [
            ("the activity is gone", |b| {
                b.complete(ActivityRef::ById {
                    activity_id: "a".into(),
                })
                .unwrap();
            }),
            ("another attempt", |b| {
                let started = b.start().unwrap();
                b.fail(started.task, failure("f")).unwrap();
                b.wait(1000);
                b.fire();
            }),
            ("the run is paused", |b| {
                b.run.core.status = WorkflowExecutionStatus::Paused as i32;
                let cx = b.cx();
                let mut tx = Tx::new(&b.run, &cx);
                hold_all(&mut tx);
                let outcome = tx.finish(());
                b.apply(outcome).unwrap();
            }),
            ("the run is closed", |b| {
                b.run.core.status = WorkflowExecutionStatus::Completed as i32;
            }),
            ("another stamp", |b| {
                let id = *b.run.activities.keys().next().unwrap();
                let mut activity = (*b.run.activities[&id]).clone();
                activity.stamp += 1;
                b.run.put_activity(activity);
            }),
        ];
        for (name, step) in rows {
            let mut bench = Bench::new();
            bench.schedule(attributes()).unwrap();
            let task = bench.tasks[0].clone();
            step(&mut bench);
            let got = bench.start_task(&task, "late");
            assert!(matches!(got, Err(Error::NotFound(_))), "{name}: {got:?}");
        }
    }

    #[test]
    fn a_later_attempt_gets_the_details_of_the_one_before() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        let scheduled = bench.now;
        let started = bench.start().unwrap();
        assert_eq!(started.heartbeat_details, None);
        bench
            .heartbeat(started.task.clone(), Some(payload("half")))
            .unwrap();
        bench.fail(started.task, failure("f")).unwrap();
        bench.wait(1000);
        bench.fire();
        let again = bench.start().unwrap();
        assert_eq!(
            (again.attempt, again.heartbeat_details),
            (2, Some(payload("half")))
        );
        assert_eq!(
            (again.scheduled_time, again.attempt_scheduled_time),
            (scheduled, bench.now)
        );
    }
}
