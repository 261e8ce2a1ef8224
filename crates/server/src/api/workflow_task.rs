//! Workflow tasks: polls, completions, failures (contract section 1).

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::complete::{self, Completion};
use tidemill_engine::model::Sticky;
use tidemill_engine::time::{nanos, span};
use tidemill_engine::workflow_task::{self, Start, Started, TaskFailure};
use tidemill_engine::{Error, Time};
use tidemill_proto::api::common::v1::WorkerVersionStamp;
use tidemill_proto::api::enums::v1::TaskQueueKind;
use tidemill_proto::api::taskqueue::v1::{PollerScalingDecision, TaskQueue};
use tidemill_proto::api::workflowservice::v1::{
    self as api, PollWorkflowTaskQueueRequest, ResetStickyTaskQueueRequest,
    ResetStickyTaskQueueResponse, RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse, RespondWorkflowTaskFailedRequest,
    RespondWorkflowTaskFailedResponse,
};
use tidemill_proto::with_history::{PollWorkflowTaskQueueResponse, WithHistory};
use tidemill_store::{QueueName, RunIdentity};
use tokio::time::Instant;

use super::{Call, target};
use crate::Server;
use crate::commit::WORKFLOW_QUEUE;
use crate::history::PAGE_BATCHES;
use crate::matching::{Handout, Offer, PollOptions, Polled, QueryTask, WorkerInfo};
use crate::metrics::{STICKY_QUEUES, TaskType};
use crate::namespaces::Namespace;
use crate::shard::{Done, Target, View};
use crate::token::{HistoryToken, TaskToken, TokenKind};

/// Between attempts to start a task while the store does not take it.
pub(super) const RETRY: Duration = Duration::from_millis(50);

impl Server {
    pub async fn poll_workflow_task_queue(
        &self,
        namespace: &Namespace,
        request: PollWorkflowTaskQueueRequest,
        call: Call,
    ) -> Result<PollWorkflowTaskQueueResponse, Error> {
        let queue = request.task_queue.clone().unwrap_or_default();
        let sticky = queue.kind() == TaskQueueKind::Sticky;
        let name = QueueName {
            namespace: namespace.id,
            name: queue.name.as_str().into(),
            kind: WORKFLOW_QUEUE,
        };
        let deadline = self.wait_until(&call, self.core.config.task_poll);
        let _call = self.core.matching.poll_call(&request.worker_instance_key);
        let worker = Arc::new(WorkerInfo {
            worker_instance_key: request.worker_instance_key,
            version_capabilities: request.worker_version_capabilities,
            deployment_options: request.deployment_options,
        });
        let begun = Instant::now();
        loop {
            let options = PollOptions {
                identity: request.identity.as_str().into(),
                deadline,
                sticky,
                max_tasks_per_second: None,
                worker: worker.clone(),
            };
            let offered = self.core.matching.poll(&name, options).await?;
            let label = if sticky { STICKY_QUEUES } else { &name.name };
            self.core
                .metrics
                .queue(&namespace.name, label, TaskType::Workflow)
                .poll_latency
                .observe(begun.elapsed());
            let handout = match offered {
                None => return Ok(PollWorkflowTaskQueueResponse::default()),
                Some(Polled::Started { task, scaling }) => {
                    let done = started(task)?;
                    let mut response = self.started_task_response(namespace, done).await?;
                    response.answer.poller_scaling_decision = scaling.map(scaling_decision);
                    return Ok(response);
                }
                Some(Polled::Offer(handout)) => handout,
            };
            match handout.offer() {
                Offer::Query(query) => {
                    // In hand until there is an answer: dropped meanwhile, another worker gets it.
                    let response = self
                        .query_task_response(namespace, query.clone(), sticky)
                        .await;
                    let scaling = scaling(&handout);
                    match response {
                        Ok(mut response) => {
                            handout.finish();
                            response.answer.poller_scaling_decision = scaling;
                            return Ok(response);
                        }
                        Err(Error::Unavailable(_)) if Instant::now() < deadline => {
                            handout.requeue();
                            tokio::time::sleep(RETRY).await;
                        }
                        // The run is gone, or broken: no worker can answer.
                        Err(_) => handout.finish(),
                    }
                }
                Offer::Task(_) | Offer::Speculative(_) => {
                    let hint = handout.backlog_count();
                    let scaling = scaling(&handout);
                    let version = worker.version_stamp();
                    let started = self
                        .start_offered(namespace, handout, &request.identity, sticky, version)
                        .await;
                    match started {
                        Ok(done) => {
                            let mut response = self.started_task_response(namespace, done).await?;
                            response.answer.backlog_count_hint = hint;
                            response.answer.poller_scaling_decision = scaling;
                            return Ok(response);
                        }
                        // The offer was stale: the next one, please.
                        Err(Error::NotFound(_)) => {}
                        Err(Error::Unavailable(_)) if Instant::now() < deadline => {
                            tokio::time::sleep(RETRY).await;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// A task that has just started as its worker gets it.
    async fn started_task_response(
        &self,
        namespace: &Namespace,
        done: Done<Started>,
    ) -> Result<PollWorkflowTaskQueueResponse, Error> {
        let Done { value, view } = done;
        // By the run's queue, whichever was polled.
        self.observe_start(
            namespace,
            &value.task_queue,
            value.scheduled_time,
            value.task.started_time,
        );
        self.workflow_task_response(namespace, &view, value).await
    }

    /// Lets the run start the offered task. The offer goes back to its queue unless the run took
    /// or refused it.
    async fn start_offered(
        &self,
        namespace: &Namespace,
        handout: Handout,
        identity: &str,
        from_sticky: bool,
        worker_version: Option<WorkerVersionStamp>,
    ) -> Result<Done<Started>, Error> {
        let (owner, scheduled_id, stamp): (RunIdentity, i64, i64) = match handout.offer() {
            Offer::Task(t) => (t.owner.clone(), t.task.scheduled_event_id, t.task.stamp),
            Offer::Speculative(t) => (t.owner.clone(), t.scheduled_event_id, t.stamp),
            Offer::Query(_) => {
                return Err(Error::Internal("a query is not a workflow task".into()));
            }
        };
        let request = Start {
            scheduled_id,
            stamp,
            identity: identity.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
            from_sticky,
            worker_version,
        };
        let target = Target::of(namespace, &owner);
        let result = self
            .core
            .shards
            .on_run(target, move |run, cx| {
                workflow_task::start(run, &request, cx)
            })
            .await;
        match &result {
            Err(Error::Unavailable(_)) => handout.requeue(),
            // Started or refused; a broken run must not come back to the head of its queue.
            _ => handout.finish(),
        }
        result
    }

    fn observe_start(&self, namespace: &Namespace, queue: &str, scheduled: Time, started: Time) {
        let metric = self
            .core
            .metrics
            .queue(&namespace.name, queue, TaskType::Workflow);
        metric.schedule_to_start.observe(started.since(scheduled));
    }

    /// A started task as its worker gets it.
    async fn workflow_task_response(
        &self,
        namespace: &Namespace,
        view: &View,
        started: Started,
    ) -> Result<PollWorkflowTaskQueueResponse, Error> {
        let mut page = self
            .core
            .read_history(view, started.history_from, started.history_to, PAGE_BATCHES)
            .await?;
        let token = TaskToken::workflow(namespace, &view.run.id, &started.task);
        let next_page_token = match page.next_event_id {
            Some(next_event_id) => prost::Message::encode_to_vec(&HistoryToken {
                run: token.run_id().to_vec(),
                next_event_id,
                last_event_id: started.history_to,
                with_tail: true,
                reverse: false,
            }),
            None => {
                page.add(started.tail);
                Vec::new()
            }
        };
        let answer = api::PollWorkflowTaskQueueResponse {
            task_token: token.encode(),
            workflow_execution: Some(view.run.id.execution()),
            workflow_type: view.run.start().workflow_type.clone(),
            previous_started_event_id: started.previous_started_id,
            started_event_id: started.task.started_id,
            attempt: started.task.attempt,
            next_page_token,
            workflow_execution_task_queue: Some(normal_queue(started.task_queue)),
            scheduled_time: started.scheduled_time.proto_opt(),
            started_time: started.task.started_time.proto_opt(),
            queries: started.queries.into_iter().collect(),
            messages: started.messages,
            ..Default::default()
        };
        Ok(WithHistory::new(answer, page.parts))
    }

    /// A started task inside another answer.
    pub(super) async fn inner_task(
        &self,
        namespace: &Namespace,
        view: &View,
        started: Started,
    ) -> Result<api::PollWorkflowTaskQueueResponse, Error> {
        let task = self
            .workflow_task_response(namespace, view, started)
            .await?;
        task.decoded().map_err(|e| {
            Error::DataLoss(format!(
                "history of run {} cannot be decoded: {e}",
                view.run.id.run_id
            ))
        })
    }

    /// A direct query as a worker gets it: no task of the run, only its history to look at.
    async fn query_task_response(
        &self,
        namespace: &Namespace,
        task: QueryTask,
        sticky: bool,
    ) -> Result<PollWorkflowTaskQueueResponse, Error> {
        let view = self
            .core
            .shards
            .read(Target::of(namespace, &task.owner))
            .await?;
        let mut history = Vec::new();
        let mut next_page_token = Vec::new();
        if !sticky {
            let last = view.run.last_event_id();
            let page = self.core.read_history(&view, 1, last, PAGE_BATCHES).await?;
            history = page.parts;
            if let Some(next_event_id) = page.next_event_id {
                next_page_token = prost::Message::encode_to_vec(&HistoryToken {
                    run: task.owner.run_id.to_vec(),
                    next_event_id,
                    last_event_id: last,
                    with_tail: false,
                    reverse: false,
                });
            }
        }
        let answer = api::PollWorkflowTaskQueueResponse {
            task_token: TaskToken::query(namespace, &view.run.id, task.id.0).encode(),
            workflow_execution: Some(view.run.id.execution()),
            workflow_type: view.run.start().workflow_type.clone(),
            previous_started_event_id: view.run.core.last_completed_started_id,
            attempt: 1,
            next_page_token,
            query: Some(task.query),
            workflow_execution_task_queue: Some(normal_queue(view.run.task_queue().to_owned())),
            ..Default::default()
        };
        Ok(WithHistory::new(answer, history))
    }

    pub async fn respond_workflow_task_completed(
        &self,
        namespace: &Namespace,
        request: RespondWorkflowTaskCompletedRequest,
        _call: Call,
    ) -> Result<RespondWorkflowTaskCompletedResponse, Error> {
        let token = TaskToken::decode(&request.task_token)?.expect(TokenKind::Workflow)?;
        if request.intermediate_page || request.page_number != 0 {
            return Err(Error::FailedPrecondition(
                "workflow task completion in pages is not supported".into(),
            ));
        }
        let completion = completion(namespace, request);
        let task = token.task();
        let done = self
            .core
            .shards
            .on_run(token.target(namespace), move |run, cx| {
                complete::complete(run, &task, completion, cx)
            })
            .await?;
        let Done { value, view } = done;
        let mut activity_tasks = Vec::with_capacity(value.activities.len());
        for started in value.activities {
            activity_tasks.push(
                self.activity_task_response(namespace, &view, started)
                    .await?,
            );
        }
        let workflow_task = match value.new_task {
            Some(started) => Some(self.inner_task(namespace, &view, started).await?),
            None => None,
        };
        Ok(RespondWorkflowTaskCompletedResponse {
            workflow_task,
            activity_tasks,
            reset_history_event_id: value.reset_history_event_id,
        })
    }

    pub async fn respond_workflow_task_failed(
        &self,
        namespace: &Namespace,
        request: RespondWorkflowTaskFailedRequest,
        _call: Call,
    ) -> Result<RespondWorkflowTaskFailedResponse, Error> {
        let token = TaskToken::decode(&request.task_token)?.expect(TokenKind::Workflow)?;
        let task = token.task();
        let failure = TaskFailure {
            cause: request.cause(),
            binary_checksum: request.binary_checksum,
            failure: request.failure,
            identity: request.identity,
            worker_version: request.worker_version,
        };
        self.core
            .shards
            .on_run(token.target(namespace), move |run, cx| {
                workflow_task::fail(run, &task, failure, cx)
            })
            .await?;
        Ok(RespondWorkflowTaskFailedResponse {})
    }

    pub async fn reset_sticky_task_queue(
        &self,
        namespace: &Namespace,
        request: ResetStickyTaskQueueRequest,
        _call: Call,
    ) -> Result<ResetStickyTaskQueueResponse, Error> {
        let target = target(namespace, &request.execution)?;
        self.core
            .shards
            .on_run(target, workflow_task::reset_sticky)
            .await?;
        Ok(ResetStickyTaskQueueResponse {})
    }
}

fn completion(namespace: &Namespace, request: RespondWorkflowTaskCompletedRequest) -> Completion {
    let binary_checksum = request.binary_checksum;
    let sticky = request.sticky_attributes.and_then(|s| {
        let queue = s
            .worker_task_queue
            .map(|q| q.name)
            .filter(|name| !name.is_empty())?;
        Some(Sticky {
            queue,
            timeout: nanos(span(&s.schedule_to_start_timeout)),
        })
    });
    Completion {
        commands: request.commands,
        messages: request.messages,
        query_results: request.query_results.into_iter().collect(),
        sticky,
        identity: request.identity,
        bad_binary: namespace.bad_binaries.contains_key(&binary_checksum),
        binary_checksum,
        worker_version: request.worker_version_stamp,
        sdk_metadata: request.sdk_metadata,
        metering: request.metering_metadata,
        return_new_task: request.return_new_workflow_task,
        force_new_task: request.force_create_new_workflow_task,
        discards_with_events: request
            .capabilities
            .is_some_and(|c| c.discard_speculative_workflow_task_with_events),
    }
}

pub(super) fn scaling(handout: &Handout) -> Option<PollerScalingDecision> {
    handout.scaling().map(scaling_decision)
}

pub(super) fn scaling_decision(poll_request_delta_suggestion: i32) -> PollerScalingDecision {
    PollerScalingDecision {
        poll_request_delta_suggestion,
    }
}

/// What a poll was reserved for.
pub(super) fn started<T: 'static>(task: Box<dyn Any + Send>) -> Result<Done<T>, Error> {
    task.downcast()
        .map(|done| *done)
        .map_err(|_| Error::Internal("a poll was given a task of another kind".into()))
}

fn normal_queue(name: String) -> TaskQueue {
    TaskQueue {
        name,
        kind: TaskQueueKind::Normal as i32,
        ..Default::default()
    }
}
