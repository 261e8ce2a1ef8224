//! Looking at task queues and setting them up (engine contract 8.1-8.4).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{DescribeTaskQueueMode, TaskQueueKind, TaskQueueType};
use tidemill_proto::api::workflowservice::v1::update_task_queue_config_request::RateLimitUpdate;
use tidemill_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, DescribeTaskQueueResponse, ListTaskQueuePartitionsRequest,
    ListTaskQueuePartitionsResponse, UpdateTaskQueueConfigRequest, UpdateTaskQueueConfigResponse,
};

use crate::handler::Handler;
use tidemill_server::Call;

/// Overrides of fairness weights that one queue may have.
const WEIGHT_OVERRIDES_MAX: usize = 1000;

#[expect(
    deprecated,
    reason = "the enhanced mode is deprecated and still served"
)]
pub(crate) async fn describe_task_queue(
    handler: &Handler,
    mut request: DescribeTaskQueueRequest,
    call: Call,
) -> Result<DescribeTaskQueueResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.task_queue(&mut request.task_queue)?;
    let enhanced = request.api_mode == DescribeTaskQueueMode::Enhanced as i32;
    let sticky = request
        .task_queue
        .as_ref()
        .is_some_and(|q| q.kind() == TaskQueueKind::Sticky);
    if enhanced && sticky {
        return Err(Error::invalid(
            "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED \
             or a normal queue.",
        ));
    }
    if enhanced || request.task_queue_type() == TaskQueueType::Unspecified {
        request.set_task_queue_type(TaskQueueType::Workflow);
    }
    if request.task_queue_types.is_empty() {
        request.task_queue_types = vec![
            TaskQueueType::Workflow as i32,
            TaskQueueType::Activity as i32,
        ];
    }
    handler
        .server
        .describe_task_queue(&namespace, request, call)
        .await
}

pub(crate) async fn list_task_queue_partitions(
    handler: &Handler,
    mut request: ListTaskQueuePartitionsRequest,
    call: Call,
) -> Result<ListTaskQueuePartitionsResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.task_queue(&mut request.task_queue)?;
    handler
        .server
        .list_task_queue_partitions(&namespace, request, call)
        .await
}

pub(crate) async fn update_task_queue_config(
    handler: &Handler,
    request: UpdateTaskQueueConfigRequest,
    call: Call,
) -> Result<UpdateTaskQueueConfigResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    handler.limits.required(&request.task_queue, "TaskQueue")?;
    if request.task_queue_type() == TaskQueueType::Unspecified {
        return Err(Error::invalid("TaskQueueType is not set on request."));
    }
    rate(&request.update_queue_rate_limit)?;
    rate(&request.update_fairness_key_rate_limit_default)?;
    let weights = &request.set_fairness_weight_overrides;
    if weights.len() > WEIGHT_OVERRIDES_MAX {
        return Err(Error::InvalidArgument(format!(
            "cannot set more than {WEIGHT_OVERRIDES_MAX} fairness weight overrides"
        )));
    }
    for (key, weight) in weights {
        if key.is_empty() {
            return Err(Error::invalid(
                "fairness weight override key must not be empty",
            ));
        }
        if weight.is_nan() || *weight <= 0.0 {
            return Err(Error::invalid("fairness weight override must be positive"));
        }
    }
    handler
        .server
        .update_task_queue_config(&namespace, request, call)
        .await
}

fn rate(update: &Option<RateLimitUpdate>) -> Result<(), Error> {
    let rate = update
        .as_ref()
        .and_then(|update| update.rate_limit.as_ref());
    match rate {
        Some(rate) if rate.requests_per_second < 0.0 || rate.requests_per_second.is_nan() => {
            Err(Error::invalid("RequestsPerSecond must be non-negative."))
        }
        _ => Ok(()),
    }
}
