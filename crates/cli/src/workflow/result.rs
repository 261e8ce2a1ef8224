//! A workflow's result, waited for if need be, over all runs of its chain.

use std::time::Duration;

use tidemill_proto::api::enums::v1::HistoryEventFilterType;
use tidemill_proto::api::failure::v1::Failure as ProtoFailure;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::workflowservice::v1::GetWorkflowExecutionHistoryRequest;
use tidemill_proto::client::Code;

use super::connection::{Connection, refused, waiting};
use super::{Execution, payload};
use crate::exit::Failure;
use crate::output;

const WAIT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    execution: Execution,
}

/// How a run ended.
#[derive(Debug, PartialEq)]
enum End {
    Result(String),
    /// The next run goes on.
    Next(String),
    Failed(String),
}

pub(super) async fn run(connection: &mut Connection, arguments: Arguments) -> Result<(), Failure> {
    let mut execution = arguments.execution;
    loop {
        match end(closed(connection, &execution).await?) {
            End::Result(text) => {
                output::line(text);
                return Ok(());
            }
            End::Next(run_id) => execution.run_id = run_id,
            End::Failed(text) => return Err(Failure::General(text)),
        }
    }
}

/// The event that closed a run, once it has.
async fn closed(
    connection: &mut Connection,
    execution: &Execution,
) -> Result<Option<Attributes>, Failure> {
    let mut next_page_token = Vec::new();
    loop {
        let request = GetWorkflowExecutionHistoryRequest {
            namespace: connection.namespace.clone(),
            execution: Some(execution.proto()),
            next_page_token: next_page_token.clone(),
            wait_new_event: true,
            history_event_filter_type: HistoryEventFilterType::CloseEvent as i32,
            ..Default::default()
        };
        match connection
            .client
            .get_workflow_execution_history(waiting(request, WAIT))
            .await
        {
            Ok(answer) => {
                let answer = answer.into_inner();
                if let Some(event) = answer.history.and_then(|mut history| history.events.pop()) {
                    return Ok(event.attributes);
                }
                next_page_token = answer.next_page_token;
            }
            Err(status) if status.code() == Code::DeadlineExceeded => {}
            Err(status) => return Err(refused(status)),
        }
    }
}

fn end(event: Option<Attributes>) -> End {
    use Attributes as A;
    let next = |run_id: String, otherwise: End| {
        if run_id.is_empty() {
            otherwise
        } else {
            End::Next(run_id)
        }
    };
    match event {
        Some(A::WorkflowExecutionCompletedEventAttributes(e)) => {
            let result = match payload::lines(&e.result) {
                nothing if nothing.is_empty() => "null".to_owned(),
                result => result,
            };
            next(e.new_execution_run_id, End::Result(result))
        }
        Some(A::WorkflowExecutionContinuedAsNewEventAttributes(e)) => {
            End::Next(e.new_execution_run_id)
        }
        Some(A::WorkflowExecutionFailedEventAttributes(e)) => next(
            e.new_execution_run_id,
            End::Failed(format!("the workflow failed: {}", chain(&e.failure))),
        ),
        Some(A::WorkflowExecutionTimedOutEventAttributes(e)) => next(
            e.new_execution_run_id,
            End::Failed("the workflow timed out".to_owned()),
        ),
        Some(A::WorkflowExecutionCanceledEventAttributes(_)) => {
            End::Failed("the workflow was cancelled".to_owned())
        }
        Some(A::WorkflowExecutionTerminatedEventAttributes(e)) => {
            End::Failed(format!("the workflow was terminated: {}", e.reason))
        }
        _ => End::Failed("the workflow ended in a way unknown to this tool".to_owned()),
    }
}

/// A failure and what caused it.
fn chain(failure: &Option<ProtoFailure>) -> String {
    let mut texts = Vec::new();
    let mut failure = failure.as_ref();
    while let Some(this) = failure {
        texts.push(this.message.as_str());
        failure = this.cause.as_deref();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_proto::api::history::v1::{
        WorkflowExecutionCompletedEventAttributes as Completed,
        WorkflowExecutionFailedEventAttributes as Failed,
    };

    #[test]
    fn ends() {
        let completed = |result: &[&str], next: &str| {
            let inputs: Vec<String> = result.iter().map(|text| text.to_string()).collect();
            Some(Attributes::WorkflowExecutionCompletedEventAttributes(
                Completed {
                    result: payload::optional(&inputs).unwrap(),
                    new_execution_run_id: next.to_owned(),
                    ..Default::default()
                },
            ))
        };
        let cause = ProtoFailure {
            message: "disk full".into(),
            ..Default::default()
        };
        let failure = ProtoFailure {
            message: "activity failed".into(),
            cause: Some(Box::new(cause)),
            ..Default::default()
        };
        let failed = Some(Attributes::WorkflowExecutionFailedEventAttributes(Failed {
            failure: Some(failure),
            ..Default::default()
        }));
        for (event, expected) in [
            (completed(&["1"], ""), End::Result("1".into())),
            (completed(&[], ""), End::Result("null".into())),
            (completed(&["1"], "next"), End::Next("next".into())),
            (
                failed,
                End::Failed("the workflow failed: activity failed: disk full".into()),
            ),
        ] {
            assert_eq!(end(event), expected);
        }
    }
}
