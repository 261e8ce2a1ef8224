//! Callers that wait: they are told, they go away, their time runs out, their run is reloaded.

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{
    EventType as E, HistoryEventFilterType, QueryResultType,
    UpdateWorkflowExecutionLifecycleStage as Stage, WorkflowExecutionStatus as Status,
};
use tidemill_proto::api::query::v1::WorkflowQueryResult;
use tidemill_proto::api::update::v1::{UpdateRef, WaitPolicy};
use tidemill_proto::api::workflowservice::v1::*;

use crate::rig::*;

/// Lets a commit of another run fail, so that the shard reloads what it holds.
async fn reload(rig: &Rig) {
    rig.store.fail();
    let started = rig
        .server
        .start_workflow_execution(&rig.namespace, start("lost"), call())
        .await;
    assert!(matches!(started, Err(Error::Unavailable(_))), "{started:?}");
    rig.store.recover();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_that_are_dropped_lose_no_task() {
    const RUNS: usize = 100;
    let rig = Arc::new(Rig::new(Backend::Memory).await);
    // Polls that vanish before, while and after they are given something.
    let vanishing = rig.clone();
    let vanish = tokio::spawn(async move {
        for n in 0_u64.. {
            let mut poll = std::pin::pin!(vanishing.poll_at(QUEUE, call()));
            let look = Duration::from_micros(n * 37 % 400);
            let _ = tokio::time::timeout(look, &mut poll).await;
        }
    });
    for n in 0..RUNS {
        let mut request = start(&format!("w{n}"));
        // A task that went to one who had gone comes again when this is over.
        request.workflow_task_timeout = millis(1_000);
        rig.server
            .start_workflow_execution(&rig.namespace, request, call())
            .await
            .unwrap();
    }
    vanish.abort();
    assert!(vanish.await.unwrap_err().is_cancelled());
    for _ in 0..RUNS {
        rig.work(vec![finish()]).await;
    }
    for n in 0..RUNS {
        assert_eq!(rig.status(&format!("w{n}")).await, Status::Completed);
    }
}

/// The poll is dropped before the shard has begun with the task: the task does not start. On one
/// thread, the shard begins only when we wait.
#[tokio::test]
async fn a_task_does_not_start_for_one_who_has_gone() {
    let rig = Rig::new(Backend::Memory).await;
    rig.start("w").await;
    for _ in 0..3 {
        // One look: the task is matched, and the request to start it is with the shard.
        let mut poll = Box::pin(rig.poll_at(QUEUE, call()));
        let mut once = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(poll.as_mut().poll(&mut once).is_pending());
    }
    let task = rig.work(vec![finish()]).await;
    assert_eq!(task.attempt, 1);
    assert_eq!(rig.events("w").await.len(), 5);
    rig.close().await;
}

on_each_store!(
    long_polls_end_empty_before_their_caller_does,
    async |rig: Rig| {
        let time = Duration::from_millis(400);
        let task = rig.poll_at(QUEUE, call_for(time)).await.unwrap();
        assert_eq!(task, PollWorkflowTaskQueueResponse::default());
        rig.start("w").await;
        let mut request = GetWorkflowExecutionHistoryRequest {
            execution: execution("w"),
            wait_new_event: true,
            ..Default::default()
        };
        let history = |request: GetWorkflowExecutionHistoryRequest| {
            let read =
                rig.server
                    .get_workflow_execution_history(&rig.namespace, request, call_for(time));
            async { read.await.unwrap() }
        };
        let first = history(request.clone()).await;
        assert_eq!(first.history.unwrap().events.len(), 2);
        request.next_page_token = first.next_page_token;
        let second = history(request.clone()).await;
        assert!(second.history.unwrap().events.is_empty());
        assert!(!second.next_page_token.is_empty());
        let close = GetWorkflowExecutionHistoryRequest {
            history_event_filter_type: HistoryEventFilterType::CloseEvent as i32,
            next_page_token: Vec::new(),
            ..request
        };
        let third = history(close).await;
        assert!(third.history.unwrap().events.is_empty());
        assert!(!third.next_page_token.is_empty());
        let updated = rig.update("w", "u", call_for(time)).await.unwrap();
        assert_eq!(updated.stage(), Stage::Admitted);
        assert!(updated.outcome.is_none());
        rig.close().await;
    }
);

on_each_store!(who_waits_for_history_is_told, async |rig: Rig| {
    rig.start("w").await;
    let (seen, _) = tokio::join!(
        rig.until_event("w", E::WorkflowExecutionCompleted),
        rig.work(vec![finish()])
    );
    assert_eq!(seen.len(), 5);
    rig.close().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_is_sent_again_after_a_reload() {
    let rig = Rig::new(Backend::Memory).await;
    rig.start("w").await;
    rig.work(vec![]).await;
    let work = async {
        // The update's own workflow task is in memory only.
        let lost = rig.poll().await;
        assert_eq!(lost.messages.len(), 1);
        reload(&rig).await;
        let late = rig.respond(with_update_done(&lost)).await;
        assert!(late.is_err(), "{late:?}");
        let task = rig.poll().await;
        rig.respond(with_update_done(&task)).await.unwrap();
    };
    let (updated, ()) = tokio::join!(rig.update("w", "u", call()), work);
    assert_eq!(updated.unwrap().stage(), Stage::Completed);
    let accepted = rig.events("w").await;
    let accepted = accepted
        .iter()
        .filter(|kind| **kind == E::WorkflowExecutionUpdateAccepted);
    assert_eq!(accepted.count(), 1);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_after_an_accepted_update_waits_on_after_a_reload() {
    let rig = Rig::new(Backend::Memory).await;
    rig.start("w").await;
    rig.work(vec![]).await;
    let work = async {
        let task = rig.poll().await;
        let mut accepted = with_update_done(&task);
        accepted.messages.truncate(1);
        accepted.commands.truncate(1);
        rig.respond(accepted).await.unwrap();
        task
    };
    let accepted = async {
        // As long as it takes to be accepted; the outcome is asked for below.
        let updated = rig.update("w", "u", call_for(Duration::from_secs(2))).await;
        assert_eq!(updated.unwrap().stage(), Stage::Accepted);
    };
    let (task, ()) = tokio::join!(work, accepted);
    let request = PollWorkflowExecutionUpdateRequest {
        update_ref: Some(UpdateRef {
            workflow_execution: execution("w"),
            update_id: "u".into(),
        }),
        wait_policy: Some(WaitPolicy {
            lifecycle_stage: Stage::Completed as i32,
        }),
        ..Default::default()
    };
    let ask = rig
        .server
        .poll_workflow_execution_update(&rig.namespace, request, call());
    let work = async {
        // Once that waits (or before: it must not matter).
        tokio::task::yield_now().await;
        reload(&rig).await;
        rig.signal("w", "go").await.unwrap();
        let next = rig.poll().await;
        let mut done = with_update_done(&PollWorkflowTaskQueueResponse {
            task_token: next.task_token.clone(),
            messages: task.messages.clone(),
            ..Default::default()
        });
        done.messages.remove(0);
        done.commands.remove(0);
        rig.respond(done).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(ask, work);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.stage(), Stage::Completed);
    assert!(outcome.outcome.is_some());
    rig.close().await;
}

/// The answer to the only query of a workflow task.
fn answering(task: &PollWorkflowTaskQueueResponse) -> RespondWorkflowTaskCompletedRequest {
    let mut completion = completion(task, Vec::new());
    for id in task.queries.keys() {
        let answer = WorkflowQueryResult {
            result_type: QueryResultType::Answered as i32,
            answer: Some(Default::default()),
            ..Default::default()
        };
        completion.query_results.insert(id.clone(), answer);
    }
    completion
}

/// Polls until the workflow task carries a query, which is so when the query was there first.
async fn task_with_query(rig: &Rig) -> PollWorkflowTaskQueueResponse {
    loop {
        let task = rig.poll().await;
        if !task.queries.is_empty() {
            return task;
        }
        let mut again = completion(&task, Vec::new());
        again.force_create_new_workflow_task = true;
        rig.respond(again).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_asked_again_after_a_reload() {
    let rig = Rig::new(Backend::Memory).await;
    rig.start("w").await;
    let work = async {
        let held = task_with_query(&rig).await;
        reload(&rig).await;
        // The worker's answer comes to a server that has forgotten the question.
        rig.respond(answering(&held)).await.unwrap();
        // It was asked again: of a run without a workflow task, straight of a worker.
        let asked = rig.poll().await;
        assert!(asked.query.is_some());
        let request = RespondQueryTaskCompletedRequest {
            task_token: asked.task_token,
            completed_type: QueryResultType::Answered as i32,
            ..Default::default()
        };
        rig.server
            .respond_query_task_completed(&rig.namespace, request, call())
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(rig.query("w"), work);
    answer.unwrap();
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_whose_caller_has_gone_is_in_nobody_s_way() {
    let rig = Rig::new(Backend::Memory).await;
    rig.start("w").await;
    // A run holds one query; each of these goes before it is answered.
    let ask = async || {
        loop {
            match rig.query("w").await {
                // What the one before left is being taken away.
                Err(Error::ResourceExhausted { .. }) => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    };
    for _ in 0..5 {
        let given_up = tokio::time::timeout(Duration::from_millis(20), ask()).await;
        assert!(given_up.is_err(), "{given_up:?}");
    }
    let work = async {
        let task = task_with_query(&rig).await;
        assert_eq!(task.queries.len(), 1);
        rig.respond(answering(&task)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(), work);
    answer.unwrap();
    rig.close().await;
}
