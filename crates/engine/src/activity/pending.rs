//! Pending activities as describing a run shows them (contract 7.3).

use tidemill_proto::api::common::v1::ActivityType;
use tidemill_proto::api::enums::v1::PendingActivityState as State;
use tidemill_proto::api::workflow::v1::PendingActivityInfo;
use tidemill_proto::api::workflow::v1::pending_activity_info::PauseInfo;
use tidemill_proto::api::workflow::v1::pending_activity_info::pause_info::{Manual, PausedBy};

use super::{attempt, expiration, is_started, options};
use crate::model::Activity;
use crate::run::Run;
use crate::time::{Time, proto_span};

/// What describing a run says of a pending activity.
pub fn pending_info(_run: &Run, activity: &Activity, now: Time) -> PendingActivityInfo {
    let a = activity;
    let scheduled = Time(a.scheduled_time);
    let completed = Time(a.last_attempt_complete_time);
    let backs_off = !is_started(a) && a.pause.is_none() && !a.held && now < scheduled;
    let beat = Time(a.last_heartbeat_time).get();
    PendingActivityInfo {
        activity_id: a.activity_id.clone(),
        activity_type: Some(ActivityType {
            name: a.activity_type.clone(),
        }),
        state: state(a) as i32,
        heartbeat_details: beat.and(a.heartbeat_details.clone()),
        last_heartbeat_time: beat.map(Time::proto),
        last_started_time: Time(a.started_time).proto_opt(),
        attempt: attempt(a),
        maximum_attempts: a.retry_policy.as_ref().map_or(0, |p| p.maximum_attempts),
        scheduled_time: Some(scheduled.proto()),
        expiration_time: expiration(a).map(Time::proto),
        last_failure: a.last_failure.clone(),
        last_worker_identity: a.identity.clone(),
        last_attempt_complete_time: completed.proto_opt(),
        next_attempt_schedule_time: backs_off.then(|| scheduled.proto()),
        current_retry_interval: (backs_off && completed.is_set())
            .then(|| scheduled.since(completed))
            .and_then(proto_span),
        paused: a.pause.is_some(),
        pause_info: a.pause.as_ref().map(|pause| PauseInfo {
            pause_time: Some(Time(pause.time).proto()),
            paused_by: Some(PausedBy::Manual(Manual {
                identity: pause.identity.clone(),
                reason: pause.reason.clone(),
            })),
        }),
        priority: a.priority.clone(),
        activity_options: Some(options::current(a)),
        ..Default::default()
    }
}

fn state(activity: &Activity) -> State {
    match (
        is_started(activity),
        activity.cancel_requested,
        activity.pause.is_some(),
    ) {
        (_, true, _) => State::CancelRequested,
        (true, false, true) => State::PauseRequested,
        (true, false, false) => State::Started,
        (false, false, true) => State::Paused,
        (false, false, false) => State::Scheduled,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_proto::api::command::v1::ScheduleActivityTaskCommandAttributes;

    use super::super::fixture::{Bench, attributes, failure, payload, seconds};
    use super::*;

    #[test]
    fn through_its_states() {
        let mut bench = Bench::new();
        let given = ScheduleActivityTaskCommandAttributes {
            schedule_to_close_timeout: seconds(60),
            ..attributes()
        };
        let id = bench.schedule(given).unwrap().scheduled_id;
        let scheduled = bench.now;
        let info = |bench: &Bench| pending_info(&bench.run, &bench.activity(), bench.now);
        let i = info(&bench);
        assert_eq!(
            (i.state(), i.attempt, i.maximum_attempts),
            (State::Scheduled, 1, 0)
        );
        assert_eq!(
            (
                i.activity_id.as_str(),
                i.activity_type.unwrap().name.as_str()
            ),
            ("a", "T")
        );
        assert_eq!(
            i.expiration_time,
            Some(scheduled.plus(Duration::from_secs(60)).proto())
        );
        assert_eq!(
            (
                i.last_started_time,
                i.next_attempt_schedule_time,
                i.last_heartbeat_time
            ),
            (None, None, None)
        );
        assert_eq!(i.activity_options.unwrap().task_queue.unwrap().name, "q");

        bench.wait(10);
        let task = bench.start().unwrap().task;
        bench
            .heartbeat(task.clone(), Some(payload("half")))
            .unwrap();
        let i = info(&bench);
        assert_eq!(
            (i.state(), i.last_worker_identity.as_str()),
            (State::Started, "worker")
        );
        assert_eq!(i.last_started_time, Some(bench.now.proto()));
        assert_eq!(
            (i.last_heartbeat_time, i.heartbeat_details),
            (Some(bench.now.proto()), Some(payload("half")))
        );

        bench.wait(10);
        bench.fail(task, failure("f")).unwrap();
        let i = info(&bench);
        let next = bench.now.plus(Duration::from_secs(1));
        assert_eq!((i.state(), i.attempt), (State::Scheduled, 2));
        assert_eq!(
            (i.scheduled_time, i.next_attempt_schedule_time),
            (Some(next.proto()), Some(next.proto()))
        );
        assert_eq!(i.current_retry_interval, seconds(1));
        assert_eq!(i.last_attempt_complete_time, Some(bench.now.proto()));
        assert_eq!(
            (
                i.last_failure.unwrap().message.as_str(),
                i.last_worker_identity.as_str()
            ),
            ("f", "worker")
        );
        assert_eq!(i.last_started_time, None);

        bench.wait(1000);
        bench.fire();
        let i = info(&bench);
        assert_eq!(
            (
                i.state(),
                i.next_attempt_schedule_time,
                i.current_retry_interval
            ),
            (State::Scheduled, None, None)
        );

        bench.start().unwrap();
        bench.request_cancel(id).unwrap();
        assert_eq!(info(&bench).state(), State::CancelRequested);
    }
}
