//! The client's side: starts workflows and waits for each to close.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::connection::Connection;
use anyhow::{Context, Result, bail, ensure};
use temporalio_protos::temporal::api::common::v1::{
    Payload, Payloads, WorkflowExecution, WorkflowType,
};
use temporalio_protos::temporal::api::enums::v1::{HistoryEventFilterType, TaskQueueKind};
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, GetWorkflowExecutionHistoryRequest, StartWorkflowExecutionRequest,
};
use tokio::task::JoinSet;

use crate::stats::scatter;

/// What the SDKs send as the deadline of a long poll.
pub(crate) const LONG_POLL: Duration = Duration::from_secs(70);
/// A workflow that is open for this long has been lost; without a bound the bench would wait for ever.
const STUCK: Duration = Duration::from_secs(300);
pub(crate) const IDENTITY: &str = "tidemill-bench-engine";
pub(crate) const WORKFLOW_TYPE: &str = "three-steps";
/// How many activities a workflow runs, one after the other.
pub(crate) const STEPS: usize = 3;

/// One run of the bench: names that no other run against the same server shares.
pub(crate) struct Job {
    pub(crate) namespace: String,
    pub(crate) queue: String,
    pub(crate) sticky_queue: String,
    prefix: String,
    /// Ids in no order.
    scattered: bool,
    started: AtomicUsize,
}

impl Job {
    pub(crate) fn new(namespace: &str, scattered: bool) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let prefix = format!("bench-{now:x}");
        Self {
            namespace: namespace.to_owned(),
            queue: prefix.clone(),
            sticky_queue: format!("{prefix}-sticky"),
            prefix,
            scattered,
            started: AtomicUsize::new(0),
        }
    }

    pub(crate) fn task_queue(&self) -> TaskQueue {
        TaskQueue {
            name: self.queue.clone(),
            kind: TaskQueueKind::Normal.into(),
            ..Default::default()
        }
    }

    pub(crate) fn sticky_task_queue(&self) -> TaskQueue {
        TaskQueue {
            name: self.sticky_queue.clone(),
            kind: TaskQueueKind::Sticky.into(),
            normal_name: self.queue.clone(),
        }
    }
}

/// A JSON payload as the SDKs' default converters write it.
pub(crate) fn json_payloads(value: usize) -> Payloads {
    let payload = Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: value.to_string().into_bytes(),
        ..Default::default()
    };
    Payloads {
        payloads: vec![payload],
    }
}

pub(crate) async fn wait_for_namespace(
    channel: Connection,
    namespace: &str,
    deadline: Instant,
) -> Result<()> {
    loop {
        let request = DescribeNamespaceRequest {
            namespace: namespace.to_owned(),
            ..Default::default()
        };
        match channel.call(request).await {
            Ok(_) => return Ok(()),
            Err(status) if Instant::now() > deadline => {
                return Err(status)
                    .with_context(|| format!("namespace {namespace:?} does not answer"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Runs `count` workflows, `concurrency` at a time, each to COMPLETED; returns how long each took from the
/// start call to the answer of the call that waits for the close event.
pub(crate) async fn run(
    job: &Arc<Job>,
    channels: &[Connection],
    count: usize,
    concurrency: usize,
) -> Result<Vec<Duration>> {
    let left = Arc::new(AtomicUsize::new(count));
    let mut clients = JoinSet::new();
    for index in 0..concurrency.min(count) {
        let (job, left) = (job.clone(), left.clone());
        let channel = channels[index % channels.len()].clone();
        clients.spawn(async move {
            let mut latencies = Vec::new();
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                latencies.push(run_one(&job, &channel).await?);
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(finished) = clients.join_next().await {
        latencies.extend(finished??);
    }
    ensure!(
        latencies.len() == count,
        "{} of {count} workflows completed",
        latencies.len()
    );
    Ok(latencies)
}

async fn run_one(job: &Job, channel: &Connection) -> Result<Duration> {
    let index = job.started.fetch_add(1, Ordering::Relaxed);
    let workflow_id = match job.scattered {
        true => format!("{:016x}-{}-{index}", scatter(index as u64), job.prefix),
        false => format!("{}-{index}", job.prefix),
    };
    let request = StartWorkflowExecutionRequest {
        namespace: job.namespace.clone(),
        workflow_id: workflow_id.clone(),
        workflow_type: Some(WorkflowType {
            name: WORKFLOW_TYPE.to_owned(),
        }),
        task_queue: Some(job.task_queue()),
        input: Some(json_payloads(index)),
        identity: IDENTITY.to_owned(),
        request_id: format!("{workflow_id}-start"),
        ..Default::default()
    };
    let begin = Instant::now();
    let run_id = channel
        .call(request)
        .await
        .with_context(|| format!("start {workflow_id}"))?
        .run_id;
    tokio::time::timeout(
        STUCK,
        wait_for_completion(job, channel, &workflow_id, run_id),
    )
    .await
    .with_context(|| format!("{workflow_id} is still open after {STUCK:?}"))?
    .with_context(|| format!("wait for {workflow_id}"))?;
    Ok(begin.elapsed())
}

async fn wait_for_completion(
    job: &Job,
    channel: &Connection,
    workflow_id: &str,
    run_id: String,
) -> Result<()> {
    let execution = WorkflowExecution {
        workflow_id: workflow_id.to_owned(),
        run_id,
    };
    let mut next_page_token = Vec::new();
    loop {
        let request = GetWorkflowExecutionHistoryRequest {
            namespace: job.namespace.clone(),
            execution: Some(execution.clone()),
            next_page_token,
            wait_new_event: true,
            history_event_filter_type: HistoryEventFilterType::CloseEvent.into(),
            skip_archival: true,
            ..Default::default()
        };
        let answer = channel.wait(request, LONG_POLL).await?;
        let event = answer
            .history
            .and_then(|history| history.events.into_iter().last());
        match event.and_then(|event| event.attributes) {
            Some(Attributes::WorkflowExecutionCompletedEventAttributes(completed)) => {
                ensure!(
                    completed.result == Some(json_payloads(STEPS)),
                    "result is {:?}",
                    completed.result
                );
                return Ok(());
            }
            Some(other) => bail!("closed by {other:?}"),
            // The server answers an expiring long poll with no event and a token to go on with.
            None => {
                ensure!(
                    !answer.next_page_token.is_empty(),
                    "an answer with neither an event nor a token"
                );
                next_page_token = answer.next_page_token;
            }
        }
    }
}
