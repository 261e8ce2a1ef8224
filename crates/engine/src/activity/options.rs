//! The options of an activity: validation and normalisation when it is scheduled (contract 3.1),
//! and the changes that operators make to them later.

use std::time::Duration;

use tidemill_proto::api::activity::v1::ActivityOptions;
use tidemill_proto::api::command::v1::ScheduleActivityTaskCommandAttributes;
use tidemill_proto::api::common::v1::RetryPolicy;
use tidemill_proto::api::enums::v1::TaskQueueKind;
use tidemill_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::wkt::Duration as Span;

use super::priority;
use crate::limits::Limits;
use crate::model::Activity;
use crate::retry;
use crate::time::{is_negative, nanos, proto_span, span};

/// Queues with this prefix are the server's own.
const RESERVED_QUEUE_PREFIX: &str = "/_sys/";

/// The four timeouts; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    pub schedule_to_close: Duration,
    pub schedule_to_start: Duration,
    pub start_to_close: Duration,
    pub heartbeat: Duration,
}

impl Timeouts {
    /// Fills in what follows from the others and from the run's timeout (zero for none).
    fn normalise(self, run_timeout: Duration) -> Result<Self, String> {
        let mut t = self;
        let set = |d: Duration| !d.is_zero();
        if set(t.schedule_to_close) {
            let most = t.schedule_to_close;
            t.schedule_to_start = or(t.schedule_to_start, most).min(most);
            t.start_to_close = or(t.start_to_close, most).min(most);
        } else if set(t.start_to_close) {
            t.schedule_to_close = run_timeout;
            t.schedule_to_start = or(t.schedule_to_start, run_timeout);
        } else {
            return Err("start-to-close or schedule-to-close timeout must be set".into());
        }
        if set(run_timeout) {
            t.schedule_to_close = t.schedule_to_close.min(run_timeout);
            t.schedule_to_start = t.schedule_to_start.min(run_timeout);
            t.start_to_close = t.start_to_close.min(run_timeout);
        }
        t.heartbeat = t.heartbeat.min(t.start_to_close);
        Ok(t)
    }

    fn of(
        close: &Option<Span>,
        to_start: &Option<Span>,
        start_to_close: &Option<Span>,
        heartbeat: &Option<Span>,
    ) -> Result<Self, String> {
        let all = [
            (close, "schedule-to-close"),
            (to_start, "schedule-to-start"),
            (start_to_close, "start-to-close"),
            (heartbeat, "heartbeat"),
        ];
        for (timeout, name) in all {
            if is_negative(timeout) {
                return Err(format!("{name} timeout is negative"));
            }
        }
        Ok(Self {
            schedule_to_close: span(close),
            schedule_to_start: span(to_start),
            start_to_close: span(start_to_close),
            heartbeat: span(heartbeat),
        })
    }
}

fn or(d: Duration, default: Duration) -> Duration {
    if d.is_zero() { default } else { d }
}

/// Checks a command's attributes and brings them to the form that the scheduled event shows. The
/// error says what is wrong.
pub(super) fn normalise(
    attributes: &mut ScheduleActivityTaskCommandAttributes,
    run_timeout: Duration,
    workflow_queue: &str,
    limits: &Limits,
) -> Result<(), String> {
    let a = attributes;
    let queue = a.task_queue.get_or_insert_default();
    check_queue(queue, workflow_queue, limits)?;
    if a.use_workflow_build_id && queue.name != workflow_queue {
        return Err(
            "an activity on the workflow's build id runs on the workflow's task queue".into(),
        );
    }
    check_id("activity id", &a.activity_id, limits)?;
    let kind = a.activity_type.as_ref().map_or("", |t| t.name.as_str());
    check_id("activity type", kind, limits)?;
    let policy = retry::normalise(a.retry_policy.take());
    retry::validate(&policy)?;
    a.retry_policy = Some(policy);
    priority::validate(&a.priority)?;
    let timeouts = Timeouts::of(
        &a.schedule_to_close_timeout,
        &a.schedule_to_start_timeout,
        &a.start_to_close_timeout,
        &a.heartbeat_timeout,
    )?
    .normalise(run_timeout)?;
    // All four are set, zero or not: an SDK takes some of them to be there.
    a.schedule_to_close_timeout = proto_span(timeouts.schedule_to_close);
    a.schedule_to_start_timeout = proto_span(timeouts.schedule_to_start);
    a.start_to_close_timeout = proto_span(timeouts.start_to_close);
    a.heartbeat_timeout = proto_span(timeouts.heartbeat);
    Ok(())
}

fn check_queue(queue: &mut TaskQueue, workflow_queue: &str, limits: &Limits) -> Result<(), String> {
    check_id("task queue name", &queue.name, limits)?;
    // The server's own workflows use the server's own queues.
    if queue.name.starts_with(RESERVED_QUEUE_PREFIX) && queue.name != workflow_queue {
        return Err(format!(
            "task queue name starts with `{RESERVED_QUEUE_PREFIX}`, which is reserved"
        ));
    }
    if queue.kind == TaskQueueKind::Unspecified as i32 {
        queue.kind = TaskQueueKind::Normal as i32;
    }
    Ok(())
}

fn check_id(what: &str, id: &str, limits: &Limits) -> Result<(), String> {
    match id.len() {
        0 => Err(format!("{what} is not set")),
        n if n > limits.id_length => Err(format!(
            "{what} has {n} bytes; at most {} are allowed",
            limits.id_length
        )),
        _ => Ok(()),
    }
}

/// The options of a pending activity as operators see them.
pub(super) fn current(activity: &Activity) -> ActivityOptions {
    let timeout = |n: i64| proto_span(Duration::from_nanos(n.max(0) as u64));
    ActivityOptions {
        task_queue: Some(TaskQueue {
            name: activity.task_queue.clone(),
            normal_name: activity.task_queue.clone(),
            ..Default::default()
        }),
        schedule_to_close_timeout: timeout(activity.schedule_to_close),
        schedule_to_start_timeout: timeout(activity.schedule_to_start),
        start_to_close_timeout: timeout(activity.start_to_close),
        heartbeat_timeout: timeout(activity.heartbeat),
        retry_policy: activity.retry_policy.clone(),
        priority: activity.priority.clone(),
        ..Default::default()
    }
}

/// The options that an activity was scheduled with.
pub(super) fn original(event: &ActivityTaskScheduledEventAttributes) -> ActivityOptions {
    ActivityOptions {
        task_queue: event.task_queue.clone(),
        schedule_to_close_timeout: event.schedule_to_close_timeout,
        schedule_to_start_timeout: event.schedule_to_start_timeout,
        start_to_close_timeout: event.start_to_close_timeout,
        heartbeat_timeout: event.heartbeat_timeout,
        retry_policy: event.retry_policy.clone(),
        priority: event.priority.clone(),
        ..Default::default()
    }
}

/// Copies the fields that `paths` name from `from` to `to`. Paths are in the form that protobuf
/// or its JSON uses. The error says which one is unknown, or what it needs.
pub(super) fn merge(
    to: &mut ActivityOptions,
    from: &ActivityOptions,
    paths: &[String],
) -> Result<(), String> {
    for path in paths {
        let missing = |what: &str| format!("`{path}` is to be updated, but no {what} is given");
        match snake_case(path).as_str() {
            "task_queue" | "task_queue.name" => {
                let queue = from
                    .task_queue
                    .as_ref()
                    .ok_or_else(|| missing("task queue"))?;
                to.task_queue = Some(queue.clone());
            }
            "schedule_to_close_timeout" => {
                to.schedule_to_close_timeout = from.schedule_to_close_timeout
            }
            "schedule_to_start_timeout" => {
                to.schedule_to_start_timeout = from.schedule_to_start_timeout
            }
            "start_to_close_timeout" => to.start_to_close_timeout = from.start_to_close_timeout,
            "heartbeat_timeout" => to.heartbeat_timeout = from.heartbeat_timeout,
            "priority" => to.priority = from.priority.clone(),
            sub if sub.starts_with("priority.") => {
                let given = from.priority.as_ref().ok_or_else(|| missing("priority"))?;
                let own = to.priority.get_or_insert_default();
                match &sub["priority.".len()..] {
                    "priority_key" => own.priority_key = given.priority_key,
                    "fairness_key" => own.fairness_key = given.fairness_key.clone(),
                    "fairness_weight" => own.fairness_weight = given.fairness_weight,
                    _ => return Err(unknown(path)),
                }
            }
            "retry_policy" => {
                let given = from
                    .retry_policy
                    .as_ref()
                    .ok_or_else(|| missing("retry policy"))?;
                // The error types are the workflow's to say: operators cannot change them.
                let own = to.retry_policy.take().unwrap_or_default();
                to.retry_policy = Some(RetryPolicy {
                    non_retryable_error_types: own.non_retryable_error_types,
                    ..given.clone()
                });
            }
            sub if sub.starts_with("retry_policy.") => {
                let given = from
                    .retry_policy
                    .as_ref()
                    .ok_or_else(|| missing("retry policy"))?;
                let own = to.retry_policy.get_or_insert_default();
                match &sub["retry_policy.".len()..] {
                    "initial_interval" => own.initial_interval = given.initial_interval,
                    "backoff_coefficient" => own.backoff_coefficient = given.backoff_coefficient,
                    "maximum_interval" => own.maximum_interval = given.maximum_interval,
                    "maximum_attempts" => own.maximum_attempts = given.maximum_attempts,
                    _ => return Err(unknown(path)),
                }
            }
            _ => return Err(unknown(path)),
        }
    }
    Ok(())
}

fn unknown(path: &str) -> String {
    format!("`{path}` is not an option of an activity that can be updated")
}

fn snake_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Checks changed options and applies them to the record. The error says what is wrong.
pub(super) fn apply(
    activity: &mut Activity,
    options: ActivityOptions,
    workflow_queue: &str,
    limits: &Limits,
) -> Result<(), String> {
    let mut queue = options.task_queue.unwrap_or_default();
    check_queue(&mut queue, workflow_queue, limits)?;
    let policy = retry::normalise(options.retry_policy);
    retry::validate(&policy)?;
    priority::validate(&options.priority)?;
    let timeouts = Timeouts::of(
        &options.schedule_to_close_timeout,
        &options.schedule_to_start_timeout,
        &options.start_to_close_timeout,
        &options.heartbeat_timeout,
    )?
    .normalise(Duration::ZERO)?;
    activity.task_queue = queue.name;
    activity.retry_policy = Some(policy);
    activity.priority = options.priority;
    set_timeouts(activity, timeouts);
    Ok(())
}

fn set_timeouts(activity: &mut Activity, timeouts: Timeouts) {
    activity.schedule_to_close = nanos(timeouts.schedule_to_close);
    activity.schedule_to_start = nanos(timeouts.schedule_to_start);
    activity.start_to_close = nanos(timeouts.start_to_close);
    activity.heartbeat = nanos(timeouts.heartbeat);
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::common::v1::{ActivityType, Priority};

    use super::*;

    fn seconds(s: u64) -> Option<Span> {
        (s > 0).then_some(Span {
            seconds: s as i64,
            nanos: 0,
        })
    }

    fn attributes() -> ScheduleActivityTaskCommandAttributes {
        ScheduleActivityTaskCommandAttributes {
            activity_id: "a".into(),
            activity_type: Some(ActivityType { name: "T".into() }),
            task_queue: Some(TaskQueue {
                name: "q".into(),
                ..Default::default()
            }),
            start_to_close_timeout: seconds(10),
            ..Default::default()
        }
    }

    #[test]
    fn timeouts_follow_from_each_other() {
        // given: schedule-to-close, schedule-to-start, start-to-close, heartbeat; run timeout
        let rows: [([u64; 4], u64, Option<[u64; 4]>); 15] = [
            ([0, 0, 0, 0], 0, None),
            ([0, 5, 0, 0], 0, None),
            ([0, 5, 0, 3], 100, None),
            ([10, 0, 0, 0], 0, Some([10, 10, 10, 0])),
            ([10, 3, 0, 0], 0, Some([10, 3, 10, 0])),
            ([10, 30, 0, 0], 0, Some([10, 10, 10, 0])),
            ([10, 0, 4, 0], 0, Some([10, 10, 4, 0])),
            ([10, 0, 40, 0], 0, Some([10, 10, 10, 0])),
            ([0, 0, 10, 0], 0, Some([0, 0, 10, 0])),
            ([0, 7, 10, 0], 0, Some([0, 7, 10, 0])),
            ([0, 0, 10, 0], 60, Some([60, 60, 10, 0])),
            ([0, 7, 10, 0], 60, Some([60, 7, 10, 0])),
            ([0, 70, 100, 90], 60, Some([60, 60, 60, 60])),
            ([100, 0, 0, 0], 60, Some([60, 60, 60, 0])),
            ([0, 0, 10, 20], 0, Some([0, 0, 10, 10])),
        ];
        for (given, run, expected) in rows {
            let mut a = ScheduleActivityTaskCommandAttributes {
                schedule_to_close_timeout: seconds(given[0]),
                schedule_to_start_timeout: seconds(given[1]),
                start_to_close_timeout: seconds(given[2]),
                heartbeat_timeout: seconds(given[3]),
                ..attributes()
            };
            let got = normalise(&mut a, Duration::from_secs(run), "wq", &Limits::default());
            match expected {
                None => assert!(got.is_err(), "{given:?} run {run}"),
                Some(expected) => {
                    assert_eq!(got, Ok(()), "{given:?} run {run}");
                    let all = [
                        a.schedule_to_close_timeout,
                        a.schedule_to_start_timeout,
                        a.start_to_close_timeout,
                        a.heartbeat_timeout,
                    ];
                    let all = all.map(|t| t.expect("all timeouts are set").seconds as u64);
                    assert_eq!(all, expected, "{given:?} run {run}");
                }
            }
        }
    }

    #[test]
    fn bad_attributes_are_refused() {
        type Change = fn(&mut ScheduleActivityTaskCommandAttributes);
        let rows: [(Change, Option<&str>); 17] = [
            (|_| {}, None),
            (|a| a.activity_id.clear(), Some("activity id")),
            (|a| a.activity_id = "x".repeat(1001), Some("activity id")),
            (|a| a.activity_id = "x".repeat(1000), None),
            (|a| a.activity_type = None, Some("activity type")),
            (
                |a| {
                    a.activity_type = Some(ActivityType {
                        name: "x".repeat(1001),
                    })
                },
                Some("activity type"),
            ),
            // The workflow's queue does not stand in for it.
            (|a| a.task_queue = None, Some("task queue")),
            (
                |a| a.task_queue = Some(TaskQueue::default()),
                Some("task queue"),
            ),
            (
                |a| a.task_queue.as_mut().unwrap().name = "x".repeat(1001),
                Some("task queue"),
            ),
            (
                |a| a.task_queue.as_mut().unwrap().name = "/_sys/x".into(),
                Some("reserved"),
            ),
            (
                |a| {
                    a.schedule_to_close_timeout = Some(Span {
                        seconds: -1,
                        nanos: 0,
                    })
                },
                Some("schedule-to-close"),
            ),
            (
                |a| {
                    a.schedule_to_start_timeout = Some(Span {
                        seconds: -1,
                        nanos: 0,
                    })
                },
                Some("schedule-to-start"),
            ),
            (
                |a| {
                    a.start_to_close_timeout = Some(Span {
                        seconds: -1,
                        nanos: 0,
                    })
                },
                Some("start-to-close"),
            ),
            (
                |a| {
                    a.heartbeat_timeout = Some(Span {
                        seconds: 0,
                        nanos: -1,
                    })
                },
                Some("heartbeat"),
            ),
            (
                |a| {
                    a.retry_policy = Some(RetryPolicy {
                        backoff_coefficient: 0.5,
                        ..Default::default()
                    })
                },
                Some("coefficient"),
            ),
            (
                |a| {
                    a.priority = Some(Priority {
                        priority_key: -1,
                        ..Default::default()
                    })
                },
                Some("priority"),
            ),
            (|a| a.use_workflow_build_id = true, Some("build id")),
        ];
        for (i, (change, expected)) in rows.into_iter().enumerate() {
            let mut a = attributes();
            change(&mut a);
            match (
                normalise(&mut a, Duration::ZERO, "wq", &Limits::default()),
                expected,
            ) {
                (Ok(()), None) => {
                    assert!(a.retry_policy.is_some(), "every activity has a policy");
                    assert_eq!(a.task_queue.unwrap().kind, TaskQueueKind::Normal as i32);
                }
                (Err(text), Some(part)) => assert!(text.contains(part), "row {i}: {text}"),
                (got, _) => panic!("row {i}: {got:?}"),
            }
        }
    }

    #[test]
    fn masks_in_both_spellings() {
        let from = ActivityOptions {
            task_queue: Some(TaskQueue {
                name: "new".into(),
                ..Default::default()
            }),
            heartbeat_timeout: seconds(3),
            retry_policy: Some(RetryPolicy {
                maximum_attempts: 9,
                backoff_coefficient: 3.0,
                ..Default::default()
            }),
            priority: Some(Priority {
                priority_key: 4,
                fairness_key: "f".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        for paths in [
            [
                "task_queue.name",
                "heartbeat_timeout",
                "retry_policy.maximum_attempts",
                "priority.priority_key",
            ],
            [
                "taskQueue.name",
                "heartbeatTimeout",
                "retryPolicy.maximumAttempts",
                "priority.priorityKey",
            ],
        ] {
            let mut to = ActivityOptions {
                retry_policy: Some(RetryPolicy {
                    backoff_coefficient: 2.0,
                    ..Default::default()
                }),
                start_to_close_timeout: seconds(8),
                ..Default::default()
            };
            merge(&mut to, &from, &paths.map(String::from)).unwrap();
            assert_eq!(to.task_queue.unwrap().name, "new");
            assert_eq!(to.heartbeat_timeout, seconds(3));
            assert_eq!(to.start_to_close_timeout, seconds(8));
            let policy = to.retry_policy.unwrap();
            assert_eq!(
                (policy.maximum_attempts, policy.backoff_coefficient),
                (9, 2.0)
            );
            let priority = to.priority.unwrap();
            assert_eq!(
                (priority.priority_key, priority.fairness_key.as_str()),
                (4, "")
            );
        }
        for (bad, part) in [
            ("nonsense", "not an option"),
            ("priority.nonsense", "not an option"),
            ("retryPolicy.x", "not an option"),
        ] {
            let error =
                merge(&mut ActivityOptions::default(), &from, &[bad.to_owned()]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        for path in [
            "task_queue.name",
            "retry_policy",
            "retry_policy.maximum_attempts",
            "priority.priority_key",
        ] {
            let nothing = ActivityOptions::default();
            assert!(
                merge(
                    &mut ActivityOptions::default(),
                    &nothing,
                    &[path.to_owned()]
                )
                .is_err(),
                "{path}"
            );
        }
    }
}
