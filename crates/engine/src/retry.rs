//! Retry policies: defaults, checks, and what follows a failed attempt (contract 3.4, 4.6).
//!
//! Shared by activities and workflows. There is no jitter: the same failure at the same time is
//! always retried at the same time.

use std::time::Duration;

use prost::Message;
use tidemill_proto::api::common::v1::RetryPolicy;
use tidemill_proto::api::enums::v1::{RetryState, TimeoutType};
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure, ServerFailureInfo};
use tidemill_proto::wkt;

use crate::limits::Limits;
use crate::time::{MAX_SPAN, Time, is_negative, proto_span, span};

const INITIAL_INTERVAL: Duration = Duration::from_secs(1);
const COEFFICIENT: f64 = 2.0;
/// Default of the maximum interval, in initial intervals.
const MAXIMUM_INTERVAL_FACTOR: u32 = 100;
/// Marks the names of timeouts among the non-retryable error types.
const TIMEOUT_PREFIX: &str = "TemporalTimeout:";
/// A failure larger than this is cut before it is kept with a pending activity, bytes.
pub const RECORDED_FAILURE_SIZE: usize = 4 * 1024;
/// A failure that breaks the size limit is cut to this fraction of it.
const OVERSIZE_DIVISOR: usize = 4;
/// Causes of a cut failure that are kept.
const TRUNCATED_DEPTH: usize = 20;

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Another attempt, after so long.
    Retry(Duration),
    /// No more attempts, and why.
    Stop(RetryState),
}

/// The policy with every unset field at its default. No policy at all gives the default one.
pub fn normalise(policy: Option<RetryPolicy>) -> RetryPolicy {
    let unset = |d: &Option<wkt::Duration>| span(d).is_zero() && !is_negative(d);
    let mut policy = policy.unwrap_or_default();
    if unset(&policy.initial_interval) {
        policy.initial_interval = proto_span(INITIAL_INTERVAL);
    }
    if unset(&policy.maximum_interval) {
        let initial = span(&policy.initial_interval);
        let maximum = initial.saturating_mul(MAXIMUM_INTERVAL_FACTOR);
        policy.maximum_interval = proto_span(maximum.min(MAX_SPAN));
    }
    if policy.backoff_coefficient == 0.0 {
        policy.backoff_coefficient = COEFFICIENT;
    }
    policy
}

/// Checks a policy; the error says what is wrong. Nothing else matters when there is one attempt.
pub fn validate(policy: &RetryPolicy) -> Result<(), String> {
    if policy.maximum_attempts == 1 {
        return Ok(());
    }
    if is_negative(&policy.initial_interval) {
        return Err("retry policy: initial interval is negative".into());
    }
    // Written so that a coefficient which is not a number is refused, too.
    if !(policy.backoff_coefficient >= 1.0 && policy.backoff_coefficient.is_finite()) {
        return Err("retry policy: backoff coefficient must be at least 1".into());
    }
    if is_negative(&policy.maximum_interval) {
        return Err("retry policy: maximum interval is negative".into());
    }
    let maximum = span(&policy.maximum_interval);
    if !maximum.is_zero() && maximum < span(&policy.initial_interval) {
        return Err("retry policy: maximum interval is less than the initial interval".into());
    }
    if policy.maximum_attempts < 0 {
        return Err("retry policy: maximum attempts is negative".into());
    }
    for kind in &policy.non_retryable_error_types {
        if let Some(name) = kind.strip_prefix(TIMEOUT_PREFIX)
            && !TIMEOUTS
                .iter()
                .any(|t| timeout_name(*t) == name || t.as_str_name() == name)
        {
            return Err(format!("retry policy: `{kind}` names no timeout type"));
        }
    }
    Ok(())
}

const TIMEOUTS: [TimeoutType; 4] = [
    TimeoutType::StartToClose,
    TimeoutType::ScheduleToStart,
    TimeoutType::ScheduleToClose,
    TimeoutType::Heartbeat,
];

/// The name of a timeout as policies and messages spell it.
pub fn timeout_name(kind: TimeoutType) -> &'static str {
    match kind {
        TimeoutType::Unspecified => "Unspecified",
        TimeoutType::StartToClose => "StartToClose",
        TimeoutType::ScheduleToStart => "ScheduleToStart",
        TimeoutType::ScheduleToClose => "ScheduleToClose",
        TimeoutType::Heartbeat => "Heartbeat",
    }
}

/// Whether a failure allows another attempt. What is not known to forbid it allows it.
pub fn is_retryable(failure: Option<&Failure>, non_retryable_types: &[String]) -> bool {
    let Some(info) = failure.and_then(|f| f.failure_info.as_ref()) else {
        return true;
    };
    match info {
        FailureInfo::CanceledFailureInfo(_) | FailureInfo::TerminatedFailureInfo(_) => false,
        FailureInfo::TimeoutFailureInfo(t) => match t.timeout_type() {
            kind @ (TimeoutType::StartToClose | TimeoutType::Heartbeat) => !non_retryable_types
                .iter()
                .any(|n| n.strip_prefix(TIMEOUT_PREFIX) == Some(timeout_name(kind))),
            _ => false,
        },
        FailureInfo::ServerFailureInfo(s) => !s.non_retryable,
        FailureInfo::ApplicationFailureInfo(a) => {
            !a.non_retryable && !non_retryable_types.contains(&a.r#type)
        }
        _ => true,
    }
}

/// What follows the failure of attempt number `attempt` (1 for the first).
///
/// `expiration` is when the last attempt must have begun. A delay that the failure itself asks
/// for replaces the policy's interval; `clip_next_delay` bounds it by the policy's maximum
/// interval (workflows), otherwise it stands as it is (activities).
pub fn next_backoff(
    now: Time,
    attempt: i32,
    policy: &RetryPolicy,
    expiration: Option<Time>,
    failure: Option<&Failure>,
    clip_next_delay: bool,
) -> Backoff {
    if !is_retryable(failure, &policy.non_retryable_error_types) {
        return Backoff::Stop(RetryState::NonRetryableFailure);
    }
    let attempt = attempt.max(1);
    if policy.maximum_attempts > 0 && attempt >= policy.maximum_attempts {
        return Backoff::Stop(RetryState::MaximumAttemptsReached);
    }
    let interval = match asked_delay(failure) {
        // Clipping treats a delay of zero like one that is too long.
        Some(delay) if clip_next_delay => match clip(delay, policy) {
            Some(delay) => delay,
            None => return Backoff::Stop(RetryState::Timeout),
        },
        Some(delay) => delay,
        None => match interval(policy, attempt) {
            Some(interval) => interval,
            None => return Backoff::Stop(RetryState::Timeout),
        },
    };
    if expiration.is_some_and(|e| now.plus(interval) > e) {
        return Backoff::Stop(RetryState::Timeout);
    }
    Backoff::Retry(interval)
}

/// The delay that an application failure asks for, if any.
fn asked_delay(failure: Option<&Failure>) -> Option<Duration> {
    match failure?.failure_info.as_ref()? {
        FailureInfo::ApplicationFailureInfo(a) => a
            .next_retry_delay
            .is_some()
            .then(|| span(&a.next_retry_delay)),
        _ => None,
    }
}

/// The policy's interval after the failure of attempt `attempt`; `None` when it gives none.
pub fn interval(policy: &RetryPolicy, attempt: i32) -> Option<Duration> {
    let initial = span(&policy.initial_interval).as_secs_f64();
    let exponent = u32::try_from(attempt.max(1) - 1).unwrap_or(0);
    let seconds = initial * power(policy.backoff_coefficient, exponent);
    // Above the bound the sum of nanoseconds would overflow long before the maximum applies.
    let grown = if seconds < MAX_SPAN.as_secs_f64() {
        Duration::from_nanos((seconds * 1e9).round() as u64)
    } else {
        MAX_SPAN
    };
    clip(grown, policy)
}

/// Bounds an interval by the policy's maximum, which also stands in for one of zero.
fn clip(interval: Duration, policy: &RetryPolicy) -> Option<Duration> {
    let maximum = span(&policy.maximum_interval);
    if maximum.is_zero() {
        return (!interval.is_zero()).then_some(interval);
    }
    Some(if interval.is_zero() {
        maximum
    } else {
        interval.min(maximum)
    })
}

/// `base` to the power of `exponent` by repeated squaring: unlike the library's function, it gives
/// the same bits on every machine.
fn power(base: f64, exponent: u32) -> f64 {
    let (mut result, mut square, mut left) = (1.0, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result *= square;
        }
        square *= square;
        left >>= 1;
    }
    result
}

/// A failure that the engine itself reports.
pub fn server_failure(message: impl Into<String>, non_retryable: bool) -> Failure {
    Failure {
        message: message.into(),
        failure_info: Some(FailureInfo::ServerFailureInfo(ServerFailureInfo {
            non_retryable,
        })),
        ..Default::default()
    }
}

/// The failure as it is kept with a pending activity: a large one is wrapped and cut.
pub fn recorded(failure: Failure) -> Failure {
    if failure.encoded_len() <= RECORDED_FAILURE_SIZE {
        return failure;
    }
    oversize(&failure, RECORDED_FAILURE_SIZE, false)
}

/// What stands for a failure that breaks the size limit; `None` for one that keeps to it.
pub fn over_limit(failure: &Failure, limits: &Limits) -> Option<Failure> {
    let kept = limits.blob_size / OVERSIZE_DIVISOR;
    (failure.encoded_len() > limits.blob_size).then(|| oversize(failure, kept, true))
}

/// Stands for a failure that is too large: a server failure with the original, cut, as its cause.
fn oversize(failure: &Failure, max_size: usize, non_retryable: bool) -> Failure {
    Failure {
        cause: Some(Box::new(truncate(failure, max_size))),
        ..server_failure("Failure exceeds size limit.", non_retryable)
    }
}

/// The failure's text within about `max_size` bytes. Type and retryability are kept, then source,
/// message, stack trace and causes as far as they fit; details are dropped.
pub fn truncate(failure: &Failure, max_size: usize) -> Failure {
    let mut left = max_size;
    truncate_within(failure, &mut left, TRUNCATED_DEPTH)
}

fn truncate_within(failure: &Failure, left: &mut usize, depth: usize) -> Failure {
    // Each text and message costs a tag and a length beside its bytes.
    const OVERHEAD: usize = 4;
    let failure_info = match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(a)) => {
            *left = left.saturating_sub(2 * OVERHEAD);
            Some(FailureInfo::ApplicationFailureInfo(
                ApplicationFailureInfo {
                    r#type: cut(&a.r#type, left, OVERHEAD),
                    non_retryable: a.non_retryable,
                    ..Default::default()
                },
            ))
        }
        Some(FailureInfo::ServerFailureInfo(s)) => {
            *left = left.saturating_sub(OVERHEAD);
            Some(FailureInfo::ServerFailureInfo(*s))
        }
        _ => None,
    };
    let mut short = Failure {
        source: cut(&failure.source, left, OVERHEAD),
        message: cut(&failure.message, left, OVERHEAD),
        stack_trace: cut(&failure.stack_trace, left, OVERHEAD),
        failure_info,
        ..Default::default()
    };
    if let Some(cause) = &failure.cause
        && *left > OVERHEAD
        && depth > 0
    {
        *left -= OVERHEAD;
        short.cause = Some(Box::new(truncate_within(cause, left, depth - 1)));
    }
    short
}

/// As much of a text as fits, cut between characters.
fn cut(text: &str, left: &mut usize, overhead: usize) -> String {
    let mut end = text.len().min(*left);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end > 0 {
        *left = left.saturating_sub(end + overhead);
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
