//! What operators do to pending activities: pause, unpause, reset, change options (contract
//! 3.7). None of it writes an event.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_proto::api::activity::v1::ActivityOptions;
use tidemill_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use tidemill_proto::api::workflowservice::v1::{
    PauseActivityRequest, ResetActivityRequest, UnpauseActivityRequest,
    UpdateActivityOptionsRequest, pause_activity_request, reset_activity_request,
    unpause_activity_request, update_activity_options_request,
};

use super::{attempt, is_started, offer, options, pause_info, withdraw};
use crate::Error;
use crate::model::{Activity, Pause};
use crate::run::Run;
use crate::time::span;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

/// Attributes of scheduled events, by event id, for operations that restore what they say.
pub type Originals = BTreeMap<i64, ActivityTaskScheduledEventAttributes>;

/// Which activities of a run an operation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector<'a> {
    Id(&'a str),
    Type(&'a str),
    All,
}

macro_rules! selector_of {
    ($request:ty, $choice:path $(, $all:path)?) => {
        impl<'a> TryFrom<&'a $request> for Selector<'a> {
            type Error = Error;
            fn try_from(request: &'a $request) -> Result<Self, Error> {
                use $choice as C;
                match &request.activity {
                    Some(C::Id(id)) => Ok(Selector::Id(id)),
                    Some(C::Type(kind)) => Ok(Selector::Type(kind)),
                    $(Some($all(_)) => Ok(Selector::All),)?
                    None => Err(Error::invalid("neither activity id nor activity type is set")),
                }
            }
        }
    };
}

selector_of!(PauseActivityRequest, pause_activity_request::Activity);
selector_of!(
    UnpauseActivityRequest,
    unpause_activity_request::Activity,
    C::UnpauseAll
);
selector_of!(
    ResetActivityRequest,
    reset_activity_request::Activity,
    C::MatchAll
);
selector_of!(
    UpdateActivityOptionsRequest,
    update_activity_options_request::Activity,
    C::MatchAll
);

/// The selected activities as pairs of the scheduled event's id and its batch's first event id,
/// in the order of their scheduling. `NotFound` when there are none.
pub fn select(run: &Run, selector: Selector<'_>) -> Result<Vec<(i64, i64)>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let wanted = |a: &Activity| match selector {
        Selector::Id(id) => a.activity_id == id,
        Selector::Type(kind) => a.activity_type == kind,
        Selector::All => true,
    };
    let found: Vec<_> = run
        .activities
        .values()
        .filter(|a| wanted(a))
        .map(|a| (a.scheduled_id, a.scheduled_batch_id))
        .collect();
    if found.is_empty() {
        return Err(Error::not_found("no such activity is pending"));
    }
    Ok(found)
}

/// Runs `change` on each selected activity, in order, and stores what it leaves.
fn change_each(
    tx: &mut Tx<'_>,
    selector: Selector<'_>,
    mut change: impl FnMut(&mut Tx<'_>, &mut Activity) -> Result<(), Error>,
) -> Result<(), Error> {
    for (id, _) in select(&tx.run, selector)? {
        let mut activity = (*tx.run.activities[&id]).clone();
        change(tx, &mut activity)?;
        tx.put_activity(activity);
    }
    Ok(())
}

/// Parks activities: an attempt that runs may end, but no other one begins, and no timeout counts.
pub fn pause(run: &Run, request: &PauseActivityRequest, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    let mut tx = Tx::new(run, cx);
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if let Some(pause) = &activity.pause {
            if pause.request_id == request.request_id {
                return Ok(());
            }
            return Err(Error::FailedPrecondition(
                "activity is already paused".into(),
            ));
        }
        activity.pause = Some(Pause {
            time: tx.now().0,
            identity: request.identity.clone(),
            reason: request.reason.clone(),
            request_id: request.request_id.clone(),
        });
        if !is_started(activity) {
            withdraw(tx, activity);
        }
        Ok(())
    })?;
    pause_info::refresh(&mut tx);
    Ok(tx.finish(()))
}

/// Lets parked activities go on: at once, or within the request's jitter. Others stay as they are.
pub fn unpause(
    run: &Run,
    request: &UnpauseActivityRequest,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    let mut tx = Tx::new(run, cx);
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if activity.pause.take().is_none() {
            return Ok(());
        }
        if request.reset_attempts {
            forget_attempts(activity);
        }
        if request.reset_heartbeat {
            attempt::clear_heartbeat(activity);
        }
        if !is_started(activity) {
            reschedule(tx, activity, span(&request.jitter));
        }
        Ok(())
    })?;
    pause_info::refresh(&mut tx);
    Ok(tx.finish(()))
}

/// Starts activities over: the next attempt is the first. An attempt that runs goes on, and its
/// worker learns of the reset from its heartbeat. `originals` is needed only for
/// `restore_original_options`, for each of the activities that [`select`] names.
pub fn reset(
    run: &Run,
    request: &ResetActivityRequest,
    originals: &Originals,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    let mut tx = Tx::new(run, cx);
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if request.restore_original_options {
            restore(tx, activity, originals)?;
        }
        if !request.keep_paused {
            activity.pause = None;
        }
        forget_attempts(activity);
        if is_started(activity) {
            activity.reset_requested = true;
            activity.reset_heartbeat |= request.reset_heartbeat;
            return Ok(());
        }
        activity.last_failure = None;
        if request.reset_heartbeat {
            attempt::clear_heartbeat(activity);
        }
        if activity.pause.is_none() {
            reschedule(tx, activity, span(&request.jitter));
        }
        Ok(())
    })?;
    pause_info::refresh(&mut tx);
    Ok(tx.finish(()))
}

/// Changes options, or restores those that the activities were scheduled with; answers with the
/// options that now apply (of the last one, when there are more). `originals` as for [`reset`].
pub fn update_options(
    run: &Run,
    request: &UpdateActivityOptionsRequest,
    originals: &Originals,
    cx: &Cx<'_>,
) -> Result<Outcome<ActivityOptions>, Error> {
    let paths = request.update_mask.as_ref().map(|m| m.paths.as_slice());
    if request.restore_original {
        if paths.is_some_and(|p| !p.is_empty()) {
            return Err(Error::invalid(
                "give either an update mask or restore_original, not both",
            ));
        }
    } else if request.activity_options.is_none() {
        return Err(Error::invalid("activity options are not set"));
    } else if paths.is_none() {
        return Err(Error::invalid("update mask is not set"));
    }
    let mut tx = Tx::new(run, cx);
    let mut reply = ActivityOptions::default();
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if request.restore_original {
            restore(tx, activity, originals)?;
        } else {
            let mut changed = options::current(activity);
            let given = request.activity_options.clone().unwrap_or_default();
            options::merge(&mut changed, &given, paths.unwrap_or_default())
                .and_then(|()| {
                    let queue = tx.run.task_queue().to_owned();
                    options::apply(activity, changed, &queue, tx.limits())
                })
                .map_err(Error::InvalidArgument)?;
        }
        if !is_started(activity) && activity.pause.is_none() {
            // What waits does so by the new policy, on the new queue.
            if let Some(policy) = &activity.retry_policy {
                activity.scheduled_time = attempt::scheduled_time(activity, policy).0;
            }
            offer(tx, activity);
        }
        reply = options::current(activity);
        Ok(())
    })?;
    Ok(tx.finish(reply))
}

fn restore(tx: &Tx<'_>, activity: &mut Activity, originals: &Originals) -> Result<(), Error> {
    let event = originals.get(&activity.scheduled_id).ok_or_else(|| {
        Error::Internal(format!(
            "scheduled event {} was not given",
            activity.scheduled_id
        ))
    })?;
    options::apply(
        activity,
        options::original(event),
        tx.run.task_queue(),
        tx.limits(),
    )
    .map_err(Error::InvalidArgument)
}

/// From now on the current attempt counts as the first.
fn forget_attempts(activity: &mut Activity) {
    activity.attempts_forgotten = activity.attempt - 1;
}

/// Schedules the next attempt of an activity that waits: now, or somewhere within the jitter.
fn reschedule(tx: &mut Tx<'_>, activity: &mut Activity, jitter: Duration) {
    activity.scheduled_time = tx.now().plus(part_of(tx, jitter)).0;
    offer(tx, activity);
}

/// A random part of a span: zero up to all of it, the end excluded.
fn part_of(tx: &Tx<'_>, span: Duration) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return Duration::ZERO;
    }
    let random = tx.cx.ids.random();
    let random = u64::from_le_bytes(random[..8].try_into().expect("eight of sixteen bytes"));
    Duration::from_nanos(random % nanos)
}

/// The run was paused: no attempt begins until [`release_all`]. Those that run go on, and
/// timeouts count (contract 5.9). Called once the run's status is Paused.
pub fn hold_all(tx: &mut Tx<'_>) {
    for mut activity in waiting(tx) {
        withdraw(tx, &mut activity);
        activity.held = true;
        tx.put_activity(activity);
    }
}

/// The run goes on: what was held is offered again. Called once the run's status is Running.
pub fn release_all(tx: &mut Tx<'_>) {
    for mut activity in waiting(tx) {
        offer(tx, &mut activity);
        tx.put_activity(activity);
    }
}

fn waiting(tx: &Tx<'_>) -> Vec<Activity> {
    let all = tx.run.activities.values();
    all.filter(|a| !is_started(a))
        .map(|a| (**a).clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::command::v1::ScheduleActivityTaskCommandAttributes;
    use tidemill_proto::api::common::v1::{ActivityType, Payloads, RetryPolicy};
    use tidemill_proto::api::enums::v1::{PendingActivityState as State, WorkflowExecutionStatus};
    use tidemill_proto::api::taskqueue::v1::TaskQueue;
    use tidemill_proto::api::workflow::v1::PendingActivityInfo;
    use tidemill_proto::wkt::FieldMask;

    use super::super::fixture::{Bench, attempts, attributes, failure, payload, seconds};
    use super::super::{ActivityRef, pending_info};
    use super::*;
    use crate::time::Time;

    fn pause_by(id: &str, request_id: &str) -> PauseActivityRequest {
        PauseActivityRequest {
            identity: "op".into(),
            reason: "why".into(),
            request_id: request_id.into(),
            activity: Some(pause_activity_request::Activity::Id(id.into())),
            ..Default::default()
        }
    }

    impl Bench {
        fn pause(&mut self) -> Result<(), Error> {
            let outcome = pause(&self.run, &pause_by("a", "p"), &self.cx())?;
            self.apply(outcome)
        }

        fn unpause(&mut self, request: UnpauseActivityRequest) -> Result<(), Error> {
            let request = UnpauseActivityRequest {
                activity: Some(unpause_activity_request::Activity::Id("a".into())),
                ..request
            };
            let outcome = unpause(&self.run, &request, &self.cx())?;
            self.apply(outcome)
        }

        fn reset(
            &mut self,
            request: ResetActivityRequest,
            originals: &Originals,
        ) -> Result<(), Error> {
            let request = ResetActivityRequest {
                activity: Some(reset_activity_request::Activity::Id("a".into())),
                ..request
            };
            let outcome = reset(&self.run, &request, originals, &self.cx())?;
            self.apply(outcome)
        }

        fn update(
            &mut self,
            options: ActivityOptions,
            paths: &[&str],
        ) -> Result<ActivityOptions, Error> {
            let request = UpdateActivityOptionsRequest {
                activity_options: Some(options),
                update_mask: Some(FieldMask {
                    paths: paths.iter().map(|p| (*p).to_owned()).collect(),
                }),
                activity: Some(update_activity_options_request::Activity::Id("a".into())),
                ..Default::default()
            };
            let outcome = update_options(&self.run, &request, &Originals::new(), &self.cx())?;
            self.apply(outcome)
        }

        fn info(&self) -> PendingActivityInfo {
            pending_info(&self.run, &self.activity(), self.now)
        }

        /// Brings the activity into its `n`th attempt, running.
        fn run_attempt(&mut self, n: i32) -> ActivityRef {
            loop {
                let started = self.start().unwrap();
                if started.attempt == n {
                    return started.task;
                }
                self.fail(started.task, failure("f")).unwrap();
                self.wait(100_000);
                self.fire();
            }
        }

        fn details(&self) -> Option<Payloads> {
            self.activity().heartbeat_details
        }
    }

    /// With a backoff that never ends by itself in these tests.
    fn patient() -> ScheduleActivityTaskCommandAttributes {
        ScheduleActivityTaskCommandAttributes {
            retry_policy: Some(RetryPolicy {
                initial_interval: seconds(100),
                backoff_coefficient: 1.0,
                ..Default::default()
            }),
            ..attributes()
        }
    }

    #[test]
    fn selection() {
        let mut bench = Bench::new();
        for (id, kind) in [("a", "T"), ("b", "T"), ("c", "U")] {
            let given = ScheduleActivityTaskCommandAttributes {
                activity_id: id.into(),
                activity_type: Some(ActivityType { name: kind.into() }),
                ..attributes()
            };
            bench.schedule(given).unwrap();
        }
        let rows = [
            (Selector::Id("b"), Some(1)),
            (Selector::Id("x"), None),
            (Selector::Type("T"), Some(2)),
            (Selector::Type("x"), None),
            (Selector::All, Some(3)),
        ];
        for (selector, expected) in rows {
            let got = select(&bench.run, selector);
            match expected {
                Some(n) => assert_eq!(got.unwrap().len(), n, "{selector:?}"),
                None => assert!(matches!(got, Err(Error::NotFound(_))), "{selector:?}"),
            }
        }
        let none = PauseActivityRequest::default();
        assert!(matches!(
            pause(&bench.run, &none, &bench.cx()),
            Err(Error::InvalidArgument(_))
        ));
        // By type, all of them; and the attribute says so once.
        let by_type = PauseActivityRequest {
            activity: Some(pause_activity_request::Activity::Type("T".into())),
            ..Default::default()
        };
        let outcome = pause(&bench.run, &by_type, &bench.cx()).unwrap();
        bench.apply(outcome).unwrap();
        assert_eq!(bench.tasks.len(), 1);
        let visible = bench.run.visible.search_attributes.as_ref().unwrap();
        assert_eq!(
            visible.indexed_fields["TemporalPauseInfo"].data,
            b"[\"property:activityType=T\"]"
        );
        bench.run.core.status = WorkflowExecutionStatus::Completed as i32;
        assert!(matches!(
            select(&bench.run, Selector::All),
            Err(Error::NotFound(_))
        ));
    }

    #[test]
    fn pause_parks_what_does_not_run() {
        // Waiting for a worker; backing off.
        for fails in [false, true] {
            let mut bench = Bench::new();
            bench.schedule(patient()).unwrap();
            let task = bench.tasks[0].clone();
            if fails {
                bench.run_attempt(1);
                let reference = ActivityRef::ById {
                    activity_id: "a".into(),
                };
                bench.fail(reference, failure("f")).unwrap();
            }
            bench.events();
            bench.pause().unwrap();
            assert!(bench.tasks.is_empty() && bench.events().is_empty());
            assert!(bench.start_task(&task, "late").is_err());
            let info = bench.info();
            assert_eq!((info.state(), info.paused), (State::Paused, true));
            assert_eq!(info.next_attempt_schedule_time, None);
            bench.wait(1_000_000);
            bench.fire();
            assert!(bench.tasks.is_empty(), "nothing happens while it is paused");
            bench.unpause(UnpauseActivityRequest::default()).unwrap();
            assert_eq!(bench.tasks.len(), 1);
            assert_eq!(bench.start().unwrap().attempt, if fails { 2 } else { 1 });
            assert_eq!(
                bench
                    .run
                    .visible
                    .search_attributes
                    .as_ref()
                    .unwrap()
                    .indexed_fields
                    .len(),
                0
            );
        }
    }

    #[test]
    fn pause_lets_an_attempt_end() {
        let mut bench = Bench::new();
        bench.schedule(attempts(1)).unwrap();
        let task = bench.run_attempt(1);
        bench.pause().unwrap();
        assert_eq!(bench.info().state(), State::PauseRequested);
        assert!(bench.heartbeat(task.clone(), None).unwrap().paused);
        bench.wait(1_000_000);
        bench.fire();
        assert_eq!(
            bench.info().state(),
            State::PauseRequested,
            "no timeout counts"
        );
        // Its failure parks it, although the policy allows no second attempt.
        bench.events();
        bench.fail(task, failure("f")).unwrap();
        let info = bench.info();
        assert_eq!((info.state(), info.attempt), (State::Paused, 2));
        assert_eq!(info.last_failure.unwrap().message, "f");
        assert!(bench.events().is_empty() && bench.tasks.is_empty());
    }

    #[test]
    fn a_paused_attempt_may_succeed() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        let task = bench.run_attempt(1);
        bench.pause().unwrap();
        bench.complete(task).unwrap();
        assert!(bench.run.activities.is_empty());
        assert!(
            bench
                .run
                .visible
                .search_attributes
                .as_ref()
                .unwrap()
                .indexed_fields
                .is_empty()
        );
    }

    #[test]
    fn pausing_twice() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        bench.pause().unwrap();
        bench.pause().unwrap();
        let other = pause(&bench.run, &pause_by("a", "other"), &bench.cx());
        assert!(matches!(other, Err(Error::FailedPrecondition(_))));
    }

    #[test]
    fn unpause_of_what_is_not_paused_changes_nothing() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        let before = bench.activity();
        bench
            .unpause(UnpauseActivityRequest {
                reset_attempts: true,
                ..Default::default()
            })
            .unwrap();
        assert_eq!(bench.activity(), before);
    }

    #[test]
    fn unpause_with_resets_and_jitter() {
        let mut bench = Bench::new();
        bench.schedule(patient()).unwrap();
        let task = bench.run_attempt(3);
        bench
            .heartbeat(task.clone(), Some(payload("half")))
            .unwrap();
        bench.pause().unwrap();
        bench.fail(task, failure("f")).unwrap();
        assert_eq!(bench.info().attempt, 4);
        let request = UnpauseActivityRequest {
            reset_attempts: true,
            reset_heartbeat: true,
            jitter: seconds(30),
            ..Default::default()
        };
        bench.unpause(request).unwrap();
        let info = bench.info();
        assert_eq!(
            (info.attempt, info.state(), bench.details()),
            (1, State::Scheduled, None)
        );
        let next = Time::from_proto(
            &info
                .next_attempt_schedule_time
                .expect("somewhere in the jitter"),
        );
        assert!(next > bench.now && next.since(bench.now) < Duration::from_secs(30));
        assert!(bench.tasks.is_empty());
        bench.wait(30_000);
        bench.fire();
        assert_eq!(bench.start().unwrap().attempt, 1);
    }

    #[test]
    fn reset_of_what_backs_off() {
        let mut bench = Bench::new();
        bench.schedule(patient()).unwrap();
        let task = bench.run_attempt(3);
        bench
            .heartbeat(task.clone(), Some(payload("half")))
            .unwrap();
        bench.fail(task, failure("f")).unwrap();
        bench.events();
        bench
            .reset(ResetActivityRequest::default(), &Originals::new())
            .unwrap();
        assert!(bench.events().is_empty());
        let info = bench.info();
        assert_eq!((info.attempt, info.last_failure), (1, None));
        let started = bench.start().unwrap();
        assert_eq!(
            (started.attempt, started.heartbeat_details),
            (1, Some(payload("half")))
        );
        // Its policy counts from one again, and its token is not that of the first first attempt.
        assert!(matches!(
            started.task,
            ActivityRef::ByToken { attempt: 4, .. }
        ));
        bench.fail(started.task, failure("g")).unwrap();
        assert_eq!(bench.info().attempt, 2);
    }

    #[test]
    fn reset_of_what_runs() {
        let mut bench = Bench::new();
        bench.schedule(attempts(3)).unwrap();
        let task = bench.run_attempt(3);
        bench
            .heartbeat(task.clone(), Some(payload("half")))
            .unwrap();
        bench
            .reset(
                ResetActivityRequest {
                    reset_heartbeat: true,
                    ..Default::default()
                },
                &Originals::new(),
            )
            .unwrap();
        let info = bench.info();
        assert_eq!((info.state(), info.attempt), (State::Started, 1));
        let reply = bench
            .heartbeat(task.clone(), Some(payload("more")))
            .unwrap();
        assert!(reply.reset && !reply.cancel_requested);
        // This would have been the last attempt.
        bench.fail(task, failure("f")).unwrap();
        assert_eq!((bench.info().attempt, bench.details()), (2, None));
        bench.wait(1000);
        bench.fire();
        let again = bench.start().unwrap();
        assert!(!bench.heartbeat(again.task, None).unwrap().reset);
    }

    #[test]
    fn reset_of_what_is_paused() {
        for keep_paused in [false, true] {
            let mut bench = Bench::new();
            bench.schedule(patient()).unwrap();
            let task = bench.run_attempt(2);
            bench.pause().unwrap();
            bench.fail(task, failure("f")).unwrap();
            bench
                .reset(
                    ResetActivityRequest {
                        keep_paused,
                        ..Default::default()
                    },
                    &Originals::new(),
                )
                .unwrap();
            let info = bench.info();
            assert_eq!((info.attempt, info.paused), (1, keep_paused));
            assert_eq!(bench.tasks.len(), usize::from(!keep_paused));
        }
    }

    #[test]
    fn options_are_changed_and_restored() {
        let mut bench = Bench::new();
        let id = bench.schedule(patient()).unwrap().scheduled_id;
        let events = bench.events();
        let Some(tidemill_proto::api::history::v1::history_event::Attributes::ActivityTaskScheduledEventAttributes(event)) =
            events[0].attributes.clone()
        else {
            panic!()
        };
        let originals = Originals::from([(id, event)]);
        let options = ActivityOptions {
            task_queue: Some(TaskQueue {
                name: "other".into(),
                ..Default::default()
            }),
            schedule_to_close_timeout: seconds(50),
            ..Default::default()
        };
        let got = bench
            .update(options, &["task_queue.name", "schedule_to_close_timeout"])
            .unwrap();
        assert_eq!(got.task_queue.unwrap().name, "other");
        assert_eq!(got.schedule_to_start_timeout, seconds(50));
        assert_eq!(got.start_to_close_timeout, seconds(10));
        assert!(bench.events().is_empty());
        assert_eq!(bench.tasks.len(), 1, "offered anew");
        assert_eq!(bench.tasks[0].place.queue, "other");
        assert_eq!(
            bench.run.next_deadline(),
            Some(bench.now.plus(Duration::from_secs(50)))
        );

        let restore = UpdateActivityOptionsRequest {
            restore_original: true,
            activity: Some(update_activity_options_request::Activity::MatchAll(true)),
            ..Default::default()
        };
        let outcome = update_options(&bench.run, &restore, &originals, &bench.cx()).unwrap();
        let got = bench.apply(outcome).unwrap();
        assert_eq!(
            (
                got.task_queue.unwrap().name.as_str(),
                got.schedule_to_close_timeout
            ),
            ("q", seconds(0))
        );
        assert_eq!(bench.tasks[0].place.queue, "q");

        bench
            .update(
                ActivityOptions {
                    heartbeat_timeout: seconds(3),
                    ..Default::default()
                },
                &["heartbeatTimeout"],
            )
            .unwrap();
        assert_eq!(bench.activity().heartbeat, 3_000_000_000);
        bench
            .reset(
                ResetActivityRequest {
                    restore_original_options: true,
                    ..Default::default()
                },
                &originals,
            )
            .unwrap();
        assert_eq!(bench.activity().heartbeat, 0);
        let without = bench.reset(
            ResetActivityRequest {
                restore_original_options: true,
                ..Default::default()
            },
            &Originals::new(),
        );
        assert!(matches!(without, Err(Error::Internal(_))));
    }

    #[test]
    fn a_new_policy_moves_the_next_attempt() {
        let mut bench = Bench::new();
        bench.schedule(patient()).unwrap();
        let task = bench.run_attempt(1);
        bench.fail(task, failure("f")).unwrap();
        let ended = bench.now;
        bench.wait(2000);
        let policy = |s| ActivityOptions {
            retry_policy: Some(RetryPolicy {
                initial_interval: seconds(s),
                ..Default::default()
            }),
            ..Default::default()
        };
        bench
            .update(policy(5), &["retry_policy.initial_interval"])
            .unwrap();
        assert_eq!(
            Time(bench.activity().scheduled_time).since(ended),
            Duration::from_secs(5)
        );
        assert!(bench.tasks.is_empty());
        bench
            .update(policy(1), &["retry_policy.initial_interval"])
            .unwrap();
        assert_eq!(bench.tasks.len(), 1, "its time has come already");
    }

    #[test]
    fn changes_that_are_refused() {
        let mut bench = Bench::new();
        bench.schedule(attributes()).unwrap();
        let before = bench.activity();
        let negative = Some(tidemill_proto::wkt::Duration {
            seconds: -1,
            nanos: 0,
        });
        let rows = [
            (
                ActivityOptions {
                    start_to_close_timeout: negative,
                    ..Default::default()
                },
                "start_to_close_timeout",
            ),
            (ActivityOptions::default(), "start_to_close_timeout"),
            (
                ActivityOptions {
                    task_queue: Some(TaskQueue::default()),
                    ..Default::default()
                },
                "task_queue.name",
            ),
            (
                ActivityOptions {
                    retry_policy: Some(RetryPolicy {
                        backoff_coefficient: 0.1,
                        ..Default::default()
                    }),
                    ..Default::default()
                },
                "retry_policy",
            ),
            (ActivityOptions::default(), "nonsense"),
        ];
        for (options, path) in rows {
            let got = bench.update(options, &[path]);
            assert!(
                matches!(got, Err(Error::InvalidArgument(_))),
                "{path}: {got:?}"
            );
            assert_eq!(bench.activity(), before);
        }
        for request in [
            UpdateActivityOptionsRequest {
                activity_options: Some(ActivityOptions::default()),
                ..Default::default()
            },
            UpdateActivityOptionsRequest {
                update_mask: Some(FieldMask::default()),
                ..Default::default()
            },
            UpdateActivityOptionsRequest {
                restore_original: true,
                update_mask: Some(FieldMask {
                    paths: vec!["priority".into()],
                }),
                ..Default::default()
            },
        ] {
            let got = update_options(&bench.run, &request, &Originals::new(), &bench.cx());
            assert!(matches!(got, Err(Error::InvalidArgument(_))));
        }
    }

    #[test]
    fn a_paused_run_holds_its_activities() {
        let mut bench = Bench::new();
        bench.schedule(patient()).unwrap();
        let change = |bench: &mut Bench, status: WorkflowExecutionStatus, f: fn(&mut Tx<'_>)| {
            bench.run.core.status = status as i32;
            let cx = bench.cx();
            let mut tx = Tx::new(&bench.run, &cx);
            f(&mut tx);
            let outcome = tx.finish(());
            bench.apply(outcome).unwrap();
        };
        use WorkflowExecutionStatus::{Paused, Running};
        change(&mut bench, Paused, hold_all);
        assert!(bench.tasks.is_empty());
        assert_eq!(bench.info().state(), State::Scheduled);
        change(&mut bench, Running, release_all);
        assert_eq!(bench.tasks.len(), 1);
        // One that runs goes on; its retry is held.
        let task = bench.run_attempt(1);
        change(&mut bench, Paused, hold_all);
        bench.fail(task, failure("f")).unwrap();
        bench.wait(200_000);
        bench.fire();
        assert!(bench.tasks.is_empty());
        change(&mut bench, Running, release_all);
        assert_eq!(bench.start().unwrap().attempt, 2);
    }
}
