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

    fn reset(&mut self, request: ResetActivityRequest, originals: &Originals) -> Result<(), Error> {
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
