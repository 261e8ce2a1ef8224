//! A server that stops: nobody is kept waiting, nothing acknowledged is lost, nothing stays behind.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{
    ParentClosePolicy, UpdateWorkflowExecutionLifecycleStage as Stage,
    WorkflowExecutionStatus as Status,
};
use tidemill_proto::api::workflowservice::v1::*;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_wait_are_answered() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    rig.start("queried").await;
    let held = rig.poll().await;
    rig.work(Vec::new()).await;
    let waited_for = held
        .workflow_execution
        .as_ref()
        .unwrap()
        .workflow_id
        .clone();
    let other = if waited_for == "w" { "queried" } else { "w" };
    let watch = GetWorkflowExecutionHistoryRequest {
        execution: execution(&waited_for),
        wait_new_event: true,
        history_event_filter_type: 2,
        ..Default::default()
    };
    let activities = PollActivityTaskQueueRequest {
        task_queue: Some(task_queue(QUEUE)),
        ..Default::default()
    };
    let (server, namespace) = (&rig.server, &rig.namespace);
    let waiting = async {
        tokio::join!(
            rig.poll_at("another", call()),
            server.poll_activity_task_queue(namespace, activities, call()),
            server.get_workflow_execution_history(namespace, watch, call()),
            rig.update(&waited_for, "u", Stage::Completed),
            rig.query(&waited_for),
            rig.query(other),
        )
    };
    let stop = async {
        // They have asked by now; how far each has come must not matter.
        rig.shard_is_here("w").await;
        rig.server.shutdown().await;
    };
    let ((task, step, history, updated, buffered, direct), ()) = tokio::join!(waiting, stop);
    assert!(task.unwrap().task_token.is_empty());
    assert!(step.unwrap().task_token.is_empty());
    // What there is, or that it should ask again.
    match history {
        Ok(history) => assert!(!history.answer.next_page_token.is_empty()),
        Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
    }
    assert!(matches!(updated, Err(Error::Unavailable(_))), "{updated:?}");
    for answer in [buffered, direct] {
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    }
    // Those who come later.
    assert!(
        rig.poll_at(QUEUE, call())
            .await
            .unwrap()
            .task_token
            .is_empty()
    );
    let late = rig.complete(&held, vec![finish()]).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_stored_and_acknowledged() {
    let rig = Rig::file().await;
    rig.store.hold();
    let start = rig
        .server
        .start_workflow_execution(&rig.namespace, start("w"), call());
    let stop = async {
        rig.store.until(|counts| counts.held == 1).await;
        // Polled after the shutdown, which has begun then.
        let release = async { rig.store.recover() };
        tokio::join!(rig.server.shutdown(), release);
        assert_eq!(rig.store.counts().held, 0);
    };
    let (started, ()) = tokio::join!(start, stop);
    started.unwrap();
    let rig = rig.restart().await;
    assert_eq!(rig.status("w").await, Status::Running);
    rig.work(vec![finish()]).await;
    rig.close().await;
}

/// Effects that cannot be carried out, a rate limit that lets nothing through, a wake-up that is to
/// be tried again: none of them keeps the server, and with it the data file, open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_behind() {
    let rig = Rig::file().await;
    rig.start("w").await;
    let task = rig.poll().await;
    rig.store
        .fail_where(|commit| commit.runs.iter().any(|run| run.outbox_added.is_empty()));
    let commands = vec![
        child("child", ParentClosePolicy::Abandon),
        timer("t", 1),
        activity("a"),
    ];
    rig.complete(&task, commands).await.unwrap();
    rig.store.until(|counts| counts.failed >= 2).await;
    let rig = rig.restart().await;
    let limited = PollActivityTaskQueueRequest {
        task_queue: Some(task_queue("limited")),
        task_queue_metadata: Some(tidemill_proto::api::taskqueue::v1::TaskQueueMetadata {
            max_tasks_per_second: Some(0.001),
        }),
        ..Default::default()
    };
    let poll = rig.server.poll_activity_task_queue(
        &rig.namespace,
        limited,
        call_for(Duration::from_millis(50)),
    );
    poll.await.unwrap();
    rig.close().await;
}
