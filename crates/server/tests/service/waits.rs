//! Callers that wait: they are told, they go away, their run is reloaded.

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{
    EventType as E, QueryResultType, UpdateWorkflowExecutionLifecycleStage as Stage,
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

/// The poll is dropped before the shard has begun with the task: the task does not start. On one
/// thread, the shard begins only when we wait.
#[tokio::test]
async fn a_task_does_not_start_for_one_who_has_gone() {
    let rig = Rig::memory().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_is_sent_again_after_a_reload() {
    let rig = Rig::memory().await;
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
    let (updated, ()) = tokio::join!(rig.update("w", "u", Stage::Completed), work);
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
    let rig = Rig::memory().await;
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
        let updated = rig.update("w", "u", Stage::Accepted).await;
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
    let rig = Rig::memory().await;
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

/// On one thread, where all that is ready has its turn while we wait for the shard.
#[tokio::test]
async fn a_query_whose_caller_has_gone_is_in_nobody_s_way() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    // A run holds one query; each of these goes before it is answered.
    for _ in 0..5 {
        let mut query = Box::pin(rig.query("w"));
        tokio::select! {
            biased;
            answer = &mut query => panic!("it has no answer, nor is it refused: {answer:?}"),
            () = turns(&rig) => {}
        }
        drop(query);
        turns(&rig).await;
    }
    let work = async {
        let task = task_with_query(&rig).await;
        assert_eq!(task.queries.len(), 1);
        rig.respond(answering(&task)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(rig.query("w"), work);
    answer.unwrap();
    rig.close().await;
}

/// Whoever is ready asks the shard in the first turn and is answered in one of the next.
async fn turns(rig: &Rig) {
    for _ in 0..3 {
        rig.shard_is_here("w").await;
    }
}

/// On one thread: the shard learns of the failure after the query has begun to wait and before it
/// is with the run.
#[tokio::test]
async fn a_query_that_meets_a_reload_leaves_nothing_behind() {
    let rig = Rig::told_by_a_thread().await;
    rig.start("w").await;
    rig.store.hold();
    let mut lost = Box::pin(rig.server.start_workflow_execution(
        &rig.namespace,
        start("lost"),
        call(),
    ));
    let mut query = Box::pin(rig.query("w"));
    let mut look = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(lost.as_mut().poll(&mut look).is_pending());
    // Its first question is of the run as it is, and is answered when others have had their turn.
    assert!(query.as_mut().poll(&mut look).is_pending());
    rig.store.until(|counts| counts.held == 1).await;
    rig.shard_is_here("w").await;
    rig.store.fail();
    // Not a turn for the shard: it has not heard of the failure when the query goes on.
    let failed = loop {
        let answer = tokio::task::coop::unconstrained(lost.as_mut());
        match std::pin::pin!(answer).poll(&mut look) {
            std::task::Poll::Ready(answer) => break answer,
            std::task::Poll::Pending => std::thread::yield_now(),
        }
    };
    assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
    rig.store.recover();
    assert!(query.as_mut().poll(&mut look).is_pending());
    let work = async {
        let task = task_with_query(&rig).await;
        assert_eq!(task.queries.len(), 1);
        rig.respond(answering(&task)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(query, work);
    answer.unwrap();
    drop(lost);
    rig.close().await;
}
