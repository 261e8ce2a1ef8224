//! Client and worker of one lane: a task queue of its own, used by nobody else, one call after the
//! other. What a call brings back is known beforehand, so that nothing has to be told apart.

use std::time::Duration;

use crate::connection::Connection;
use anyhow::{Context, Result, ensure};
use temporalio_protos::temporal::api::command::v1::Command;
use temporalio_protos::temporal::api::common::v1::{Payloads, WorkflowExecution, WorkflowType};
use temporalio_protos::temporal::api::enums::v1::TaskQueueKind;
use temporalio_protos::temporal::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use temporalio_protos::temporal::api::workflowservice::v1::{
    PollActivityTaskQueueRequest, PollActivityTaskQueueResponse, PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse, RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
};
use tonic::Code;

use crate::load::{self, IDENTITY, LONG_POLL};

pub(crate) type Task = PollWorkflowTaskQueueResponse;

#[derive(Clone)]
pub(crate) struct Lane {
    channel: Connection,
    namespace: String,
    queue: String,
}

impl Lane {
    pub(crate) fn new(channel: &Connection, namespace: &str, queue: String) -> Self {
        Self {
            channel: channel.clone(),
            namespace: namespace.to_owned(),
            queue,
        }
    }

    /// As many lanes as wanted, spread over the connections; their queues begin with `prefix`.
    pub(crate) fn several(
        count: usize,
        channels: &[Connection],
        namespace: &str,
        prefix: &str,
    ) -> Vec<Self> {
        (0..count)
            .map(|i| {
                let channel = &channels[i % channels.len()];
                Self::new(channel, namespace, format!("{prefix}-{i}"))
            })
            .collect()
    }

    pub(crate) fn task_queue(&self) -> TaskQueue {
        TaskQueue {
            name: self.queue.clone(),
            kind: TaskQueueKind::Normal.into(),
            ..Default::default()
        }
    }

    fn sticky(&self) -> TaskQueue {
        TaskQueue {
            name: format!("{}-sticky", self.queue),
            kind: TaskQueueKind::Sticky.into(),
            normal_name: self.queue.clone(),
        }
    }

    /// Starts a workflow and returns its run id and its first task, which comes with the answer where
    /// the server offers that.
    pub(crate) async fn begin(&mut self, id: &str, workflow_type: &str) -> Result<(String, Task)> {
        let request = StartWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_id: id.to_owned(),
            workflow_type: Some(WorkflowType {
                name: workflow_type.to_owned(),
            }),
            task_queue: Some(self.task_queue()),
            input: Some(load::json_payloads(1)),
            identity: IDENTITY.to_owned(),
            request_id: format!("{id}-start"),
            request_eager_execution: true,
            ..Default::default()
        };
        let answer = self.channel.call(request).await;
        let answer = answer.with_context(|| format!("start {id}"))?;
        let task = match answer.eager_workflow_task {
            Some(task) if !task.task_token.is_empty() => task,
            _ => self.task(false).await?,
        };
        Ok((answer.run_id, task))
    }

    /// Polls until there is a workflow task.
    pub(crate) async fn task(&mut self, sticky: bool) -> Result<Task> {
        loop {
            let request = PollWorkflowTaskQueueRequest {
                namespace: self.namespace.clone(),
                task_queue: Some(if sticky {
                    self.sticky()
                } else {
                    self.task_queue()
                }),
                identity: IDENTITY.to_owned(),
                ..Default::default()
            };
            match self.channel.wait(request, LONG_POLL).await {
                Ok(answer) if answer.task_token.is_empty() => {}
                Ok(answer) => return Ok(answer),
                Err(status) if status.code() == Code::DeadlineExceeded => {}
                Err(status) => return Err(status).context("poll a workflow task"),
            }
        }
    }

    /// Completes a workflow task. With `sticky` the next one is for this lane's sticky queue and holds
    /// only what is new; with `again` there is one at once, which is returned.
    pub(crate) async fn complete(
        &mut self,
        task: &Task,
        commands: Vec<Command>,
        sticky: bool,
        again: bool,
    ) -> Result<Option<Task>> {
        let sticky_attributes = sticky.then(|| StickyExecutionAttributes {
            worker_task_queue: Some(self.sticky()),
            schedule_to_start_timeout: Duration::from_secs(60).try_into().ok(),
        });
        let request = RespondWorkflowTaskCompletedRequest {
            namespace: self.namespace.clone(),
            task_token: task.task_token.clone(),
            commands,
            identity: IDENTITY.to_owned(),
            sticky_attributes,
            return_new_workflow_task: again,
            force_create_new_workflow_task: again,
            ..Default::default()
        };
        let answer = self.channel.call(request).await;
        let answer = answer.context("complete a workflow task")?;
        let next = answer.workflow_task;
        Ok(next.filter(|task| !task.task_token.is_empty()))
    }

    /// Polls until there is an activity.
    pub(crate) async fn activity(&mut self) -> Result<PollActivityTaskQueueResponse> {
        loop {
            let request = PollActivityTaskQueueRequest {
                namespace: self.namespace.clone(),
                task_queue: Some(self.task_queue()),
                identity: IDENTITY.to_owned(),
                ..Default::default()
            };
            match self.channel.wait(request, LONG_POLL).await {
                Ok(answer) if answer.task_token.is_empty() => {}
                Ok(answer) => return Ok(answer),
                Err(status) if status.code() == Code::DeadlineExceeded => {}
                Err(status) => return Err(status).context("poll an activity"),
            }
        }
    }

    pub(crate) async fn complete_activity(
        &mut self,
        token: Vec<u8>,
        result: Option<Payloads>,
    ) -> Result<()> {
        let request = RespondActivityTaskCompletedRequest {
            namespace: self.namespace.clone(),
            task_token: token,
            result,
            identity: IDENTITY.to_owned(),
            ..Default::default()
        };
        let done = self.channel.call(request).await;
        done.context("complete an activity")?;
        Ok(())
    }

    pub(crate) async fn signal(&mut self, id: &str) -> Result<()> {
        let request = SignalWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_execution: Some(WorkflowExecution {
                workflow_id: id.to_owned(),
                run_id: String::new(),
            }),
            signal_name: "go".to_owned(),
            input: Some(load::json_payloads(1)),
            identity: IDENTITY.to_owned(),
            ..Default::default()
        };
        let sent = self.channel.call(request).await;
        sent.with_context(|| format!("signal {id}"))?;
        Ok(())
    }

    /// How long it takes from a signal to a workflow that is idle until a worker that waits has its task.
    /// The task is completed without commands.
    pub(crate) async fn dispatch(&mut self, id: &str) -> Result<Duration> {
        let mut worker = self.clone();
        let poll = tokio::spawn(async move {
            let task = worker.task(false).await;
            (std::time::Instant::now(), task)
        });
        // A poll that is on its way would make the signal's task wait.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let begin = std::time::Instant::now();
        self.signal(id).await?;
        let (at, task) = poll.await?;
        let task = task?;
        let execution = task.workflow_execution.clone().unwrap_or_default();
        ensure!(execution.workflow_id == id, "a task of {execution:?}");
        self.complete(&task, Vec::new(), false, false).await?;
        Ok(at.saturating_duration_since(begin))
    }
}
