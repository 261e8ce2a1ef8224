//! The worker's side: pollers for workflow tasks, sticky workflow tasks and activities.
//!
//! As in the SDKs, a poller polls again at once while what it brought is being worked on: nobody waits for the
//! poll, so what can be answered at once is answered first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::connection::Connection;
use anyhow::{Context, Result, anyhow, ensure};
use temporalio_protos::temporal::api::command::v1::command::Attributes as CommandAttributes;
use temporalio_protos::temporal::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::ActivityType;
use temporalio_protos::temporal::api::enums::v1::{CommandType, EventType};
use temporalio_protos::temporal::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use temporalio_protos::temporal::api::workflowservice::v1::{
    PollActivityTaskQueueRequest, PollActivityTaskQueueResponse, PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse, RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::load::{self, IDENTITY, Job, LONG_POLL, STEPS};

pub(crate) struct Worker {
    pollers: JoinSet<()>,
    failures: mpsc::Receiver<anyhow::Error>,
}

/// What every task of the worker shares.
#[derive(Clone)]
struct Shared {
    job: Arc<Job>,
    channel: Connection,
    /// Activities completed so far, per open run: what an SDK's cache of workflows would hold.
    progress: Arc<Mutex<HashMap<String, usize>>>,
    failures: mpsc::Sender<anyhow::Error>,
}

impl Worker {
    pub(crate) fn start(job: Arc<Job>, channels: &[Connection], pollers_per_kind: usize) -> Self {
        let (failures_in, failures) = mpsc::channel(1);
        let progress = Arc::new(Mutex::new(HashMap::new()));
        let mut pollers = JoinSet::new();
        for index in 0..pollers_per_kind {
            let context = |kind: usize| Shared {
                job: job.clone(),
                channel: channels[(3 * index + kind) % channels.len()].clone(),
                progress: progress.clone(),
                failures: failures_in.clone(),
            };
            pollers.spawn(poll_workflow_tasks(context(0), job.task_queue()));
            pollers.spawn(poll_workflow_tasks(context(1), job.sticky_task_queue()));
            pollers.spawn(poll_activities(context(2)));
        }
        Self { pollers, failures }
    }

    /// Waits for the first thing that went wrong; for ever if nothing does.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn stop(&mut self) {
        self.pollers.abort_all();
    }
}

impl Shared {
    /// Does a piece of work beside the poller and reports it if it fails.
    fn spawn(&self, work: impl Future<Output = Result<()>> + Send + 'static) {
        let failures = self.failures.clone();
        tokio::spawn(async move {
            if let Err(error) = work.await {
                // One failure is enough to end the bench; more than one need not be kept.
                let _ = failures.try_send(error);
            }
        });
    }

    /// Decides what a failed poll means: an expired long poll and a busy server are met by polling again.
    async fn poll_failed(&self, status: Status) -> bool {
        match status.code() {
            Code::DeadlineExceeded => true,
            Code::Unavailable | Code::ResourceExhausted => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                true
            }
            _ => {
                let _ = self.failures.try_send(anyhow!(status).context("poll"));
                false
            }
        }
    }
}

async fn poll_workflow_tasks(context: Shared, queue: TaskQueue) {
    loop {
        let request = PollWorkflowTaskQueueRequest {
            namespace: context.job.namespace.clone(),
            task_queue: Some(queue.clone()),
            identity: IDENTITY.to_owned(),
            ..Default::default()
        };
        match context.channel.wait(request, LONG_POLL).await {
            Ok(answer) => {
                // The message is large, and a task that is spawned is moved some times.
                let task = Box::new(answer);
                if !task.task_token.is_empty() {
                    context.spawn(Box::pin(work_on_workflow(context.clone(), task)));
                    tokio::task::yield_now().await;
                }
            }
            Err(status) => {
                if !context.poll_failed(status).await {
                    return;
                }
            }
        }
    }
}

async fn poll_activities(context: Shared) {
    loop {
        let request = PollActivityTaskQueueRequest {
            namespace: context.job.namespace.clone(),
            task_queue: Some(context.job.task_queue()),
            identity: IDENTITY.to_owned(),
            ..Default::default()
        };
        match context.channel.wait(request, LONG_POLL).await {
            Ok(answer) => {
                let task = Box::new(answer);
                if !task.task_token.is_empty() {
                    context.spawn(Box::pin(work_on_activity(context.clone(), task)));
                    tokio::task::yield_now().await;
                }
            }
            Err(status) => {
                if !context.poll_failed(status).await {
                    return;
                }
            }
        }
    }
}

/// Answers a workflow task, and the tasks that come back with the answers, until none does.
async fn work_on_workflow(context: Shared, task: Box<PollWorkflowTaskQueueResponse>) -> Result<()> {
    let mut next = Some(task);
    while let Some(task) = next {
        let run = task
            .workflow_execution
            .as_ref()
            .map(|execution| execution.run_id.clone())
            .unwrap_or_default();
        let completed = context.advance(&run, &task)?;
        let request = RespondWorkflowTaskCompletedRequest {
            namespace: context.job.namespace.clone(),
            task_token: task.task_token,
            commands: vec![next_command(&context.job, completed)],
            identity: IDENTITY.to_owned(),
            sticky_attributes: Some(StickyExecutionAttributes {
                worker_task_queue: Some(context.job.sticky_task_queue()),
                schedule_to_start_timeout: Duration::from_secs(10).try_into().ok(),
            }),
            return_new_workflow_task: true,
            ..Default::default()
        };
        let answer = context
            .channel
            .call(request)
            .await
            .context("complete a workflow task")?;
        next = answer
            .workflow_task
            .filter(|task| !task.task_token.is_empty())
            .map(Box::new);
    }
    Ok(())
}

impl Shared {
    /// Brings the run's progress up to date with the history in a task; returns its completed activities.
    fn advance(&self, run: &str, task: &PollWorkflowTaskQueueResponse) -> Result<usize> {
        let events = task
            .history
            .as_ref()
            .map(|history| history.events.as_slice())
            .unwrap_or_default();
        let first = events.first().context("a workflow task without history")?;
        let completions = events
            .iter()
            .filter(|e| e.event_type() == EventType::ActivityTaskCompleted)
            .count();
        let mut progress = self
            .progress
            .lock()
            .map_err(|_| anyhow!("a poller panicked"))?;
        let before = if first.event_id == 1 {
            0
        } else {
            *progress
                .get(run)
                .with_context(|| format!("partial history for {run}, which is not cached"))?
        };
        let completed = before + completions;
        ensure!(completed <= STEPS, "{run} completed {completed} activities");
        if completed == STEPS {
            progress.remove(run);
        } else {
            progress.insert(run.to_owned(), completed);
        }
        Ok(completed)
    }
}

fn next_command(job: &Job, completed: usize) -> Command {
    let (command_type, attributes) = if completed == STEPS {
        let attributes = CompleteWorkflowExecutionCommandAttributes {
            result: Some(load::json_payloads(completed)),
        };
        (
            CommandType::CompleteWorkflowExecution,
            CommandAttributes::CompleteWorkflowExecutionCommandAttributes(attributes),
        )
    } else {
        let attributes = ScheduleActivityTaskCommandAttributes {
            activity_id: (completed + 1).to_string(),
            activity_type: Some(ActivityType {
                name: "step".to_owned(),
            }),
            task_queue: Some(job.task_queue()),
            input: Some(load::json_payloads(completed + 1)),
            start_to_close_timeout: Duration::from_secs(60).try_into().ok(),
            ..Default::default()
        };
        (
            CommandType::ScheduleActivityTask,
            CommandAttributes::ScheduleActivityTaskCommandAttributes(attributes),
        )
    };
    Command {
        command_type: command_type.into(),
        attributes: Some(attributes),
        ..Default::default()
    }
}

async fn work_on_activity(context: Shared, task: Box<PollActivityTaskQueueResponse>) -> Result<()> {
    let request = RespondActivityTaskCompletedRequest {
        namespace: context.job.namespace.clone(),
        task_token: task.task_token,
        result: task.input,
        identity: IDENTITY.to_owned(),
        ..Default::default()
    };
    context
        .channel
        .call(request)
        .await
        .context("complete an activity")?;
    Ok(())
}
