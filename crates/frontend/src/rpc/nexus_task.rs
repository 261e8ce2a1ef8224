//! Polls for Nexus tasks. There are none yet, but workers poll all the same: SDKs that send
//! worker heartbeats keep such a poll open, and a refusal makes them ask again every few seconds
//! and give up after a minute. So the poll waits like any other and finds nothing.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::{
    PollNexusTaskQueueRequest, PollNexusTaskQueueResponse, RecordWorkerHeartbeatRequest,
};
use tokio::time::{Instant, sleep_until};

use crate::handler::Handler;
use crate::validate;
use tidemill_server::Call;

/// The longest wait of one poll.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The answer leaves so long before the caller's deadline.
const MARGIN: Duration = Duration::from_secs(1);

pub(crate) async fn poll_nexus_task_queue(
    handler: &Handler,
    mut request: PollNexusTaskQueueRequest,
    call: Call,
) -> Result<PollNexusTaskQueueResponse, Error> {
    let namespace = handler.namespace(&request.namespace)?;
    validate::long_poll(call.deadline)?;
    handler.limits.task_queue(&mut request.task_queue)?;
    let longest = Instant::now() + WAIT_MAX;
    let until = call
        .deadline
        .map_or(longest, |deadline| longest.min(deadline - MARGIN));
    if !request.worker_heartbeat.is_empty() {
        let heartbeat = RecordWorkerHeartbeatRequest {
            namespace: request.namespace,
            identity: request.identity,
            worker_heartbeat: request.worker_heartbeat,
            ..Default::default()
        };
        handler
            .server
            .record_worker_heartbeat(&namespace, heartbeat, call)
            .await?;
    }
    let mut draining = handler.draining.clone();
    tokio::select! {
        () = sleep_until(until) => {}
        () = handler.server.worker_left(&request.worker_instance_key) => {}
        _ = draining.wait_for(|draining| *draining) => {}
    }
    Ok(Default::default())
}
