//! Starting workflows, alone or with a signal or an update (engine contract 4).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::WorkflowIdConflictPolicy;
use tidemill_proto::api::workflow::v1::OnConflictOptions;
use tidemill_proto::api::workflowservice::v1::execute_multi_operation_request as multi;
use tidemill_proto::api::workflowservice::v1::{
    ExecuteMultiOperationRequest, ExecuteMultiOperationResponse,
    SignalWithStartWorkflowExecutionRequest, SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest, StartWorkflowExecutionResponse,
};
use tidemill_proto::wkt::Duration;

use crate::handler::Handler;
use crate::rpc::update;
use crate::validate::{self, Limits};
use tidemill_server::Call;

pub(crate) async fn start_workflow_execution(
    handler: &Handler,
    mut request: StartWorkflowExecutionRequest,
    call: Call,
) -> Result<StartWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace_for_new_work(&request.namespace)?;
    check_start(&handler.limits, &mut request)?;
    handler
        .server
        .start_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn signal_with_start_workflow_execution(
    handler: &Handler,
    mut request: SignalWithStartWorkflowExecutionRequest,
    call: Call,
) -> Result<SignalWithStartWorkflowExecutionResponse, Error> {
    let namespace = handler.namespace_for_new_work(&request.namespace)?;
    check_signal_with_start(&handler.limits, &mut request)?;
    handler
        .server
        .signal_with_start_workflow_execution(&namespace, request, call)
        .await
}

pub(crate) async fn execute_multi_operation(
    handler: &Handler,
    mut request: ExecuteMultiOperationRequest,
    call: Call,
) -> Result<ExecuteMultiOperationResponse, Error> {
    let namespace = handler.namespace_for_new_work(&request.namespace)?;
    check_multi_operation(&handler.limits, &mut request)?;
    handler
        .server
        .execute_multi_operation(&namespace, request, call)
        .await
}

fn check_start(limits: &Limits, r: &mut StartWorkflowExecutionRequest) -> Result<(), Error> {
    limits.required(&r.workflow_id, "WorkflowId")?;
    let workflow_type = r.workflow_type.as_ref().map_or("", |ty| ty.name.as_str());
    limits.required(workflow_type, "WorkflowType")?;
    limits.user_task_queue(&mut r.task_queue)?;
    limits.length(&r.identity, "Identity")?;
    limits.request_id(&mut r.request_id)?;
    validate::retry_policy(&r.retry_policy)?;
    start_delay(&r.cron_schedule, &r.workflow_start_delay)?;
    validate::span(
        &r.workflow_execution_timeout,
        "WorkflowExecutionTimeoutSeconds",
    )?;
    validate::span(&r.workflow_run_timeout, "WorkflowRunTimeoutSeconds")?;
    validate::span(&r.workflow_task_timeout, "WorkflowTaskTimeoutSeconds")?;
    validate::id_policies(
        r.workflow_id_reuse_policy(),
        r.workflow_id_conflict_policy(),
    )?;
    on_conflict(&r.on_conflict_options)?;
    validate::priority(&r.priority)?;
    limits.callbacks(&r.completion_callbacks)?;
    limits.links(&r.links)?;
    limits.user_metadata(&r.user_metadata)?;
    no_time_skipping(r.time_skipping_config.is_some())?;
    limits.blob(&r.input, "StartWorkflowExecution")?;
    limits.memo(&r.memo)
}

fn check_signal_with_start(
    limits: &Limits,
    r: &mut SignalWithStartWorkflowExecutionRequest,
) -> Result<(), Error> {
    limits.required(&r.workflow_id, "WorkflowId")?;
    limits.required(&r.signal_name, "SignalName")?;
    let workflow_type = r.workflow_type.as_ref().map_or("", |ty| ty.name.as_str());
    limits.required(workflow_type, "WorkflowType")?;
    limits.user_task_queue(&mut r.task_queue)?;
    limits.length(&r.identity, "Identity")?;
    limits.request_id(&mut r.request_id)?;
    validate::span(
        &r.workflow_execution_timeout,
        "WorkflowExecutionTimeoutSeconds",
    )?;
    validate::span(&r.workflow_run_timeout, "WorkflowRunTimeoutSeconds")?;
    validate::span(&r.workflow_task_timeout, "WorkflowTaskTimeoutSeconds")?;
    validate::retry_policy(&r.retry_policy)?;
    start_delay(&r.cron_schedule, &r.workflow_start_delay)?;
    validate::id_policies(
        r.workflow_id_reuse_policy(),
        r.workflow_id_conflict_policy(),
    )?;
    if r.workflow_id_conflict_policy() == WorkflowIdConflictPolicy::Fail {
        return Err(Error::invalid(
            "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported \
             for this operation.",
        ));
    }
    validate::priority(&r.priority)?;
    limits.links(&r.links)?;
    limits.user_metadata(&r.user_metadata)?;
    no_time_skipping(r.time_skipping_config.is_some())?;
    limits.blob(&r.input, "SignalWithStartWorkflowExecution")?;
    limits.blob(&r.signal_input, "SignalWithStartWorkflowExecution")?;
    limits.memo(&r.memo)
}

/// Exactly a start and an update of one workflow id. Every operation is checked, so that each
/// gets the status that it would get alone.
fn check_multi_operation(
    limits: &Limits,
    request: &mut ExecuteMultiOperationRequest,
) -> Result<(), Error> {
    use multi::operation::Operation::{StartWorkflow, UpdateWorkflow};
    let namespace = request.namespace.clone();
    let mut operations: Vec<_> = request
        .operations
        .iter_mut()
        .filter_map(|op| op.operation.as_mut())
        .collect();
    let [StartWorkflow(start), UpdateWorkflow(update)] = operations.as_mut_slice() else {
        return Err(Error::invalid(
            "Operations have to be exactly [Start, Update].",
        ));
    };
    let started = check_multi_start(limits, &namespace, start);
    let mut updated = check_multi_update(limits, &namespace, update);
    if started.is_ok() && updated.is_ok() {
        let id = update
            .workflow_execution
            .as_ref()
            .map(|e| e.workflow_id.as_str());
        if id == Some(start.workflow_id.as_str()) {
            return Ok(());
        }
        updated = Err(Error::invalid(
            "WorkflowId is not consistent with previous operation(s).",
        ));
    }
    Err(Error::MultiOperation {
        message: "Update-with-Start could not be executed.".to_owned(),
        operations: [started, updated]
            .map(|result| Some(result.err().unwrap_or(Error::MultiOperationAborted)))
            .into(),
    })
}

fn check_multi_start(
    limits: &Limits,
    namespace: &str,
    start: &mut StartWorkflowExecutionRequest,
) -> Result<(), Error> {
    same_namespace(namespace, &mut start.namespace)?;
    check_start(limits, start)?;
    if !start.cron_schedule.is_empty() {
        return Err(Error::invalid("CronSchedule is not allowed."));
    }
    if start.request_eager_execution {
        return Err(Error::invalid("RequestEagerExecution is not supported."));
    }
    if start
        .workflow_start_delay
        .is_some_and(|delay| (delay.seconds, delay.nanos) > (0, 0))
    {
        return Err(Error::invalid("WorkflowStartDelay is not supported."));
    }
    Ok(())
}

fn check_multi_update(
    limits: &Limits,
    namespace: &str,
    request: &mut tidemill_proto::api::workflowservice::v1::UpdateWorkflowExecutionRequest,
) -> Result<(), Error> {
    same_namespace(namespace, &mut request.namespace)?;
    update::check_update(limits, request)?;
    if !request.first_execution_run_id.is_empty() {
        return Err(Error::invalid("FirstExecutionRunId is not allowed."));
    }
    if request
        .workflow_execution
        .as_ref()
        .is_some_and(|e| !e.run_id.is_empty())
    {
        return Err(Error::invalid("RunId is not allowed."));
    }
    Ok(())
}

fn same_namespace(whole: &str, part: &mut String) -> Result<(), Error> {
    if part.is_empty() {
        whole.clone_into(part);
    }
    if part != whole {
        return Err(Error::invalid(
            "Operation namespace did not match request's namespace.",
        ));
    }
    Ok(())
}

fn start_delay(cron: &str, delay: &Option<Duration>) -> Result<(), Error> {
    if !cron.is_empty() && delay.is_some() {
        return Err(Error::invalid(
            "CronSchedule and WorkflowStartDelay may not be used together.",
        ));
    }
    validate::span(delay, "WorkflowStartDelaySeconds")
}

fn on_conflict(options: &Option<OnConflictOptions>) -> Result<(), Error> {
    if let Some(options) = options
        && options.attach_completion_callbacks
        && !options.attach_request_id
    {
        return Err(Error::invalid(
            "attach request ID must be true if attach completion callbacks is true",
        ));
    }
    Ok(())
}

pub(crate) fn no_time_skipping(asked: bool) -> Result<(), Error> {
    if asked {
        let text = "The Time-Skipping feature is not enabled for namespace.";
        return Err(Error::Unimplemented(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::test_limits as limits;
    use tidemill_proto::api::common::v1::{Payload, Payloads, WorkflowExecution, WorkflowType};
    use tidemill_proto::api::taskqueue::v1::TaskQueue;
    use tidemill_proto::api::update::v1::{Input, Meta, Request};
    use tidemill_proto::api::workflowservice::v1::UpdateWorkflowExecutionRequest;

    fn start() -> StartWorkflowExecutionRequest {
        StartWorkflowExecutionRequest {
            namespace: "default".into(),
            workflow_id: "w".into(),
            workflow_type: Some(WorkflowType { name: "t".into() }),
            task_queue: Some(TaskQueue {
                name: "q".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn update() -> UpdateWorkflowExecutionRequest {
        UpdateWorkflowExecutionRequest {
            workflow_execution: Some(WorkflowExecution {
                workflow_id: "w".into(),
                ..Default::default()
            }),
            request: Some(Request {
                meta: Some(Meta::default()),
                input: Some(Input {
                    name: "u".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn starts_that_are_refused() {
        type Change = fn(&mut StartWorkflowExecutionRequest);
        let rows: Vec<(&str, Change, bool)> = vec![
            ("as it is", |_| {}, true),
            ("no id", |r| r.workflow_id.clear(), false),
            ("long id", |r| r.workflow_id = "x".repeat(1001), false),
            ("no type", |r| r.workflow_type = None, false),
            ("no queue", |r| r.task_queue = None, false),
            ("long identity", |r| r.identity = "x".repeat(1001), false),
            ("cron", |r| r.cron_schedule = "* * * * *".into(), true),
            (
                "cron and delay",
                |r| {
                    r.cron_schedule = "* * * * *".into();
                    r.workflow_start_delay = Some(Duration {
                        seconds: 60,
                        nanos: 0,
                    });
                },
                false,
            ),
            (
                "negative timeout",
                |r| {
                    r.workflow_run_timeout = Some(Duration {
                        seconds: -1,
                        nanos: 0,
                    })
                },
                false,
            ),
            (
                "large input",
                |r| {
                    let data = vec![0; 2 * 1024 * 1024];
                    let payload = Payload {
                        data,
                        ..Default::default()
                    };
                    r.input = Some(Payloads {
                        payloads: vec![payload],
                    });
                },
                false,
            ),
            (
                "callbacks without request id",
                |r| {
                    r.on_conflict_options = Some(OnConflictOptions {
                        attach_completion_callbacks: true,
                        ..Default::default()
                    });
                },
                false,
            ),
            (
                "time skipping",
                |r| r.time_skipping_config = Some(Default::default()),
                false,
            ),
        ];
        for (what, change, ok) in rows {
            let mut request = start();
            change(&mut request);
            let result = check_start(&limits(), &mut request);
            assert_eq!(result.is_ok(), ok, "{what}: {result:?}");
            assert!(!ok || !request.request_id.is_empty());
        }
    }

    #[test]
    fn multi_operations_fail_operation_by_operation() {
        use multi::Operation;
        use multi::operation::Operation::{StartWorkflow, UpdateWorkflow};
        type Change = fn(&mut StartWorkflowExecutionRequest, &mut UpdateWorkflowExecutionRequest);
        let rows: Vec<(&str, Change, Option<[bool; 2]>)> = vec![
            ("fine", |_, _| {}, None),
            (
                "start without type",
                |s, _| s.workflow_type = None,
                Some([true, false]),
            ),
            (
                "update without name",
                |_, u| u.request = None,
                Some([false, true]),
            ),
            (
                "cron",
                |s, _| s.cron_schedule = "@daily".into(),
                Some([true, false]),
            ),
            (
                "eager",
                |s, _| s.request_eager_execution = true,
                Some([true, false]),
            ),
            (
                "first run",
                |_, u| u.first_execution_run_id = "x".into(),
                Some([false, true]),
            ),
            (
                "other namespace",
                |_, u| u.namespace = "other".into(),
                Some([false, true]),
            ),
            (
                "other id",
                |s, _| s.workflow_id = "other".into(),
                Some([false, true]),
            ),
        ];
        for (what, change, failed) in rows {
            let (mut start, mut update) = (start(), update());
            change(&mut start, &mut update);
            let mut request = ExecuteMultiOperationRequest {
                namespace: "default".into(),
                operations: vec![
                    Operation {
                        operation: Some(StartWorkflow(start)),
                    },
                    Operation {
                        operation: Some(UpdateWorkflow(update)),
                    },
                ],
                ..Default::default()
            };
            match (check_multi_operation(&limits(), &mut request), failed) {
                (Ok(()), None) => {}
                (Err(Error::MultiOperation { operations, .. }), Some(failed)) => {
                    let own = |e: &Option<Error>| *e != Some(Error::MultiOperationAborted);
                    assert_eq!([own(&operations[0]), own(&operations[1])], failed, "{what}");
                }
                (result, _) => panic!("{what}: {result:?}"),
            }
        }
        let mut empty = ExecuteMultiOperationRequest::default();
        let result = check_multi_operation(&limits(), &mut empty);
        assert!(matches!(result, Err(Error::InvalidArgument(_))));
    }
}
