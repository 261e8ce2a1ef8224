use tidemill_proto::api::failure::v1::{
    ActivityFailureInfo, CanceledFailureInfo, TerminatedFailureInfo, TimeoutFailureInfo,
};

use super::*;

fn ms(ms: u64) -> Option<wkt::Duration> {
    proto_span(Duration::from_millis(ms))
}

fn policy(initial: u64, coefficient: f64, maximum: u64, attempts: i32) -> RetryPolicy {
    RetryPolicy {
        initial_interval: ms(initial),
        backoff_coefficient: coefficient,
        maximum_interval: ms(maximum),
        maximum_attempts: attempts,
        non_retryable_error_types: Vec::new(),
    }
}

fn application(kind: &str, non_retryable: bool, delay: Option<wkt::Duration>) -> Failure {
    Failure {
        message: "m".into(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                r#type: kind.into(),
                non_retryable,
                next_retry_delay: delay,
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

fn timeout(kind: TimeoutType) -> Failure {
    Failure {
        failure_info: Some(FailureInfo::TimeoutFailureInfo(TimeoutFailureInfo {
            timeout_type: kind as i32,
            last_heartbeat_details: None,
        })),
        ..Default::default()
    }
}

#[test]
fn unset_fields_get_their_defaults() {
    let rows = [
        (None, policy(1000, 2.0, 100_000, 0)),
        (Some(RetryPolicy::default()), policy(1000, 2.0, 100_000, 0)),
        (
            Some(RetryPolicy {
                initial_interval: ms(250),
                ..Default::default()
            }),
            policy(250, 2.0, 25_000, 0),
        ),
        (Some(policy(10, 1.5, 20, 7)), policy(10, 1.5, 20, 7)),
    ];
    for (given, expected) in rows {
        assert_eq!(normalise(given.clone()), expected, "{given:?}");
        assert_eq!(validate(&normalise(given)), Ok(()));
    }
}

#[test]
fn bad_policies_are_refused() {
    let negative = Some(wkt::Duration {
        seconds: -1,
        nanos: 0,
    });
    let types = |t: &str| RetryPolicy {
        non_retryable_error_types: vec![t.into()],
        ..policy(1, 1.0, 1, 0)
    };
    let rows = [
        (policy(1000, 0.5, 2000, 0), Some("coefficient")),
        (policy(1000, f64::NAN, 2000, 0), Some("coefficient")),
        (policy(1000, 2.0, 999, 0), Some("less than")),
        (policy(1000, 2.0, 1000, -1), Some("attempts")),
        (
            RetryPolicy {
                initial_interval: negative,
                ..policy(1, 1.0, 1, 0)
            },
            Some("initial interval"),
        ),
        (
            RetryPolicy {
                maximum_interval: negative,
                ..policy(1, 1.0, 1, 0)
            },
            Some("maximum interval"),
        ),
        (types("TemporalTimeout:Nonsense"), Some("timeout type")),
        (types("TemporalTimeout:Unspecified"), Some("timeout type")),
        (types("TemporalTimeout:StartToClose"), None),
        (types("TemporalTimeout:Heartbeat"), None),
        (types("Anything"), None),
        // One attempt: the rest is never looked at.
        (policy(1000, 0.5, 1, 1), None),
    ];
    for (policy, expected) in rows {
        match (validate(&policy), expected) {
            (Ok(()), None) => {}
            (Err(text), Some(part)) => assert!(text.contains(part), "{text}"),
            (got, _) => panic!("{policy:?}: {got:?}"),
        }
    }
}

#[test]
fn which_failures_are_retryable() {
    let listed: Vec<String> = vec!["Bad".into(), "TemporalTimeout:Heartbeat".into()];
    let info = |i| Failure {
        failure_info: Some(i),
        ..Default::default()
    };
    let rows = [
        (None, true),
        (Some(Failure::default()), true),
        (Some(application("Good", false, None)), true),
        (Some(application("Good", true, None)), false),
        (Some(application("Bad", false, None)), false),
        (Some(application("Badder", false, None)), true),
        (Some(server_failure("", false)), true),
        (Some(server_failure("", true)), false),
        (
            Some(info(FailureInfo::CanceledFailureInfo(
                CanceledFailureInfo::default(),
            ))),
            false,
        ),
        (
            Some(info(FailureInfo::TerminatedFailureInfo(
                TerminatedFailureInfo::default(),
            ))),
            false,
        ),
        (
            Some(info(FailureInfo::ActivityFailureInfo(
                ActivityFailureInfo::default(),
            ))),
            true,
        ),
        (Some(timeout(TimeoutType::StartToClose)), true),
        (Some(timeout(TimeoutType::Heartbeat)), false),
        (Some(timeout(TimeoutType::ScheduleToStart)), false),
        (Some(timeout(TimeoutType::ScheduleToClose)), false),
    ];
    for (failure, expected) in rows {
        assert_eq!(
            is_retryable(failure.as_ref(), &listed),
            expected,
            "{failure:?}"
        );
    }
}

#[test]
fn backoff_follows_the_policy() {
    use Backoff::{Retry, Stop};
    use RetryState::{MaximumAttemptsReached, NonRetryableFailure, Timeout};
    let plain = application("", false, None);
    let asks = |delay| application("", false, ms(delay));
    let fatal = application("", true, None);
    let retry = |ms| Retry(Duration::from_millis(ms));
    // policy, attempt, expiration in ms from now, failure, clipped, expected
    let rows = [
        (
            policy(1000, 2.0, 100_000, 0),
            1,
            None,
            &plain,
            false,
            retry(1000),
        ),
        (
            policy(1000, 2.0, 100_000, 0),
            4,
            None,
            &plain,
            false,
            retry(8000),
        ),
        (
            policy(1000, 2.0, 100_000, 0),
            8,
            None,
            &plain,
            false,
            retry(100_000),
        ),
        (
            policy(1000, 2.0, 100_000, 0),
            i32::MAX,
            None,
            &plain,
            false,
            retry(100_000),
        ),
        (
            policy(1000, 1.0, 1000, 0),
            i32::MAX,
            None,
            &plain,
            false,
            retry(1000),
        ),
        (
            policy(100, 1.5, 100_000, 0),
            3,
            None,
            &plain,
            false,
            retry(225),
        ),
        (
            policy(1000, 2.0, 100_000, 3),
            2,
            None,
            &plain,
            false,
            retry(2000),
        ),
        (
            policy(1000, 2.0, 100_000, 3),
            3,
            None,
            &plain,
            false,
            Stop(MaximumAttemptsReached),
        ),
        (
            policy(1000, 2.0, 100_000, 1),
            1,
            None,
            &plain,
            false,
            Stop(MaximumAttemptsReached),
        ),
        (
            policy(1000, 2.0, 100_000, 0),
            1,
            Some(1000),
            &plain,
            false,
            retry(1000),
        ),
        (
            policy(1000, 2.0, 100_000, 0),
            1,
            Some(999),
            &plain,
            false,
            Stop(Timeout),
        ),
        (
            policy(1000, 2.0, 100_000, 1),
            1,
            Some(0),
            &fatal,
            false,
            Stop(NonRetryableFailure),
        ),
        // The delay that a failure asks for.
        (
            policy(1000, 2.0, 2000, 0),
            5,
            None,
            &asks(7000),
            false,
            retry(7000),
        ),
        (
            policy(1000, 2.0, 2000, 0),
            5,
            None,
            &asks(7000),
            true,
            retry(2000),
        ),
        (
            policy(1000, 2.0, 2000, 0),
            5,
            None,
            &asks(10),
            true,
            retry(10),
        ),
        (
            policy(1000, 2.0, 2000, 0),
            1,
            None,
            &asks(0),
            false,
            retry(0),
        ),
        (
            policy(1000, 2.0, 2000, 0),
            1,
            None,
            &asks(0),
            true,
            retry(2000),
        ),
        (
            policy(1000, 2.0, 2000, 0),
            1,
            Some(5000),
            &asks(7000),
            false,
            Stop(Timeout),
        ),
        (
            policy(1000, 2.0, 2000, 2),
            2,
            None,
            &asks(10),
            false,
            Stop(MaximumAttemptsReached),
        ),
        // Without intervals there is nothing to wait for, so no retry.
        (policy(0, 2.0, 0, 0), 1, None, &plain, false, Stop(Timeout)),
    ];
    let now = Time(1_000_000_000_000);
    for (policy, attempt, expires, failure, clip, expected) in rows {
        let expiration = expires.map(|e| now.plus(Duration::from_millis(e)));
        let got = next_backoff(now, attempt, &policy, expiration, Some(failure), clip);
        assert_eq!(got, expected, "{policy:?} attempt {attempt} {failure:?}");
    }
}

#[test]
fn large_failures_are_cut() {
    let small = application("T", true, None);
    assert_eq!(recorded(small.clone()), small);
    let mut large = application("T", true, None);
    large.message = "é".repeat(3000);
    large.stack_trace = "s".repeat(3000);
    large.cause = Some(Box::new(application("Cause", false, None)));
    let cut = recorded(large.clone());
    assert!(
        matches!(&cut.failure_info, Some(FailureInfo::ServerFailureInfo(s)) if !s.non_retryable)
    );
    assert!(
        cut.encoded_len() < RECORDED_FAILURE_SIZE + 100,
        "{}",
        cut.encoded_len()
    );
    let inner = cut.cause.unwrap();
    assert!(inner.message.starts_with('é') && !inner.message.is_empty());
    assert!(
        matches!(&inner.failure_info, Some(FailureInfo::ApplicationFailureInfo(a)) if a.non_retryable && a.r#type == "T")
    );
    // With room to spare nothing but details is lost.
    assert_eq!(truncate(&large, 100_000), large);
    // A chain of causes ends at some depth.
    let mut chain = Failure::default();
    for _ in 0..50 {
        chain = Failure {
            cause: Some(Box::new(chain)),
            ..Default::default()
        };
    }
    let mut depth = 0;
    let mut at = &truncate(&chain, 1 << 20);
    while let Some(cause) = &at.cause {
        depth += 1;
        at = cause;
    }
    assert_eq!(depth, TRUNCATED_DEPTH);
}
