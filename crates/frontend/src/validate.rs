//! Checks of what requests carry, before anything is looked up: ids, sizes, spans, deadlines
//! (engine contract 4.1, 12.2, 12.3). What needs a run's state is the engine's to check.

use prost::Message;
use tidemill_engine::Error;
use tidemill_proto::api::common::v1::{Callback, Link, Priority, RetryPolicy, WorkflowExecution};
use tidemill_proto::api::common::v1::{Memo, callback};
use tidemill_proto::api::enums::v1::{
    TaskQueueKind, WorkflowIdConflictPolicy, WorkflowIdReusePolicy,
};
use tidemill_proto::api::sdk::v1::UserMetadata;
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::wkt::Duration;
use tokio::time::Instant;

/// Bounds that the frontend enforces. Those that the engine knows too are the engine's.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one message on the wire and after decompression.
    pub message_bytes: usize,
    /// Bytes of an id, a type or a name.
    pub id_bytes: usize,
    /// Bytes of one blob of payloads.
    pub blob_bytes: usize,
    pub memo_bytes: usize,
    pub links: usize,
    pub link_bytes: usize,
    pub callbacks: usize,
    pub callback_url_bytes: usize,
    pub callback_header_bytes: usize,
    pub summary_bytes: usize,
    pub details_bytes: usize,
}

impl From<&tidemill_engine::Limits> for Limits {
    fn from(engine: &tidemill_engine::Limits) -> Self {
        const KIB: usize = 1024;
        Self {
            message_bytes: 4 * 1024 * KIB,
            id_bytes: engine.id_length,
            blob_bytes: engine.blob_size,
            memo_bytes: engine.memo_size,
            links: 10,
            link_bytes: 4000,
            callbacks: engine.callbacks,
            callback_url_bytes: 1000,
            callback_header_bytes: 8 * KIB,
            summary_bytes: 400,
            details_bytes: 20_000,
        }
    }
}

const RESERVED_QUEUE_PREFIX: &str = "/_sys/";
/// The queue on which Temporal's own per-namespace workers poll.
const INTERNAL_QUEUE: &str = "temporal-sys-per-ns-tq";
const FAIRNESS_KEY_BYTES_MAX: usize = 64;
/// A long poll that would end sooner is refused.
const LONG_POLL_MIN: std::time::Duration = std::time::Duration::from_secs(2);

fn invalid<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::InvalidArgument(text.into()))
}

impl Limits {
    /// A name that must be given.
    pub fn required(&self, value: &str, what: &str) -> Result<(), Error> {
        if value.is_empty() {
            return invalid(format!("{what} is not set on request."));
        }
        self.length(value, what)
    }

    /// A name that may be empty.
    pub fn length(&self, value: &str, what: &str) -> Result<(), Error> {
        if value.len() > self.id_bytes {
            return invalid(format!("{what} length exceeds limit."));
        }
        Ok(())
    }

    /// Gives a request without an id one, so that its retries within the server are one request.
    pub fn request_id(&self, id: &mut String) -> Result<(), Error> {
        if id.is_empty() {
            *id = uuid::Uuid::new_v4().to_string();
        }
        self.length(id, "RequestId")
    }

    /// Which run is meant; an empty run id means the current one.
    pub fn execution(&self, execution: &Option<WorkflowExecution>) -> Result<(), Error> {
        let Some(execution) = execution else {
            return invalid("Execution is not set on request.");
        };
        self.required(&execution.workflow_id, "WorkflowId")?;
        run_id(&execution.run_id)
    }

    /// A queue that a worker polls: fills in its kind.
    pub fn task_queue(&self, queue: &mut Option<TaskQueue>) -> Result<(), Error> {
        let Some(queue) = queue else {
            return invalid("taskQueue is not set");
        };
        if queue.kind() == TaskQueueKind::Unspecified {
            queue.set_kind(TaskQueueKind::Normal);
        }
        if queue.name.is_empty() {
            return invalid("missing task queue name");
        }
        self.queue_name(&queue.name)?;
        if queue.name.starts_with(RESERVED_QUEUE_PREFIX) {
            return invalid(format!(
                "task queue name cannot start with reserved prefix {RESERVED_QUEUE_PREFIX}"
            ));
        }
        if queue.kind() == TaskQueueKind::Sticky && !queue.normal_name.is_empty() {
            self.queue_name(&queue.normal_name)?;
        }
        Ok(())
    }

    fn queue_name(&self, name: &str) -> Result<(), Error> {
        if name.len() > self.id_bytes {
            return invalid("taskQueue length exceeds limit");
        }
        Ok(())
    }

    /// A queue on which a user starts something.
    pub fn user_task_queue(&self, queue: &mut Option<TaskQueue>) -> Result<(), Error> {
        self.task_queue(queue)?;
        if queue
            .as_ref()
            .is_some_and(|queue| queue.name == INTERNAL_QUEUE)
        {
            return invalid(format!(
                "cannot use internal per-namespace task queue {INTERNAL_QUEUE}"
            ));
        }
        Ok(())
    }

    /// Payloads within the bound for blobs.
    pub fn blob<M: Message>(&self, blob: &Option<M>, what: &str) -> Result<(), Error> {
        let size = blob.as_ref().map_or(0, Message::encoded_len);
        if size <= self.blob_bytes {
            return Ok(());
        }
        invalid(format!("{what}: Blob data size exceeds limit."))
    }

    pub fn memo(&self, memo: &Option<Memo>) -> Result<(), Error> {
        if memo
            .as_ref()
            .is_some_and(|memo| memo.encoded_len() > self.memo_bytes)
        {
            return invalid("Memo size exceeds limit.");
        }
        Ok(())
    }

    pub fn links(&self, links: &[Link]) -> Result<(), Error> {
        if links.len() > self.links {
            return invalid(format!(
                "cannot attach more than {} links per request, got {}",
                self.links,
                links.len()
            ));
        }
        match links
            .iter()
            .map(Message::encoded_len)
            .find(|len| *len > self.link_bytes)
        {
            Some(len) => invalid(format!(
                "link exceeds allowed size of {} bytes, got {len}",
                self.link_bytes
            )),
            None => Ok(()),
        }
    }

    pub fn callbacks(&self, callbacks: &[Callback]) -> Result<(), Error> {
        if callbacks.len() > self.callbacks {
            return invalid(format!(
                "cannot attach more than {} callbacks to a workflow",
                self.callbacks
            ));
        }
        for callback in callbacks {
            if let Some(callback::Variant::Nexus(nexus)) = &callback.variant {
                if nexus.url.len() > self.callback_url_bytes {
                    return invalid(format!(
                        "invalid url: url length longer than max length allowed of {}",
                        self.callback_url_bytes
                    ));
                }
                let size: usize = nexus.header.iter().map(|(k, v)| k.len() + v.len()).sum();
                if size > self.callback_header_bytes {
                    return invalid(format!(
                        "invalid header: header size longer than max allowed size of {}",
                        self.callback_header_bytes
                    ));
                }
            }
        }
        Ok(())
    }

    pub fn user_metadata(&self, metadata: &Option<UserMetadata>) -> Result<(), Error> {
        let Some(metadata) = metadata else {
            return Ok(());
        };
        for (payload, max, what) in [
            (&metadata.summary, self.summary_bytes, "summary"),
            (&metadata.details, self.details_bytes, "details"),
        ] {
            if payload
                .as_ref()
                .is_some_and(|payload| payload.encoded_len() > max)
            {
                return invalid(format!("user metadata {what} exceeds {max} bytes"));
            }
        }
        Ok(())
    }
}

/// A run id is empty or a UUID.
pub fn run_id(id: &str) -> Result<(), Error> {
    if !id.is_empty() && uuid::Uuid::try_parse(id).is_err() {
        return invalid("Invalid RunId.");
    }
    Ok(())
}

/// Spans are not negative; those too long are cut to size by the engine.
pub fn span(span: &Option<Duration>, what: &str) -> Result<(), Error> {
    match span {
        Some(span) if span.seconds < 0 || span.nanos < 0 => invalid(format!(
            "An invalid {what} is set on request. cause: negative duration"
        )),
        _ => Ok(()),
    }
}

/// A retry policy; unset fields will take their defaults.
pub fn retry_policy(policy: &Option<RetryPolicy>) -> Result<(), Error> {
    let Some(policy) = policy else { return Ok(()) };
    // With a single attempt nothing else of the policy matters.
    if policy.maximum_attempts == 1 {
        return Ok(());
    }
    span(&policy.initial_interval, "InitialInterval")?;
    span(&policy.maximum_interval, "MaximumInterval")?;
    let coefficient = policy.backoff_coefficient;
    if coefficient != 0.0 && (coefficient.is_nan() || coefficient < 1.0) {
        return invalid("BackoffCoefficient cannot be less than 1 on retry policy.");
    }
    if let (Some(initial), Some(maximum)) = (&policy.initial_interval, &policy.maximum_interval) {
        let maximum = (maximum.seconds, maximum.nanos);
        if maximum != (0, 0) && maximum < (initial.seconds, initial.nanos) {
            return invalid("MaximumInterval cannot be less than InitialInterval on retry policy.");
        }
    }
    if policy.maximum_attempts < 0 {
        return invalid("MaximumAttempts cannot be negative on retry policy.");
    }
    for entry in &policy.non_retryable_error_types {
        if let Some(timeout) = entry.strip_prefix("TemporalTimeout:")
            && ![
                "StartToClose",
                "ScheduleToStart",
                "ScheduleToClose",
                "Heartbeat",
            ]
            .contains(&timeout)
        {
            return invalid(format!("Invalid timeout type value: {timeout}."));
        }
    }
    Ok(())
}

pub fn priority(priority: &Option<Priority>) -> Result<(), Error> {
    let Some(priority) = priority else {
        return Ok(());
    };
    if priority.priority_key < 0 {
        return invalid("priority key can't be negative");
    }
    if priority.fairness_key.len() > FAIRNESS_KEY_BYTES_MAX {
        return invalid(format!(
            "fairness key length exceeds limit of {FAIRNESS_KEY_BYTES_MAX}"
        ));
    }
    if priority.fairness_weight < 0.0 || priority.fairness_weight.is_nan() {
        return invalid("fairness weight can't be negative");
    }
    Ok(())
}

/// Which policies for a workflow id go together.
pub fn id_policies(
    reuse: WorkflowIdReusePolicy,
    conflict: WorkflowIdConflictPolicy,
) -> Result<(), Error> {
    #[expect(deprecated, reason = "clients of older SDKs still send it")]
    let terminates = reuse == WorkflowIdReusePolicy::TerminateIfRunning;
    if terminates && conflict != WorkflowIdConflictPolicy::Unspecified {
        return invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot \
             be used together with a WorkflowIDConflictPolicy.",
        );
    }
    if conflict == WorkflowIdConflictPolicy::TerminateExisting
        && reuse == WorkflowIdReusePolicy::RejectDuplicate
    {
        return invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be \
             used together with WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING",
        );
    }
    Ok(())
}

/// A poll needs a deadline, and time to wait before it.
pub fn long_poll(deadline: Option<Instant>) -> Result<(), Error> {
    match deadline {
        None => invalid("Context timeout is not set."),
        Some(deadline) if deadline.saturating_duration_since(Instant::now()) < LONG_POLL_MIN => {
            Err(Error::FailedPrecondition(
                "Context timeout is too short.".to_owned(),
            ))
        }
        Some(_) => Ok(()),
    }
}

/// The limits of a server with its defaults.
#[cfg(test)]
pub(crate) fn test_limits() -> Limits {
    Limits::from(&tidemill_engine::Limits::default())
}

#[cfg(test)]
mod tests {
    use super::test_limits as limits;
    use super::*;

    fn seconds(seconds: i64) -> Option<Duration> {
        Some(Duration { seconds, nanos: 0 })
    }

    #[test]
    fn ids_and_runs() {
        let long = "x".repeat(1001);
        let umlauts = "ä".repeat(501);
        let run = "0190a8a4-5b1c-7000-8000-000000000000";
        for (workflow_id, run_id, ok) in [
            ("w", "", true),
            ("w", run, true),
            ("", run, false),
            (&long[..1000], "", true),
            (&long[..], "", false),
            (&umlauts[..], "", false),
            ("w", "not-a-uuid", false),
        ] {
            let execution = Some(WorkflowExecution {
                workflow_id: workflow_id.to_owned(),
                run_id: run_id.to_owned(),
            });
            assert_eq!(
                limits().execution(&execution).is_ok(),
                ok,
                "{workflow_id} {run_id}"
            );
        }
        assert!(limits().execution(&None).is_err());
        let mut id = String::new();
        limits().request_id(&mut id).unwrap();
        assert_eq!(id.len(), 36);
    }

    #[test]
    fn task_queues() {
        let queue = |name: &str, kind: TaskQueueKind, normal: &str| {
            Some(TaskQueue {
                name: name.to_owned(),
                kind: kind as i32,
                normal_name: normal.to_owned(),
            })
        };
        let long = "q".repeat(1001);
        use TaskQueueKind::{Normal, Sticky, Unspecified};
        for (mut given, ok) in [
            (queue("q", Unspecified, ""), true),
            (queue("q", Normal, ""), true),
            (queue("q", Sticky, "n"), true),
            (queue("q", Sticky, &long), false),
            (queue("", Normal, ""), false),
            (queue(&long, Normal, ""), false),
            (queue("/_sys/q/1", Normal, ""), false),
            (None, false),
        ] {
            assert_eq!(limits().task_queue(&mut given).is_ok(), ok, "{given:?}");
            if ok {
                assert_ne!(given.unwrap().kind(), Unspecified);
            }
        }
        assert!(
            limits()
                .user_task_queue(&mut queue(INTERNAL_QUEUE, Normal, ""))
                .is_err()
        );
    }

    #[test]
    fn retry_policies() {
        let policy = |initial, maximum, backoff_coefficient, maximum_attempts| RetryPolicy {
            initial_interval: initial,
            maximum_interval: maximum,
            backoff_coefficient,
            maximum_attempts,
            ..Default::default()
        };
        let with_type = |entry: &str| RetryPolicy {
            non_retryable_error_types: vec![entry.to_owned()],
            ..Default::default()
        };
        for (given, ok) in [
            (policy(None, None, 0.0, 0), true),
            (policy(seconds(1), seconds(10), 2.0, 3), true),
            (policy(seconds(1), seconds(0), 2.0, 0), true),
            (policy(seconds(-1), None, 2.0, 0), false),
            (policy(seconds(10), seconds(1), 2.0, 0), false),
            (policy(seconds(10), seconds(1), 0.5, 1), true),
            (policy(None, None, 0.5, 0), false),
            (policy(None, None, f64::NAN, 0), false),
            (policy(None, None, 2.0, -1), false),
            (with_type("Anything"), true),
            (with_type("TemporalTimeout:Heartbeat"), true),
            (with_type("TemporalTimeout:Never"), false),
        ] {
            assert_eq!(retry_policy(&Some(given.clone())).is_ok(), ok, "{given:?}");
        }
    }

    #[test]
    #[expect(deprecated, reason = "clients of older SDKs still send it")]
    fn policies_for_ids() {
        use {WorkflowIdConflictPolicy as C, WorkflowIdReusePolicy as R};
        for (reuse, conflict, ok) in [
            (R::Unspecified, C::Unspecified, true),
            (R::TerminateIfRunning, C::Unspecified, true),
            (R::TerminateIfRunning, C::Fail, false),
            (R::RejectDuplicate, C::UseExisting, true),
            (R::RejectDuplicate, C::TerminateExisting, false),
            (R::AllowDuplicate, C::TerminateExisting, true),
        ] {
            assert_eq!(
                id_policies(reuse, conflict).is_ok(),
                ok,
                "{reuse:?} {conflict:?}"
            );
        }
    }

    #[test]
    fn priorities() {
        let given = |priority_key, fairness_key: &str, fairness_weight| {
            Some(Priority {
                priority_key,
                fairness_key: fairness_key.to_owned(),
                fairness_weight,
            })
        };
        for (priority_, ok) in [
            (None, true),
            (given(0, "", 0.0), true),
            (given(9, "k", 1.0), true),
            (given(-1, "", 0.0), false),
            (given(0, &"k".repeat(65), 0.0), false),
            (given(0, "", -0.5), false),
        ] {
            assert_eq!(priority(&priority_).is_ok(), ok, "{priority_:?}");
        }
    }

    #[test]
    fn deadlines_of_polls() {
        let after = |seconds| Some(Instant::now() + std::time::Duration::from_secs(seconds));
        assert!(matches!(long_poll(None), Err(Error::InvalidArgument(_))));
        assert!(matches!(
            long_poll(after(1)),
            Err(Error::FailedPrecondition(_))
        ));
        assert!(long_poll(after(3600)).is_ok());
    }

    #[test]
    fn negative_spans() {
        assert!(span(&None, "x").is_ok());
        assert!(span(&seconds(0), "x").is_ok());
        assert!(span(&seconds(-1), "x").is_err());
        assert!(
            span(
                &Some(Duration {
                    seconds: 0,
                    nanos: -1
                }),
                "x"
            )
            .is_err()
        );
    }
}
