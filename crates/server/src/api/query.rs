//! Queries (contract 6.1): answered by the pending workflow task when there is one, so that they
//! see all that came before them; else straight by a worker.

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::Error;
use tidemill_engine::query::{self, Route};
use tidemill_engine::workflow_task;
use tidemill_proto::api::common::v1::{Link, link};
use tidemill_proto::api::enums::v1::QueryResultType;
use tidemill_proto::api::query::v1::{QueryRejected, WorkflowQuery, WorkflowQueryResult};
use tidemill_proto::api::workflowservice::v1::{
    QueryWorkflowRequest, QueryWorkflowResponse, RespondQueryTaskCompletedRequest,
    RespondQueryTaskCompletedResponse,
};
use tidemill_store::{QueueName, RunNo};
use tokio::time::Instant;

use super::{Call, RELOADED, target};
use crate::Server;
use crate::commit::WORKFLOW_QUEUE;
use crate::core::{Core, identity, stopping};
use crate::matching::{QueryError, QueryId, QueryRequest};
use crate::namespaces::Namespace;
use crate::shard::{Target, View};
use crate::token::{TaskToken, TokenKind};
use crate::waiters::{QueryEvent, QueryWait};

/// A query without a caller's deadline waits so long.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

impl Server {
    pub async fn query_workflow(
        &self,
        namespace: &Namespace,
        request: QueryWorkflowRequest,
        call: Call,
    ) -> Result<QueryWorkflowResponse, Error> {
        let target = target(namespace, &request.execution)?;
        let condition = request.query_reject_condition();
        let asked = request
            .query
            .ok_or_else(|| Error::invalid("Query is not set on request."))?;
        let deadline = call
            .deadline
            .unwrap_or_else(|| Instant::now() + DEFAULT_WAIT);
        loop {
            let view = self.core.shards.read(target.clone()).await?;
            let pinned = Target {
                run_id: Some(identity(&view.run.id).run_id),
                ..target.clone()
            };
            let result = match query::route(&view.run, condition)? {
                Route::Rejected(status) => {
                    return Ok(QueryWorkflowResponse {
                        query_rejected: Some(QueryRejected {
                            status: status as i32,
                        }),
                        ..Default::default()
                    });
                }
                Route::Direct => {
                    self.dispatch_query(pinned, &view, asked.clone(), deadline)
                        .await?
                }
                Route::Buffered => match self
                    .buffer_query(pinned, &view, asked.clone(), deadline)
                    .await?
                {
                    Some(result) => result,
                    // Released: no workflow task will answer it.
                    None => continue,
                },
            };
            return answered(namespace, &view, result);
        }
    }

    /// Lets the next workflow task answer; `None` when none will.
    async fn buffer_query(
        &self,
        target: Target,
        view: &View,
        asked: WorkflowQuery,
        deadline: Instant,
    ) -> Result<Option<WorkflowQueryResult>, Error> {
        let mut buffered = Buffered {
            core: &self.core,
            target: target.clone(),
            wait: self.core.waiters.wait_for_query(RunNo(view.run.id.no)),
            waits: true,
        };
        let id = buffered.wait.id().to_owned();
        let core = self.core.clone();
        let done = self
            .core
            .shards
            .on_run(target, move |run, cx| {
                match query::route(run, Default::default())? {
                    // A reload since then has sent the one who waits away, to ask again: this query
                    // would only be in the way of the next.
                    Route::Buffered if core.waiters.waits_for_query(&id) => {
                        query::buffer(run, &id, asked, cx).map(|o| o.map(|()| true))
                    }
                    // Or the workflow task has ended meanwhile.
                    _ => Ok(tidemill_engine::Outcome::unchanged(false)),
                }
            })
            .await;
        match done {
            Ok(done) if done.value => {}
            other => {
                buffered.waits = false;
                return other.map(|_| None);
            }
        }
        let event = tokio::time::timeout_at(deadline, buffered.wait.event()).await;
        buffered.waits = event.is_err();
        match event {
            Ok(Some(QueryEvent::Answered(result))) => Ok(Some(result)),
            Ok(Some(QueryEvent::Released)) => Ok(None),
            Ok(Some(QueryEvent::Failed(error))) => Err(error),
            Ok(None) if self.core.stop.has_begun() => Err(stopping()),
            // The run was reloaded, and its queries were lost: asked again.
            Ok(None) => {
                tokio::time::sleep(RELOADED).await;
                Ok(None)
            }
            Err(_) => Err(Error::DeadlineExceeded(
                "query timed out before a worker could process it".into(),
            )),
        }
    }

    /// Asks a worker directly: the one that holds the run first, then any.
    async fn dispatch_query(
        &self,
        target: Target,
        view: &View,
        asked: WorkflowQuery,
        deadline: Instant,
    ) -> Result<WorkflowQueryResult, Error> {
        let run = &view.run;
        let request = QueryRequest {
            owner: identity(&run.id),
            priority: run.priority_key(),
            query: asked,
        };
        let queue = |name: &str| QueueName {
            namespace: run.id.namespace_id,
            name: name.into(),
            kind: WORKFLOW_QUEUE,
        };
        if let Some(sticky) = &run.core.sticky {
            let name = queue(&sticky.queue);
            if self.core.matching.sticky_available(&name) {
                let patience = Instant::now() + Duration::from_nanos(sticky.timeout.max(0) as u64);
                match self
                    .core
                    .matching
                    .dispatch_query(&name, request.clone(), patience.min(deadline))
                    .await
                {
                    Ok(result) => return Ok(result),
                    Err(QueryError::Stopping) => return Err(stopping()),
                    Err(_) => {}
                }
            }
            if run.is_open() {
                let _ = self
                    .core
                    .shards
                    .on_run(target, workflow_task::reset_sticky)
                    .await;
            }
        }
        match self
            .core
            .matching
            .dispatch_query(&queue(run.task_queue()), request, deadline)
            .await
        {
            Ok(result) => Ok(result),
            Err(QueryError::NoPoller) => {
                Err(Error::FailedPrecondition(QueryError::NoPoller.to_string()))
            }
            Err(QueryError::TimedOut) => Err(Error::DeadlineExceeded("query timed out".into())),
            Err(QueryError::Unloaded) => Err(Error::Unavailable(
                "task queue was unloaded, ask again".into(),
            )),
            Err(QueryError::Stopping) => Err(stopping()),
        }
    }

    pub async fn respond_query_task_completed(
        &self,
        _namespace: &Namespace,
        request: RespondQueryTaskCompletedRequest,
        _call: Call,
    ) -> Result<RespondQueryTaskCompletedResponse, Error> {
        let token = TaskToken::decode(&request.task_token)?.expect(TokenKind::Query)?;
        let result = WorkflowQueryResult {
            result_type: request.completed_type,
            answer: request.query_result,
            error_message: request.error_message,
            failure: request.failure,
        };
        let result = within_limits(result, self.core.config.limits.blob_size);
        if self
            .core
            .matching
            .answer_query(QueryId(token.query_id()), result)
        {
            Ok(RespondQueryTaskCompletedResponse {})
        } else {
            Err(Error::not_found("query task not found, or already expired"))
        }
    }
}

/// A query that a run holds for its next workflow task. It is taken back when its caller goes:
/// it would be in the way of others until some worker answers it.
struct Buffered<'a> {
    core: &'a Arc<Core>,
    target: Target,
    wait: QueryWait,
    waits: bool,
}

impl Drop for Buffered<'_> {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let (core, target, id) = (
            self.core.clone(),
            self.target.clone(),
            self.wait.id().to_owned(),
        );
        self.core.runtime.spawn(async move {
            // A run that is gone, or was reloaded, holds no query.
            let _ = core
                .shards
                .on_run(target, move |run, cx| Ok(query::cancel(run, &id, cx)))
                .await;
        });
    }
}

/// An answer that is too large is a failure of its query.
fn within_limits(result: WorkflowQueryResult, most: usize) -> WorkflowQueryResult {
    let size = result
        .answer
        .as_ref()
        .map_or(0, prost::Message::encoded_len);
    if size <= most {
        return result;
    }
    WorkflowQueryResult {
        result_type: QueryResultType::Failed as i32,
        error_message: format!("query result size ({size}) exceeds limit ({most})"),
        ..Default::default()
    }
}

fn answered(
    namespace: &Namespace,
    view: &View,
    result: WorkflowQueryResult,
) -> Result<QueryWorkflowResponse, Error> {
    match result.result_type() {
        QueryResultType::Answered => Ok(QueryWorkflowResponse {
            query_result: result.answer,
            link: Some(Link {
                variant: Some(link::Variant::Workflow(link::Workflow {
                    namespace: namespace.name.clone(),
                    workflow_id: view.run.id.workflow_id.to_string(),
                    run_id: view.run.id.run_id.to_string(),
                    reason: "query".to_owned(),
                })),
            }),
            ..Default::default()
        }),
        QueryResultType::Failed => Err(Error::QueryFailed {
            message: result.error_message,
            failure: result.failure.map(Box::new),
        }),
        QueryResultType::Unspecified => Err(Error::Internal(
            "a worker answered a query without saying how".into(),
        )),
    }
}
