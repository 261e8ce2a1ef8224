//! Options of a run to be started, as commands give them (child starts, continue-as-new): checks
//! and the form in which the started event shows them (contract 4.1).

use std::time::Duration;

use tidemill_proto::api::common::v1::{Memo, RetryPolicy, SearchAttributes};
use tidemill_proto::api::enums::v1::TaskQueueKind;
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::wkt;

use crate::limits::Limits;
use crate::retry;
use crate::search_attribute::is_unset;
use crate::time::{is_negative, proto_span, proto_span_opt, span};

/// Queues with this prefix are the server's own.
const RESERVED_QUEUE_PREFIX: &str = "/_sys/";

/// An id or name: set, and within the limit. The error says what is wrong.
pub fn check_id(what: &str, id: &str, limits: &Limits) -> Result<(), String> {
    match id.len() {
        0 => Err(format!("{what} is not set")),
        n if n > limits.id_length => Err(format!(
            "{what} has {n} bytes; at most {} are allowed",
            limits.id_length
        )),
        _ => Ok(()),
    }
}

/// No timeout may be negative.
pub fn check_timeouts(timeouts: &[(&str, &Option<wkt::Duration>)]) -> Result<(), String> {
    match timeouts.iter().find(|(_, timeout)| is_negative(timeout)) {
        Some((name, _)) => Err(format!("{name} is negative")),
        None => Ok(()),
    }
}

/// The queue for the run's workflow tasks; `inherited` when none is named.
pub fn task_queue(
    given: Option<TaskQueue>,
    inherited: &str,
    limits: &Limits,
) -> Result<TaskQueue, String> {
    let mut queue = given.unwrap_or_default();
    if queue.name.is_empty() {
        queue.name = inherited.to_owned();
    }
    check_id("task queue name", &queue.name, limits)?;
    // The server's own workflows use the server's own queues.
    if queue.name.starts_with(RESERVED_QUEUE_PREFIX) && queue.name != inherited {
        return Err(format!(
            "task queue name starts with `{RESERVED_QUEUE_PREFIX}`, which is reserved"
        ));
    }
    if queue.kind == TaskQueueKind::Unspecified as i32 {
        queue.kind = TaskQueueKind::Normal as i32;
    }
    Ok(queue)
}

/// A run may not last longer than its chain. Zero is no limit.
pub fn run_timeout(
    run: &Option<wkt::Duration>,
    execution: &Option<wkt::Duration>,
) -> Option<wkt::Duration> {
    let (run, execution) = (span(run), span(execution));
    proto_span_opt(match (run.is_zero(), execution.is_zero()) {
        (_, true) => run,
        (true, _) => execution,
        _ => run.min(execution),
    })
}

/// A workflow task gets the default when it has no timeout, and at most the run's.
pub fn task_timeout(
    task: &Option<wkt::Duration>,
    run: &Option<wkt::Duration>,
    limits: &Limits,
) -> Option<wkt::Duration> {
    let or_default = |d: Duration| {
        if d.is_zero() {
            limits.workflow_task_timeout
        } else {
            d
        }
    };
    let task = or_default(span(task)).min(limits.workflow_task_timeout_max);
    let run = span(run);
    proto_span(if run.is_zero() { task } else { task.min(run) })
}

/// Workflows are retried only when a policy is given; its unset fields get their defaults.
pub fn retry_policy(given: Option<RetryPolicy>) -> Result<Option<RetryPolicy>, String> {
    let Some(given) = given else { return Ok(None) };
    let policy = retry::normalise(Some(given));
    retry::validate(&policy)?;
    Ok(Some(policy))
}

/// A new run has nothing to unset: null entries are left out of its memo.
pub fn memo(given: Option<Memo>) -> Option<Memo> {
    let mut memo = given?;
    memo.fields.retain(|_, payload| !is_unset(payload));
    Some(memo)
}

/// As [`memo`], for search attributes.
pub fn search_attributes(given: Option<SearchAttributes>) -> Option<SearchAttributes> {
    let mut attributes = given?;
    attributes
        .indexed_fields
        .retain(|_, payload| !is_unset(payload));
    Some(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: i64) -> Option<wkt::Duration> {
        (seconds >= 0).then_some(wkt::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn timeouts_bound_each_other() {
        // run, execution, task; then run and task as shown. -1 is unset.
        let rows = [
            (-1, -1, -1, -1, 10),
            (0, 0, 0, -1, 10),
            (-1, 60, -1, 60, 10),
            (30, 60, -1, 30, 10),
            (90, 60, -1, 60, 10),
            (90, -1, 200, 90, 90),
            (-1, -1, 200, -1, 120),
            (5, -1, -1, 5, 5),
        ];
        let limits = Limits::default();
        for (run, execution, task, expected_run, expected_task) in rows {
            let row = (run, execution, task);
            let run = run_timeout(&s(run), &s(execution));
            assert_eq!(run, s(expected_run), "{row:?}");
            assert_eq!(
                task_timeout(&s(task), &run, &limits),
                s(expected_task),
                "{row:?}"
            );
        }
    }

    #[test]
    fn queues() {
        let limits = Limits::default();
        let long = "q".repeat(1001);
        let rows = [
            ("", "parent", Ok("parent")),
            ("own", "parent", Ok("own")),
            ("/_sys/own", "parent", Err(())),
            ("/_sys/own", "/_sys/own", Ok("/_sys/own")),
            ("", "", Err(())),
            (&long, "parent", Err(())),
        ];
        for (name, inherited, expected) in rows {
            let given = TaskQueue {
                name: name.into(),
                ..Default::default()
            };
            let got = task_queue(Some(given), inherited, &limits);
            assert_eq!(
                got.as_ref().map(|q| q.name.as_str()).map_err(|_| ()),
                expected,
                "{name:?}"
            );
            if let Ok(queue) = got {
                assert_eq!(queue.kind, TaskQueueKind::Normal as i32);
            }
        }
    }
}
