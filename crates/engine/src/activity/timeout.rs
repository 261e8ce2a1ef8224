//! The clocks of an activity: its four timeouts and the end of its retry backoff (contract 3.3).

use tidemill_proto::api::enums::v1::{RetryState, TimeoutType};
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{Failure, TimeoutFailureInfo};
use tidemill_proto::api::history::v1::ActivityTaskTimedOutEventAttributes;

use super::attempt::{self, Next};
use super::{deadline, is_started, offer};
use crate::model::Activity;
use crate::retry::timeout_name;
use crate::time::Time;
use crate::tx::Tx;

/// The timeout that comes first, with its time. Parked activities have none.
pub(super) fn earliest(activity: &Activity) -> Option<(Time, TimeoutType)> {
    if activity.pause.is_some() {
        return None;
    }
    let a = activity;
    let beat = a.started_time.max(a.last_heartbeat_time);
    let (waiting, running) = (!is_started(a), is_started(a));
    // Of timeouts at the same time the first one listed counts.
    let clocks = [
        (
            running,
            a.started_time,
            a.start_to_close,
            TimeoutType::StartToClose,
        ),
        (
            waiting,
            a.scheduled_time,
            a.schedule_to_start,
            TimeoutType::ScheduleToStart,
        ),
        (
            true,
            a.first_scheduled_time,
            a.schedule_to_close,
            TimeoutType::ScheduleToClose,
        ),
        (running, beat, a.heartbeat, TimeoutType::Heartbeat),
    ];
    clocks
        .into_iter()
        .filter(|(runs, _, span, _)| *runs && *span > 0)
        .map(|(_, from, span, kind)| (Time(from.saturating_add(span)), kind))
        .min_by_key(|(at, _)| *at)
}

/// Does what is due: times the attempt out, or offers the next one. Called when the activity's
/// deadline has passed; does nothing when it has not.
pub fn fire(tx: &mut Tx<'_>, scheduled_id: i64) {
    let now = tx.now();
    // An attempt that times out may be followed by one that is due at once.
    while let Some(activity) = tx.run.activities.get(&scheduled_id).cloned()
        && deadline(&activity).is_some_and(|at| at <= now)
    {
        let mut activity = (*activity).clone();
        match earliest(&activity) {
            Some((at, kind)) if at <= now => time_out(tx, activity, kind),
            _ => {
                offer(tx, &mut activity);
                tx.put_activity(activity);
            }
        }
    }
}

fn time_out(tx: &mut Tx<'_>, mut activity: Activity, kind: TimeoutType) {
    activity.last_attempt_complete_time = tx.now().0;
    let text = format!("activity {} timeout", timeout_name(kind));
    let failure = timeout_failure(kind, text);
    let (activity, retry_state) = match attempt::end(tx, activity, Some(&failure)) {
        Next::Retried => return,
        Next::Final(activity, retry_state) => (*activity, retry_state),
    };
    // An attempt that could be retried but for the time left counts as schedule-to-close.
    let mut failure = match (kind, retry_state) {
        (TimeoutType::StartToClose | TimeoutType::Heartbeat, RetryState::Timeout) => timeout_failure(
            TimeoutType::ScheduleToClose,
            "not enough time left for another attempt before the activity ScheduleToClose timeout"
                .into(),
        ),
        _ => failure,
    };
    if let Some(FailureInfo::TimeoutFailureInfo(info)) = &mut failure.failure_info {
        info.last_heartbeat_details = activity.heartbeat_details.clone();
    }
    failure.cause = activity.last_failure.clone().map(Box::new);
    attempt::close(tx, activity, |scheduled_event_id, started_event_id| {
        ActivityTaskTimedOutEventAttributes {
            failure: Some(failure),
            scheduled_event_id,
            started_event_id,
            retry_state: retry_state as i32,
        }
        .into()
    });
}

fn timeout_failure(kind: TimeoutType, message: String) -> Failure {
    Failure {
        message,
        source: "Server".into(),
        failure_info: Some(FailureInfo::TimeoutFailureInfo(TimeoutFailureInfo {
            timeout_type: kind as i32,
            last_heartbeat_details: None,
        })),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::command::v1::ScheduleActivityTaskCommandAttributes;
    use tidemill_proto::api::common::v1::RetryPolicy;
    use tidemill_proto::api::enums::v1::EventType as E;
    use tidemill_proto::api::history::v1::history_event::Attributes;

    use super::super::fixture::{Bench, attempts, attributes, failure, payload, seconds};
    use super::*;

    /// What the timed out event says, with whether it was preceded by a started event.
    fn timed_out(bench: &mut Bench) -> Option<(TimeoutType, RetryState, Failure, bool)> {
        let events = bench.events();
        let at = events
            .iter()
            .position(|e| e.event_type() == E::ActivityTaskTimedOut)?;
        let Some(Attributes::ActivityTaskTimedOutEventAttributes(a)) = &events[at].attributes
        else {
            panic!()
        };
        let failure = a.failure.clone().unwrap();
        let Some(FailureInfo::TimeoutFailureInfo(info)) = &failure.failure_info else {
            panic!()
        };
        let started = at > 0 && events[at - 1].event_type() == E::ActivityTaskStarted;
        assert_eq!(
            a.started_event_id,
            if started { events[at - 1].event_id } else { 0 }
        );
        assert_eq!(events[at + 1].event_type(), E::WorkflowTaskScheduled);
        Some((info.timeout_type(), a.retry_state(), failure, started))
    }

    #[test]
    fn which_timeout_closes_the_activity() {
        use RetryState as R;
        use TimeoutType as T;
        let with = |f: &dyn Fn(&mut ScheduleActivityTaskCommandAttributes)| {
            let mut a = attempts(1);
            f(&mut a);
            a
        };
        let types = |t: &str| {
            Some(RetryPolicy {
                non_retryable_error_types: vec![t.into()],
                ..Default::default()
            })
        };
        // attributes, started?, milliseconds until it is due, type, retry state
        let rows = [
            (
                with(&|a| a.schedule_to_start_timeout = seconds(3)),
                false,
                3000,
                T::ScheduleToStart,
                R::Timeout,
            ),
            (
                with(&|a| a.schedule_to_close_timeout = seconds(5)),
                true,
                5000,
                T::StartToClose,
                R::MaximumAttemptsReached,
            ),
            (
                with(&|a| a.schedule_to_close_timeout = seconds(20)),
                true,
                10_000,
                T::StartToClose,
                R::MaximumAttemptsReached,
            ),
            (
                with(&|a| a.heartbeat_timeout = seconds(2)),
                true,
                2000,
                T::Heartbeat,
                R::MaximumAttemptsReached,
            ),
            (
                with(&|_| {}),
                true,
                10_000,
                T::StartToClose,
                R::MaximumAttemptsReached,
            ),
            // Not enough time for another attempt.
            (
                with(&|a| {
                    a.retry_policy = None;
                    a.schedule_to_close_timeout = seconds(10);
                }),
                true,
                10_000,
                T::ScheduleToClose,
                R::Timeout,
            ),
            (
                with(&|a| a.retry_policy = types("TemporalTimeout:StartToClose")),
                true,
                10_000,
                T::StartToClose,
                R::NonRetryableFailure,
            ),
            (
                with(&|a| {
                    a.retry_policy = types("TemporalTimeout:Heartbeat");
                    a.heartbeat_timeout = seconds(4);
                }),
                true,
                4000,
                T::Heartbeat,
                R::NonRetryableFailure,
            ),
        ];
        for (i, (given, starts, due, kind, state)) in rows.into_iter().enumerate() {
            let mut bench = Bench::new();
            bench.schedule(given).unwrap();
            if starts {
                bench.start().unwrap();
            }
            bench.wait(due - 1);
            bench.fire();
            assert_eq!(timed_out(&mut bench), None, "row {i}: never early");
            bench.wait(1);
            bench.fire();
            let (got, got_state, _, started) =
                timed_out(&mut bench).unwrap_or_else(|| panic!("row {i}"));
            assert_eq!((got, got_state, started), (kind, state, starts), "row {i}");
            assert!(bench.run.activities.is_empty() && bench.tasks.is_empty());
        }
    }

    #[test]
    fn a_timeout_is_retried_without_an_event() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        bench.events();
        bench.start().unwrap();
        bench.wait(10_000);
        bench.fire();
        assert!(bench.events().is_empty() && bench.tasks.is_empty());
        let a = bench.activity();
        assert_eq!((a.attempt, a.started_time), (2, 0));
        assert_eq!(
            Time(a.scheduled_time).since(bench.now),
            std::time::Duration::from_secs(1)
        );
        // Early looks do nothing.
        bench.wait(999);
        bench.fire();
        assert!(bench.tasks.is_empty());
        bench.wait(1);
        bench.fire();
        assert_eq!(bench.tasks.len(), 1);
        bench.fire();
        assert_eq!(bench.tasks.len(), 1, "offered once");
        let started = bench.start().unwrap();
        assert_eq!(started.attempt, 2);
    }

    #[test]
    fn cause_and_details_of_a_timeout() {
        let mut bench = Bench::new();
        let given = ScheduleActivityTaskCommandAttributes {
            schedule_to_close_timeout: seconds(12),
            heartbeat_timeout: seconds(2),
            ..attributes()
        };
        bench.schedule(given).unwrap();
        let started = bench.start().unwrap();
        bench.fail(started.task, failure("first")).unwrap();
        bench.wait(1000);
        bench.fire();
        let started = bench.start().unwrap();
        bench
            .heartbeat(started.task.clone(), Some(payload("half")))
            .unwrap();
        // The second attempt's heartbeat times out: retried, with the timeout as its failure.
        bench.wait(2000);
        bench.fire();
        bench.wait(2000);
        bench.fire();
        assert_eq!(
            bench.start().unwrap().heartbeat_details,
            Some(payload("half"))
        );
        bench.wait(2000);
        bench.fire();
        // Four seconds of backoff end at 11 s; its attempt is cut by schedule-to-close at 12 s.
        bench.wait(4000);
        bench.fire();
        bench.start().unwrap();
        bench.wait(1000);
        bench.events();
        bench.fire();
        let (kind, state, failure, started) = timed_out(&mut bench).unwrap();
        assert_eq!(
            (kind, state, started),
            (TimeoutType::ScheduleToClose, RetryState::Timeout, true)
        );
        let Some(FailureInfo::TimeoutFailureInfo(info)) = &failure.failure_info else {
            panic!()
        };
        assert_eq!(info.last_heartbeat_details, Some(payload("half")));
        let cause = failure.cause.expect("the failure of the attempt before");
        assert!(
            matches!(&cause.failure_info, Some(FailureInfo::TimeoutFailureInfo(t)) if t.timeout_type() == TimeoutType::Heartbeat)
        );
    }

    #[test]
    fn schedule_to_close_during_backoff() {
        let mut bench = Bench::new();
        let given = ScheduleActivityTaskCommandAttributes {
            schedule_to_close_timeout: seconds(2),
            start_to_close_timeout: seconds(2),
            retry_policy: Some(RetryPolicy {
                initial_interval: seconds(1),
                ..Default::default()
            }),
            ..attributes()
        };
        bench.schedule(given).unwrap();
        let started = bench.start().unwrap();
        bench.wait(500);
        bench.fail(started.task, failure("first")).unwrap();
        bench.wait(1500);
        bench.events();
        // Both the next attempt and the timeout are due (the server was down): the timeout wins.
        bench.fire();
        let (kind, state, failure, started) = timed_out(&mut bench).unwrap();
        assert_eq!(
            (kind, state, started),
            (TimeoutType::ScheduleToClose, RetryState::Timeout, false)
        );
        assert_eq!(failure.cause.unwrap().message, "first");
    }

    #[test]
    fn a_cancel_request_ends_the_retries() {
        let mut bench = Bench::new();
        let id = bench.schedule(attributes()).unwrap().scheduled_id;
        bench.start().unwrap();
        bench.request_cancel(id).unwrap();
        bench.wait(10_000);
        bench.fire();
        let (kind, state, ..) = timed_out(&mut bench).unwrap();
        assert_eq!(
            (kind, state),
            (TimeoutType::StartToClose, RetryState::CancelRequested)
        );
    }

    #[test]
    fn heartbeats_put_their_timeout_off() {
        let mut bench = Bench::new();
        bench
            .schedule(ScheduleActivityTaskCommandAttributes {
                heartbeat_timeout: seconds(2),
                ..attempts(1)
            })
            .unwrap();
        let started = bench.start().unwrap();
        for _ in 0..4 {
            bench.wait(1900);
            bench.heartbeat(started.task.clone(), None).unwrap();
            bench.fire();
        }
        assert_eq!(timed_out(&mut bench), None);
        bench.wait(2000);
        bench.fire();
        assert_eq!(timed_out(&mut bench).unwrap().0, TimeoutType::Heartbeat);
    }

    #[test]
    fn timed_out_while_a_workflow_task_runs_is_buffered() {
        let mut bench = Bench::new();
        bench.schedule(attempts(1)).unwrap();
        bench.start().unwrap();
        bench.events();
        bench.busy();
        bench.wait(10_000);
        bench.fire();
        assert!(bench.events().is_empty());
        bench.idle();
        assert_eq!(
            bench.types(),
            [
                E::ActivityTaskStarted,
                E::ActivityTaskTimedOut,
                E::WorkflowTaskScheduled
            ]
        );
    }
}
