//! The one place where the engine's errors become gRPC statuses: code, typed detail and headers
//! as Temporal's SDKs expect them (engine contract 12.1). SDKs choose their exception by code and
//! detail and retry by code, so a wrong row here turns a failure into a hang.

use bytes::Bytes;
use prost::{Message, Name};
use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{ResourceExhaustedCause, ResourceExhaustedScope};
use tidemill_proto::api::errordetails::v1 as details;
use tidemill_proto::api::errordetails::v1::multi_operation_execution_failure::OperationStatus;
use tidemill_proto::api::failure::v1::MultiOperationExecutionAborted;
use tidemill_proto::{google::rpc, wkt::Any};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Bytes of an error's text that reach the caller.
const MESSAGE_BYTES_MAX: usize = 4000;

const CAUSE_HEADER: &str = "x-resource-exhausted-cause";
const SCOPE_HEADER: &str = "x-resource-exhausted-scope";

/// The status that carries `error` to the caller.
pub(crate) fn status(error: &Error) -> Status {
    match error {
        Error::Internal(message) | Error::DataLoss(message) => {
            tracing::error!(error = %message, "request failed on a broken invariant");
        }
        _ => {}
    }
    let parts = parts(error);
    let bytes = match parts.details.is_empty() {
        true => Bytes::new(),
        false => rpc::Status {
            code: parts.code as i32,
            message: parts.message.clone(),
            details: parts.details,
        }
        .encode_to_vec()
        .into(),
    };
    Status::with_details_and_metadata(parts.code, parts.message, bytes, headers(error))
}

/// A status taken apart, as a multi-operation's failure lists it too.
struct Parts {
    code: Code,
    message: String,
    details: Vec<Any>,
}

fn parts(error: &Error) -> Parts {
    let (code, details) = code_and_details(error);
    Parts {
        code,
        message: truncated(error.to_string()),
        details,
    }
}

fn code_and_details(error: &Error) -> (Code, Vec<Any>) {
    match error {
        Error::InvalidArgument(_) => (Code::InvalidArgument, vec![]),
        Error::QueryFailed { failure, .. } => {
            let failure = failure.as_deref().cloned();
            (
                Code::InvalidArgument,
                vec![any(&details::QueryFailedFailure { failure })],
            )
        }
        Error::NotFound(_) => (
            Code::NotFound,
            vec![any(&details::NotFoundFailure::default())],
        ),
        Error::NamespaceNotFound(namespace) => {
            let namespace = namespace.clone();
            (
                Code::NotFound,
                vec![any(&details::NamespaceNotFoundFailure { namespace })],
            )
        }
        Error::WorkflowExecutionAlreadyStarted {
            start_request_id,
            run_id,
            first_execution_run_id,
            ..
        } => {
            let detail = details::WorkflowExecutionAlreadyStartedFailure {
                start_request_id: start_request_id.clone(),
                run_id: run_id.clone(),
                first_execution_run_id: first_execution_run_id.clone(),
            };
            (Code::AlreadyExists, vec![any(&detail)])
        }
        Error::NamespaceAlreadyExists => (
            Code::AlreadyExists,
            vec![any(&details::NamespaceAlreadyExistsFailure {})],
        ),
        Error::AlreadyExists(_) => (Code::AlreadyExists, vec![]),
        Error::FailedPrecondition(_) => (Code::FailedPrecondition, vec![]),
        Error::WorkflowNotReady(_) => (
            Code::FailedPrecondition,
            vec![any(&details::WorkflowNotReadyFailure {})],
        ),
        Error::NamespaceInvalidState {
            namespace,
            state,
            allowed,
        } => {
            let detail = details::NamespaceInvalidStateFailure {
                namespace: namespace.clone(),
                state: *state as i32,
                allowed_states: allowed.iter().map(|state| *state as i32).collect(),
            };
            (Code::FailedPrecondition, vec![any(&detail)])
        }
        Error::ResourceExhausted { cause, scope, .. } => {
            let detail = details::ResourceExhaustedFailure {
                cause: *cause as i32,
                scope: *scope as i32,
            };
            (Code::ResourceExhausted, vec![any(&detail)])
        }
        Error::PermissionDenied(_) => (
            Code::PermissionDenied,
            vec![any(&details::PermissionDeniedFailure::default())],
        ),
        Error::Aborted(_) => (Code::Aborted, vec![]),
        Error::MultiOperationAborted => {
            (Code::Aborted, vec![any(&MultiOperationExecutionAborted {})])
        }
        Error::MultiOperation { operations, .. } => multi_operation(operations),
        Error::Unavailable(_) => (Code::Unavailable, vec![]),
        Error::DeadlineExceeded(_) => (Code::DeadlineExceeded, vec![]),
        Error::Canceled(_) => (Code::Cancelled, vec![]),
        Error::Unimplemented(_) => (Code::Unimplemented, vec![]),
        Error::Internal(_) => (Code::Internal, vec![]),
        // Clients must not take one damaged record for the loss of everything: it is retryable.
        Error::DataLoss(_) => (Code::Unavailable, vec![]),
    }
}

/// The whole fails with the code of the first operation that failed for a reason of its own.
fn multi_operation(operations: &[Option<Error>]) -> (Code, Vec<Any>) {
    let statuses: Vec<OperationStatus> = operations
        .iter()
        .map(|operation| match operation {
            None => OperationStatus::default(),
            Some(error) => {
                let Parts {
                    code,
                    message,
                    details,
                } = parts(error);
                OperationStatus {
                    code: code as i32,
                    message,
                    details,
                }
            }
        })
        .collect();
    let code = statuses
        .iter()
        .map(|status| Code::from_i32(status.code))
        .find(|code| !matches!(code, Code::Ok | Code::Aborted))
        .unwrap_or(Code::Aborted);
    (
        code,
        vec![any(&details::MultiOperationExecutionFailure { statuses })],
    )
}

fn headers(error: &Error) -> MetadataMap {
    let mut headers = MetadataMap::new();
    if let Error::ResourceExhausted { cause, scope, .. } = error {
        headers.insert(CAUSE_HEADER, MetadataValue::from_static(cause_name(*cause)));
        headers.insert(SCOPE_HEADER, MetadataValue::from_static(scope_name(*scope)));
    }
    headers
}

/// The names that Temporal writes into headers: the enum's short form.
fn cause_name(cause: ResourceExhaustedCause) -> &'static str {
    match cause {
        ResourceExhaustedCause::Unspecified => "Unspecified",
        ResourceExhaustedCause::RpsLimit => "RpsLimit",
        ResourceExhaustedCause::ConcurrentLimit => "ConcurrentLimit",
        ResourceExhaustedCause::SystemOverloaded => "SystemOverloaded",
        ResourceExhaustedCause::PersistenceLimit => "PersistenceLimit",
        ResourceExhaustedCause::BusyWorkflow => "BusyWorkflow",
        ResourceExhaustedCause::ApsLimit => "ApsLimit",
        ResourceExhaustedCause::PersistenceStorageLimit => "PersistenceStorageLimit",
        ResourceExhaustedCause::CircuitBreakerOpen => "CircuitBreakerOpen",
        ResourceExhaustedCause::OpsLimit => "OpsLimit",
        ResourceExhaustedCause::WorkerDeploymentLimits => "WorkerDeploymentLimits",
        ResourceExhaustedCause::BandwidthLimit => "BandwidthLimit",
    }
}

fn scope_name(scope: ResourceExhaustedScope) -> &'static str {
    match scope {
        ResourceExhaustedScope::Unspecified => "Unspecified",
        ResourceExhaustedScope::Namespace => "Namespace",
        ResourceExhaustedScope::System => "System",
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

/// Cuts a text at a character boundary so that it fits into [`MESSAGE_BYTES_MAX`].
fn truncated(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_proto::api::enums::v1::NamespaceState;
    use tidemill_proto::api::failure::v1::Failure;

    fn decoded(status: &Status) -> rpc::Status {
        rpc::Status::decode(status.details()).expect("details are a google.rpc.Status")
    }

    /// Every error: its code, and the name of its detail ("" for none).
    #[test]
    fn code_and_detail_of_every_error() {
        let text = || "text".to_owned();
        let rows: Vec<(Error, Code, &str)> = vec![
            (Error::InvalidArgument(text()), Code::InvalidArgument, ""),
            (
                Error::QueryFailed {
                    message: text(),
                    failure: Some(Box::default()),
                },
                Code::InvalidArgument,
                "QueryFailedFailure",
            ),
            (Error::NotFound(text()), Code::NotFound, "NotFoundFailure"),
            (
                Error::NamespaceNotFound(text()),
                Code::NotFound,
                "NamespaceNotFoundFailure",
            ),
            (
                Error::WorkflowExecutionAlreadyStarted {
                    message: text(),
                    start_request_id: text(),
                    run_id: text(),
                    first_execution_run_id: text(),
                },
                Code::AlreadyExists,
                "WorkflowExecutionAlreadyStartedFailure",
            ),
            (
                Error::NamespaceAlreadyExists,
                Code::AlreadyExists,
                "NamespaceAlreadyExistsFailure",
            ),
            (Error::AlreadyExists(text()), Code::AlreadyExists, ""),
            (
                Error::FailedPrecondition(text()),
                Code::FailedPrecondition,
                "",
            ),
            (
                Error::WorkflowNotReady(text()),
                Code::FailedPrecondition,
                "WorkflowNotReadyFailure",
            ),
            (
                Error::NamespaceInvalidState {
                    namespace: text(),
                    state: NamespaceState::Deprecated,
                    allowed: vec![NamespaceState::Registered],
                },
                Code::FailedPrecondition,
                "NamespaceInvalidStateFailure",
            ),
            (
                Error::busy("text"),
                Code::ResourceExhausted,
                "ResourceExhaustedFailure",
            ),
            (
                Error::concurrent_limit("text"),
                Code::ResourceExhausted,
                "ResourceExhaustedFailure",
            ),
            (
                Error::PermissionDenied(text()),
                Code::PermissionDenied,
                "PermissionDeniedFailure",
            ),
            (Error::Aborted(text()), Code::Aborted, ""),
            (
                Error::MultiOperationAborted,
                Code::Aborted,
                "MultiOperationExecutionAborted",
            ),
            (
                Error::MultiOperation {
                    message: text(),
                    operations: vec![None],
                },
                Code::Aborted,
                "MultiOperationExecutionFailure",
            ),
            (Error::Unavailable(text()), Code::Unavailable, ""),
            (Error::DeadlineExceeded(text()), Code::DeadlineExceeded, ""),
            (Error::Canceled(text()), Code::Cancelled, ""),
            (Error::Unimplemented(text()), Code::Unimplemented, ""),
            (Error::Internal(text()), Code::Internal, ""),
            (Error::DataLoss(text()), Code::Unavailable, ""),
        ];
        for (error, code, detail) in rows {
            let status = status(&error);
            assert_eq!(status.code(), code, "{error:?}");
            assert_eq!(status.message(), error.to_string());
            if detail.is_empty() {
                assert!(status.details().is_empty(), "{error:?}");
                continue;
            }
            let decoded = decoded(&status);
            assert_eq!(decoded.code, code as i32);
            assert_eq!(decoded.message, status.message());
            let package = match detail {
                "MultiOperationExecutionAborted" => "temporal.api.failure.v1",
                _ => "temporal.api.errordetails.v1",
            };
            let url = format!("type.googleapis.com/{package}.{detail}");
            assert_eq!(decoded.details[0].type_url, url, "{error:?}");
        }
    }

    #[test]
    fn exhaustion_is_told_in_headers_too() {
        let status = status(&Error::busy("busy"));
        assert_eq!(status.metadata().get(CAUSE_HEADER).unwrap(), "BusyWorkflow");
        assert_eq!(status.metadata().get(SCOPE_HEADER).unwrap(), "Namespace");
    }

    #[test]
    fn multi_operation_lists_each_operation() {
        let failure = Failure {
            message: "why".into(),
            ..Default::default()
        };
        let rows: Vec<(Vec<Option<Error>>, Code, Vec<Code>)> = vec![
            (
                vec![
                    Some(Error::MultiOperationAborted),
                    Some(Error::invalid("no")),
                ],
                Code::InvalidArgument,
                vec![Code::Aborted, Code::InvalidArgument],
            ),
            (
                vec![None, Some(Error::concurrent_limit("full"))],
                Code::ResourceExhausted,
                vec![Code::Ok, Code::ResourceExhausted],
            ),
            (
                vec![
                    Some(Error::QueryFailed {
                        message: "q".into(),
                        failure: Some(Box::new(failure)),
                    }),
                    Some(Error::not_found("x")),
                ],
                Code::InvalidArgument,
                vec![Code::InvalidArgument, Code::NotFound],
            ),
            (
                vec![
                    Some(Error::MultiOperationAborted),
                    Some(Error::Aborted("closed".into())),
                ],
                Code::Aborted,
                vec![Code::Aborted, Code::Aborted],
            ),
        ];
        for (operations, code, each) in rows {
            let error = Error::MultiOperation {
                message: "whole".into(),
                operations,
            };
            let status = status(&error);
            assert_eq!(status.code(), code, "{error:?}");
            let detail = &decoded(&status).details[0];
            let failure =
                details::MultiOperationExecutionFailure::decode(detail.value.as_slice()).unwrap();
            let codes: Vec<Code> = failure
                .statuses
                .iter()
                .map(|status| Code::from_i32(status.code))
                .collect();
            assert_eq!(codes, each);
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let status = status(&Error::invalid("ä".repeat(3000)));
        assert_eq!(status.message().len(), 4000);
        let status = super::status(&Error::invalid(format!("x{}", "ä".repeat(3000))));
        assert_eq!(status.message().len(), 3999);
    }
}
