//! What becomes of worker results that are too large to keep. The worker cannot do better by
//! sending them again, so they turn into failures that say why (engine contract 3.5).

use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure, ServerFailureInfo};

pub(crate) const RESULT: &str = "Complete result exceeds size limit.";
pub(crate) const FAILURE: &str = "Failure exceeds size limit.";
pub(crate) const CANCEL_DETAILS: &str = "Cancel details exceed size limit.";
pub(crate) const HEARTBEAT: &str = "Heartbeat details exceed size limit.";

/// Causes that are kept of a failure's chain.
const CAUSES_MAX: usize = 20;

/// A failure of the server's own that is not retried.
pub(crate) fn failure(message: &str) -> Failure {
    Failure {
        message: message.to_owned(),
        failure_info: Some(FailureInfo::ServerFailureInfo(ServerFailureInfo {
            non_retryable: true,
        })),
        ..Default::default()
    }
}

/// Stands for a failure that is too large: what of it fits into `bytes` is its cause.
pub(crate) fn replaced(original: &Failure, bytes: usize) -> Failure {
    Failure {
        cause: Some(Box::new(truncated(original, bytes, CAUSES_MAX))),
        ..failure(FAILURE)
    }
}

/// The texts of a failure in order of importance, as long as there is room; details are dropped.
fn truncated(failure: &Failure, mut room: usize, depth: usize) -> Failure {
    let mut cut = |text: &str| {
        let text = &text[..text.floor_char_boundary(room)];
        room = room.saturating_sub(text.len() + 4);
        text.to_owned()
    };
    let failure_info = match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(info)) => Some(
            FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo {
                r#type: cut(&info.r#type),
                non_retryable: info.non_retryable,
                ..Default::default()
            }),
        ),
        Some(FailureInfo::ServerFailureInfo(info)) => Some(FailureInfo::ServerFailureInfo(*info)),
        _ => None,
    };
    let (source, message, stack_trace) = (
        cut(&failure.source),
        cut(&failure.message),
        cut(&failure.stack_trace),
    );
    let cause = failure.cause.as_deref().filter(|_| room > 4 && depth > 0);
    Failure {
        failure_info,
        source,
        message,
        stack_trace,
        cause: cause.map(|cause| Box::new(truncated(cause, room - 4, depth - 1))),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn a_failure_is_cut_to_size_and_keeps_what_matters() {
        let mut failure = Failure::default();
        for i in 0..100 {
            failure = Failure {
                message: format!("{i} {}", "é".repeat(500)),
                stack_trace: "at".repeat(1000),
                failure_info: Some(FailureInfo::ApplicationFailureInfo(
                    ApplicationFailureInfo {
                        r#type: "Bad".to_owned(),
                        non_retryable: true,
                        ..Default::default()
                    },
                )),
                cause: Some(Box::new(failure)),
                ..Default::default()
            };
        }
        let replaced = replaced(&failure, 2000);
        assert!(replaced.encoded_len() < 2500, "{}", replaced.encoded_len());
        let cause = replaced.cause.unwrap();
        assert!(cause.message.starts_with("99 é"));
        let Some(FailureInfo::ApplicationFailureInfo(info)) = cause.failure_info else {
            panic!("application failures stay application failures");
        };
        assert!(info.non_retryable && info.r#type == "Bad");
    }
}
