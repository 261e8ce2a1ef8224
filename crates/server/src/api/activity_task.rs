//! Activity tasks: polls, outcomes, heartbeats, and what operators do to pending activities
//! (contract section 3).

use std::sync::Arc;

use tidemill_engine::activity::{self, ActivityRef, StartActivity, StartedActivity};
use tidemill_engine::time::proto_span;
use tidemill_engine::{Error, Time};
use tidemill_proto::api::common::v1::{ActivityType, WorkerVersionStamp};
use tidemill_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::workflowservice::v1::{
    PauseActivityRequest, PauseActivityResponse, PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse, RecordActivityTaskHeartbeatByIdRequest,
    RecordActivityTaskHeartbeatByIdResponse, RecordActivityTaskHeartbeatRequest,
    RecordActivityTaskHeartbeatResponse, ResetActivityRequest, ResetActivityResponse,
    RespondActivityTaskCanceledByIdRequest, RespondActivityTaskCanceledByIdResponse,
    RespondActivityTaskCanceledRequest, RespondActivityTaskCanceledResponse,
    RespondActivityTaskCompletedByIdRequest, RespondActivityTaskCompletedByIdResponse,
    RespondActivityTaskCompletedRequest, RespondActivityTaskCompletedResponse,
    RespondActivityTaskFailedByIdRequest, RespondActivityTaskFailedByIdResponse,
    RespondActivityTaskFailedRequest, RespondActivityTaskFailedResponse, UnpauseActivityRequest,
    UnpauseActivityResponse, UpdateActivityOptionsRequest, UpdateActivityOptionsResponse,
};
use tidemill_store::QueueName;
use tokio::time::Instant;

use super::workflow_task::{RETRY, scaling, scaling_decision, started};
use super::{Call, target};
use crate::Server;
use crate::commit::ACTIVITY_QUEUE;
use crate::matching::{Handout, Offer, PollOptions, Polled, WorkerInfo};
use crate::metrics::TaskType;
use crate::namespaces::Namespace;
use crate::shard::{Done, Target, View};
use crate::token::{TaskToken, TokenKind};

impl Server {
    pub async fn poll_activity_task_queue(
        &self,
        namespace: &Namespace,
        request: PollActivityTaskQueueRequest,
        call: Call,
    ) -> Result<PollActivityTaskQueueResponse, Error> {
        let queue = request.task_queue.unwrap_or_default();
        let name = QueueName {
            namespace: namespace.id,
            name: queue.name.as_str().into(),
            kind: ACTIVITY_QUEUE,
        };
        let deadline = self.wait_until(&call, self.core.config.task_poll);
        let _call = self.core.matching.poll_call(&request.worker_instance_key);
        let worker = Arc::new(WorkerInfo {
            worker_instance_key: request.worker_instance_key,
            version_capabilities: request.worker_version_capabilities,
            deployment_options: request.deployment_options,
        });
        let max_tasks_per_second = request
            .task_queue_metadata
            .and_then(|m| m.max_tasks_per_second);
        let metric = self
            .core
            .metrics
            .queue(&namespace.name, &name.name, TaskType::Activity);
        let begun = Instant::now();
        loop {
            let options = PollOptions {
                identity: request.identity.as_str().into(),
                deadline,
                sticky: false,
                max_tasks_per_second,
                worker: worker.clone(),
            };
            let offered = self.core.matching.poll(&name, options).await?;
            metric.poll_latency.observe(begun.elapsed());
            let (done, scaling) = match offered {
                None => return Ok(PollActivityTaskQueueResponse::default()),
                Some(Polled::Started { task, scaling }) => {
                    (started(task), scaling.map(scaling_decision))
                }
                Some(Polled::Offer(handout)) => {
                    let scaling = scaling(&handout);
                    let version = worker.version_stamp();
                    let started =
                        self.start_offered_activity(namespace, handout, &request.identity, version);
                    (started.await, scaling)
                }
            };
            match done {
                Ok(Done { value, view }) => {
                    metric
                        .schedule_to_start
                        .observe(value.started_time.since(value.attempt_scheduled_time));
                    let mut response = self.activity_task_response(namespace, &view, value).await?;
                    response.poller_scaling_decision = scaling;
                    return Ok(response);
                }
                Err(Error::NotFound(_)) => {}
                Err(Error::Unavailable(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn start_offered_activity(
        &self,
        namespace: &Namespace,
        handout: Handout,
        identity: &str,
        worker_version: Option<WorkerVersionStamp>,
    ) -> Result<Done<StartedActivity>, Error> {
        let Offer::Task(task) = handout.offer() else {
            return Err(Error::Internal(
                "only activities are offered on an activity queue".into(),
            ));
        };
        let request = StartActivity {
            scheduled_id: task.task.scheduled_event_id,
            stamp: task.task.stamp,
            identity: identity.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
            worker_version,
        };
        let target = Target::of(namespace, &task.owner);
        let result = self
            .core
            .shards
            .on_run(target, move |run, cx| activity::start(run, &request, cx))
            .await;
        match &result {
            Err(Error::Unavailable(_)) => handout.requeue(),
            // Started or refused; a broken run must not come back to the head of its queue.
            _ => handout.finish(),
        }
        result
    }

    /// A started activity as its worker gets it.
    pub(super) async fn activity_task_response(
        &self,
        namespace: &Namespace,
        view: &View,
        started: StartedActivity,
    ) -> Result<PollActivityTaskQueueResponse, Error> {
        let scheduled = self
            .scheduled_event(view, started.scheduled_batch_id, started.scheduled_id)
            .await?;
        let ActivityRef::ByToken {
            scheduled_id,
            attempt,
            started_time,
        } = started.task
        else {
            return Err(Error::Internal("a started activity has a token".into()));
        };
        let token = TaskToken {
            scheduled_id,
            attempt,
            started_time: started_time.0,
            activity_id: started.activity_id.clone(),
            ..TaskToken::of(TokenKind::Activity, namespace, &view.run.id)
        };
        Ok(PollActivityTaskQueueResponse {
            task_token: token.encode(),
            workflow_namespace: namespace.name.clone(),
            workflow_type: view.run.start().workflow_type.clone(),
            workflow_execution: Some(view.run.id.execution()),
            activity_type: Some(ActivityType {
                name: started.activity_type,
            }),
            activity_id: started.activity_id,
            header: scheduled.header,
            input: scheduled.input,
            heartbeat_details: started.heartbeat_details,
            scheduled_time: started.scheduled_time.proto_opt(),
            current_attempt_scheduled_time: started.attempt_scheduled_time.proto_opt(),
            started_time: started.started_time.proto_opt(),
            attempt: started.attempt,
            schedule_to_close_timeout: proto_span(started.schedule_to_close),
            start_to_close_timeout: proto_span(started.start_to_close),
            heartbeat_timeout: proto_span(started.heartbeat),
            retry_policy: started.retry_policy,
            priority: started.priority,
            ..Default::default()
        })
    }

    async fn scheduled_event(
        &self,
        view: &View,
        batch_id: i64,
        event_id: i64,
    ) -> Result<ActivityTaskScheduledEventAttributes, Error> {
        let event = self.core.read_event(view, batch_id, event_id).await?;
        match event.attributes {
            Some(Attributes::ActivityTaskScheduledEventAttributes(a)) => Ok(a),
            _ => Err(Error::DataLoss(format!(
                "event {event_id} of run {} is not the scheduling of an activity",
                view.run.id.run_id
            ))),
        }
    }

    pub async fn respond_activity_task_completed(
        &self,
        namespace: &Namespace,
        request: RespondActivityTaskCompletedRequest,
        _call: Call,
    ) -> Result<RespondActivityTaskCompletedResponse, Error> {
        let (target, activity) = by_token(namespace, &request.task_token)?;
        let complete = activity::Complete {
            activity,
            result: request.result,
            identity: request.identity,
            worker_version: request.worker_version,
        };
        self.core
            .shards
            .on_run(target, move |run, cx| activity::complete(run, complete, cx))
            .await?;
        Ok(RespondActivityTaskCompletedResponse {})
    }

    pub async fn respond_activity_task_completed_by_id(
        &self,
        namespace: &Namespace,
        request: RespondActivityTaskCompletedByIdRequest,
        _call: Call,
    ) -> Result<RespondActivityTaskCompletedByIdResponse, Error> {
        let target = Target::new(namespace, &request.workflow_id, &request.run_id)?;
        let complete = activity::Complete {
            activity: ActivityRef::ById {
                activity_id: request.activity_id,
            },
            result: request.result,
            identity: request.identity,
            worker_version: None,
        };
        self.core
            .shards
            .on_run(target, move |run, cx| activity::complete(run, complete, cx))
            .await?;
        Ok(RespondActivityTaskCompletedByIdResponse {})
    }

    pub async fn respond_activity_task_failed(
        &self,
        namespace: &Namespace,
        request: RespondActivityTaskFailedRequest,
        _call: Call,
    ) -> Result<RespondActivityTaskFailedResponse, Error> {
        let (target, activity) = by_token(namespace, &request.task_token)?;
        let fail = activity::Fail {
            activity,
            cause: request.cause,
            failure: request.failure,
            last_heartbeat_details: request.last_heartbeat_details,
            identity: request.identity,
            worker_version: request.worker_version,
        };
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| activity::fail(run, fail, cx))
            .await?;
        Ok(RespondActivityTaskFailedResponse {
            failures: done.value,
        })
    }

    pub async fn respond_activity_task_failed_by_id(
        &self,
        namespace: &Namespace,
        request: RespondActivityTaskFailedByIdRequest,
        _call: Call,
    ) -> Result<RespondActivityTaskFailedByIdResponse, Error> {
        let target = Target::new(namespace, &request.workflow_id, &request.run_id)?;
        let fail = activity::Fail {
            activity: ActivityRef::ById {
                activity_id: request.activity_id,
            },
            cause: request.cause,
            failure: request.failure,
            last_heartbeat_details: request.last_heartbeat_details,
            identity: request.identity,
            worker_version: None,
        };
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| activity::fail(run, fail, cx))
            .await?;
        Ok(RespondActivityTaskFailedByIdResponse {
            failures: done.value,
        })
    }

    pub async fn respond_activity_task_canceled(
        &self,
        namespace: &Namespace,
        request: RespondActivityTaskCanceledRequest,
        _call: Call,
    ) -> Result<RespondActivityTaskCanceledResponse, Error> {
        let (target, activity) = by_token(namespace, &request.task_token)?;
        let cancel = activity::Cancel {
            activity,
            details: request.details,
            identity: request.identity,
            worker_version: request.worker_version,
        };
        self.core
            .shards
            .on_run(target, move |run, cx| activity::cancel(run, cancel, cx))
            .await?;
        Ok(RespondActivityTaskCanceledResponse {})
    }

    pub async fn respond_activity_task_canceled_by_id(
        &self,
        namespace: &Namespace,
        request: RespondActivityTaskCanceledByIdRequest,
        _call: Call,
    ) -> Result<RespondActivityTaskCanceledByIdResponse, Error> {
        let target = Target::new(namespace, &request.workflow_id, &request.run_id)?;
        let cancel = activity::Cancel {
            activity: ActivityRef::ById {
                activity_id: request.activity_id,
            },
            details: request.details,
            identity: request.identity,
            worker_version: None,
        };
        self.core
            .shards
            .on_run(target, move |run, cx| activity::cancel(run, cancel, cx))
            .await?;
        Ok(RespondActivityTaskCanceledByIdResponse {})
    }

    pub async fn record_activity_task_heartbeat(
        &self,
        namespace: &Namespace,
        request: RecordActivityTaskHeartbeatRequest,
        _call: Call,
    ) -> Result<RecordActivityTaskHeartbeatResponse, Error> {
        let (target, activity) = by_token(namespace, &request.task_token)?;
        let beat = activity::Heartbeat {
            activity,
            details: request.details,
            identity: request.identity,
        };
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| activity::heartbeat(run, beat, cx))
            .await?;
        Ok(RecordActivityTaskHeartbeatResponse {
            cancel_requested: done.value.cancel_requested,
            activity_paused: done.value.paused,
            activity_reset: done.value.reset,
        })
    }

    pub async fn record_activity_task_heartbeat_by_id(
        &self,
        namespace: &Namespace,
        request: RecordActivityTaskHeartbeatByIdRequest,
        _call: Call,
    ) -> Result<RecordActivityTaskHeartbeatByIdResponse, Error> {
        let target = Target::new(namespace, &request.workflow_id, &request.run_id)?;
        let beat = activity::Heartbeat {
            activity: ActivityRef::ById {
                activity_id: request.activity_id,
            },
            details: request.details,
            identity: request.identity,
        };
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| activity::heartbeat(run, beat, cx))
            .await?;
        Ok(RecordActivityTaskHeartbeatByIdResponse {
            cancel_requested: done.value.cancel_requested,
            activity_paused: done.value.paused,
            activity_reset: done.value.reset,
        })
    }

    pub async fn pause_activity(
        &self,
        namespace: &Namespace,
        request: PauseActivityRequest,
        _call: Call,
    ) -> Result<PauseActivityResponse, Error> {
        let target = target(namespace, &request.execution)?;
        self.core
            .shards
            .on_run(target, move |run, cx| {
                activity::operate::pause(run, &request, cx)
            })
            .await?;
        Ok(PauseActivityResponse {})
    }

    pub async fn unpause_activity(
        &self,
        namespace: &Namespace,
        request: UnpauseActivityRequest,
        _call: Call,
    ) -> Result<UnpauseActivityResponse, Error> {
        let target = target(namespace, &request.execution)?;
        self.core
            .shards
            .on_run(target, move |run, cx| {
                activity::operate::unpause(run, &request, cx)
            })
            .await?;
        Ok(UnpauseActivityResponse {})
    }

    pub async fn reset_activity(
        &self,
        namespace: &Namespace,
        request: ResetActivityRequest,
        _call: Call,
    ) -> Result<ResetActivityResponse, Error> {
        let target = target(namespace, &request.execution)?;
        let originals = match request.restore_original_options {
            true => {
                self.originals(&target, activity::operate::Selector::try_from(&request)?)
                    .await?
            }
            false => Default::default(),
        };
        self.core
            .shards
            .on_run(target, move |run, cx| {
                activity::operate::reset(run, &request, &originals, cx)
            })
            .await?;
        Ok(ResetActivityResponse {})
    }

    pub async fn update_activity_options(
        &self,
        namespace: &Namespace,
        request: UpdateActivityOptionsRequest,
        _call: Call,
    ) -> Result<UpdateActivityOptionsResponse, Error> {
        let target = target(namespace, &request.execution)?;
        let originals = match request.restore_original {
            true => {
                self.originals(&target, activity::operate::Selector::try_from(&request)?)
                    .await?
            }
            false => Default::default(),
        };
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| {
                activity::operate::update_options(run, &request, &originals, cx)
            })
            .await?;
        Ok(UpdateActivityOptionsResponse {
            activity_options: Some(done.value),
        })
    }

    /// What the scheduled events of the selected activities say.
    async fn originals(
        &self,
        target: &Target,
        selector: activity::operate::Selector<'_>,
    ) -> Result<activity::operate::Originals, Error> {
        let view = self.core.shards.read(target.clone()).await?;
        let mut originals = activity::operate::Originals::new();
        for (event_id, batch_id) in activity::operate::select(&view.run, selector)? {
            originals.insert(
                event_id,
                self.scheduled_event(&view, batch_id, event_id).await?,
            );
        }
        Ok(originals)
    }
}

/// The run and the attempt that a task token names.
fn by_token(namespace: &Namespace, token: &[u8]) -> Result<(Target, ActivityRef), Error> {
    let token = TaskToken::decode(token)?.expect(TokenKind::Activity)?;
    let activity = ActivityRef::ByToken {
        scheduled_id: token.scheduled_id,
        attempt: token.attempt,
        started_time: Time(token.started_time),
    };
    Ok((token.target(namespace), activity))
}
