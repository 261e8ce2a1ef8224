//! Activities of a workflow: scheduling, attempts, retries, timeouts, and what operators do.
//!
//! ```text
//!            ┌────────────── retry, backoff over ───────────────┐
//!            ▼                                                  │
//! ── schedule ──▶ offered ── start ──▶ started ── fails ──▶ backing off
//!                  │   ▲                 │   │
//!             pause│   │unpause          │   └─▶ completed, failed, canceled, timed out
//!                  ▼   │                 │pause, then fails
//!                 parked ◀───────────────┘
//! ```
//! *Offered* is an activity with a row in the task table. An attempt's start and a failure that is
//! retried write no event; `ActivityTaskStarted` is written right before the event that closes
//! the activity (contract 3.2). Commands are in [`command`], a worker's calls in [`start`] and
//! [`respond`], clocks in [`timeout`], operators' calls in [`operate`]; all of them end an
//! attempt through `attempt`.

mod attempt;
pub mod command;
pub mod operate;
pub mod options;
mod pause_info;
pub mod pending;
pub mod priority;
pub mod respond;
pub mod start;
pub mod timeout;

#[cfg(test)]
mod fixture;

use tidemill_proto::api::common::v1::Priority;
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;

pub use command::{Scheduled, request_cancel, schedule};
pub use operate::{hold_all, pause, release_all, reset, select, unpause, update_options};
pub use pending::pending_info;
pub use respond::{
    Cancel, Complete, Fail, Heartbeat, HeartbeatReply, cancel, complete, fail, heartbeat,
};
pub use start::{StartActivity, StartedActivity, start};
pub use timeout::fire;

use crate::Error;
use crate::model::Activity;
use crate::run::{Run, priority_key};
use crate::time::Time;
use crate::transition::TaskKind;
use crate::tx::Tx;

/// How a worker's call names an activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivityRef {
    /// By what its task's token holds: one attempt.
    ByToken {
        scheduled_id: i64,
        attempt: i32,
        started_time: Time,
    },
    /// By the id that the workflow gave it: whichever attempt is current.
    ById { activity_id: String },
}

/// When an activity needs attention: the earliest of its timeouts, or the time at which its next
/// attempt is to be offered. None while it is parked.
pub fn deadline(activity: &Activity) -> Option<Time> {
    let timeout = timeout::earliest(activity).map(|(at, _)| at);
    [timeout, offer_time(activity)].into_iter().flatten().min()
}

/// When an activity that waits is to be offered; `None` if it is not waiting for that.
fn offer_time(activity: &Activity) -> Option<Time> {
    let waits = !is_started(activity)
        && activity.task.is_none()
        && activity.pause.is_none()
        && !activity.held;
    waits.then_some(Time(activity.scheduled_time))
}

/// Whether a worker has the current attempt.
fn is_started(activity: &Activity) -> bool {
    activity.started_time != 0
}

/// The number of the current attempt as the world sees it: 1 for the first since the last reset.
pub fn attempt(activity: &Activity) -> i32 {
    (activity.attempt - activity.attempts_forgotten).max(1)
}

/// When no attempt may begin any more, by the schedule-to-close timeout.
fn expiration(activity: &Activity) -> Option<Time> {
    (activity.schedule_to_close > 0).then(|| {
        Time(
            activity
                .first_scheduled_time
                .saturating_add(activity.schedule_to_close),
        )
    })
}

/// The activity's priority over its workflow's.
fn merged_priority(run: &Run, activity: &Activity) -> Option<Priority> {
    priority::merge(run.priority(), activity.priority.clone())
}

/// Gives the activity a row in the task table if its time has come, unless its run is paused.
/// What was offered before can not start any more.
fn offer(tx: &mut Tx<'_>, activity: &mut Activity) {
    withdraw(tx, activity);
    activity.held = tx.run.status() == WorkflowExecutionStatus::Paused;
    if activity.pause.is_some() || activity.held || activity.scheduled_time > tx.now().0 {
        return;
    }
    let priority = priority_key(&merged_priority(&tx.run, activity));
    let (queue, id, stamp) = (
        activity.task_queue.clone(),
        activity.scheduled_id,
        activity.stamp,
    );
    activity.task = Some(tx.add_task(TaskKind::Activity, &queue, priority, id, stamp, None));
}

/// Takes back what was offered to workers.
fn withdraw(tx: &mut Tx<'_>, activity: &mut Activity) {
    if let Some(place) = activity.task.take() {
        tx.remove_task(TaskKind::Activity, place);
    }
    activity.stamp = tx.next_stamp();
}

/// The pending activity of an open run that a call means.
fn find<'r>(run: &'r Run, activity: &ActivityRef) -> Result<&'r Activity, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let found = match activity {
        ActivityRef::ByToken {
            scheduled_id,
            attempt,
            started_time,
        } => run
            .activities
            .get(scheduled_id)
            .filter(|a| a.attempt == *attempt && Time(a.started_time) == *started_time)
            .ok_or_else(stale)?,
        ActivityRef::ById { activity_id } if activity_id.is_empty() => {
            return Err(Error::invalid("activity id is not set"));
        }
        ActivityRef::ById { activity_id } => run
            .activity_ids
            .get(activity_id)
            .and_then(|id| run.activities.get(id))
            .ok_or_else(|| Error::not_found(format!("no activity `{activity_id}` is pending")))?,
    };
    Ok(found)
}

/// The answer to a worker whose attempt is not the current one.
fn stale() -> Error {
    Error::not_found("activity is not pending, or has gone on to another attempt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_by_state() {
        const S: i64 = 1_000_000_000;
        let base = Activity {
            first_scheduled_time: 100 * S,
            scheduled_time: 100 * S,
            attempt: 1,
            schedule_to_close: 60 * S,
            schedule_to_start: 20 * S,
            start_to_close: 30 * S,
            heartbeat: 5 * S,
            task: Some(Default::default()),
            ..Default::default()
        };
        let with = |f: &dyn Fn(&mut Activity)| {
            let mut activity = base.clone();
            f(&mut activity);
            activity
        };
        let rows: [(&str, Activity, Option<i64>); 13] = [
            ("offered: schedule-to-start", base.clone(), Some(120)),
            (
                "offered, no such timeout: schedule-to-close",
                with(&|a| a.schedule_to_start = 0),
                Some(160),
            ),
            (
                "started: heartbeat",
                with(&|a| a.started_time = 110 * S),
                Some(115),
            ),
            (
                "started, heartbeat seen",
                with(&|a| {
                    a.started_time = 110 * S;
                    a.last_heartbeat_time = 112 * S;
                }),
                Some(117),
            ),
            (
                "an earlier attempt's heartbeat does not count",
                with(&|a| {
                    a.started_time = 110 * S;
                    a.last_heartbeat_time = 90 * S;
                }),
                Some(115),
            ),
            (
                "started, no heartbeat: start-to-close",
                with(&|a| {
                    a.started_time = 110 * S;
                    a.heartbeat = 0;
                }),
                Some(140),
            ),
            (
                "started late: schedule-to-close",
                with(&|a| {
                    a.started_time = 159 * S;
                    a.heartbeat = 0;
                }),
                Some(160),
            ),
            (
                "backing off: the next attempt",
                with(&|a| {
                    a.task = None;
                    a.scheduled_time = 115 * S;
                }),
                Some(115),
            ),
            (
                "backing off beyond schedule-to-close",
                with(&|a| {
                    a.task = None;
                    a.scheduled_time = 165 * S;
                }),
                Some(160),
            ),
            (
                "held: only its timeouts",
                with(&|a| {
                    a.task = None;
                    a.held = true;
                }),
                Some(120),
            ),
            (
                "paused",
                with(&|a| {
                    a.task = None;
                    a.pause = Some(Default::default());
                }),
                None,
            ),
            (
                "paused while started",
                with(&|a| {
                    a.started_time = 110 * S;
                    a.task = None;
                    a.pause = Some(Default::default());
                }),
                None,
            ),
            (
                "no timeouts",
                with(&|a| {
                    a.schedule_to_close = 0;
                    a.schedule_to_start = 0;
                }),
                None,
            ),
        ];
        for (name, activity, expected) in rows {
            assert_eq!(deadline(&activity), expected.map(|s| Time(s * S)), "{name}");
        }
    }
}
