//! Queries in a worker's hands: they ask how many signals the workflow has had.

use std::collections::HashMap;
use std::time::Duration;

use tidemill_proto::api::enums::v1::QueryResultType;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::api::query::v1::WorkflowQueryResult;
use tidemill_proto::api::workflowservice::v1::*;

use crate::clients::{call_for, text};
use crate::life::Link;

fn answer_from(events: &[HistoryEvent]) -> String {
    let signals = events.iter().filter(|event| {
        matches!(
            event.attributes,
            Some(E::WorkflowExecutionSignaledEventAttributes(_))
        )
    });
    signals.count().to_string()
}

/// Queries that came with a workflow task.
pub(super) fn results(
    task: &PollWorkflowTaskQueueResponse,
    events: &[HistoryEvent],
) -> HashMap<String, WorkflowQueryResult> {
    let result = WorkflowQueryResult {
        result_type: QueryResultType::Answered as i32,
        answer: text(answer_from(events)),
        ..Default::default()
    };
    let ids = task.queries.keys().cloned();
    ids.map(|id| (id, result.clone())).collect()
}

/// A query that came alone.
pub(super) async fn answer(
    link: &Link,
    task: &PollWorkflowTaskQueueResponse,
    events: &[HistoryEvent],
) {
    let request = RespondQueryTaskCompletedRequest {
        task_token: task.task_token.clone(),
        completed_type: QueryResultType::Answered as i32,
        query_result: text(answer_from(events)),
        ..Default::default()
    };
    link.world.dawdle(100).await;
    let answered = link.server.respond_query_task_completed(
        &link.namespace,
        request,
        call_for(Duration::from_secs(5)),
    );
    link.note("answered a query", &answered.await, |_| "ok".into());
}
