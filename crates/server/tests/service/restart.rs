//! A server that starts over the data of one that stopped, or was lost, goes on where that was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemill_proto::api::enums::v1::{
    EventType as E, ParentClosePolicy, WorkflowExecutionStatus as Status,
};
use tidemill_proto::api::taskqueue::v1::StickyExecutionAttributes;
use tidemill_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_fire_also_those_that_became_due_meanwhile() {
    let rig = Rig::file().await;
    for (id, ms) in [("past", 100), ("future", 1_500)] {
        rig.start(id).await;
        rig.work(vec![timer("t", ms)]).await;
    }
    let scheduled = std::time::Instant::now();
    let (folder, config) = rig.close().await;
    // The first one's time passes while nobody is there.
    tokio::time::sleep(Duration::from_millis(150).saturating_sub(scheduled.elapsed())).await;
    let rig = Rig::open(folder, config).await;
    for id in ["past", "future"] {
        rig.until_event(id, E::TimerFired).await;
        let task = rig.work(vec![finish()]).await;
        assert_eq!(task.workflow_execution.unwrap().workflow_id, id);
    }
    rig.close().await;
}

/// The server is lost right after it has stored that effects are wanted, before any is carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_on_other_runs_are_carried_out() {
    let rig = Rig::file().await;
    rig.start("target").await;
    rig.work(Vec::new()).await;
    rig.start("parent").await;
    let task = rig.poll().await;
    let lost = Arc::new(AtomicBool::new(false));
    let seen = lost.clone();
    rig.store.fail_where(move |commit| {
        let wanted = commit.runs.iter().any(|run| !run.outbox_added.is_empty());
        seen.fetch_or(wanted, Ordering::SeqCst)
    });
    let commands = vec![
        child("child", ParentClosePolicy::Abandon),
        signal_external("target", "hello"),
    ];
    rig.complete(&task, commands).await.unwrap();
    rig.store.until(|counts| counts.failed > 0).await;
    let rig = rig.restart().await;
    rig.until_event("parent", E::ChildWorkflowExecutionStarted)
        .await;
    rig.until_event("parent", E::ExternalWorkflowExecutionSignaled)
        .await;
    rig.until_event("target", E::WorkflowExecutionSignaled)
        .await;
    while rig.status("child").await == Status::Running {
        let task = rig.poll().await;
        let commands = match &*task.workflow_execution.as_ref().unwrap().workflow_id {
            "child" => vec![finish()],
            _ => Vec::new(),
        };
        rig.complete(&task, commands).await.unwrap();
    }
    rig.until_event("parent", E::ChildWorkflowExecutionCompleted)
        .await;
    for (id, kind) in [
        ("parent", E::ChildWorkflowExecutionStarted),
        ("target", E::WorkflowExecutionSignaled),
    ] {
        let events = rig.events(id).await;
        assert_eq!(
            events.iter().filter(|k| **k == kind).count(),
            1,
            "{events:?}"
        );
    }
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_loss() {
    let rig = Rig::file().await;
    for n in 0..20 {
        rig.start(&format!("w{n}")).await;
    }
    rig.work(vec![finish()]).await;
    let mut before = Vec::new();
    for n in 0..20 {
        before.push(rig.history(&format!("w{n}")).await);
    }
    rig.store.fail();
    // In memory these are; nowhere else.
    for n in 0..20 {
        assert!(rig.signal(&format!("w{n}"), "lost").await.is_err());
    }
    let rig = rig.restart().await;
    assert_eq!(rig.listed().await, 20);
    for (n, before) in before.iter().enumerate() {
        assert_eq!(&rig.history(&format!("w{n}")).await, before);
    }
    for _ in 0..19 {
        rig.work(vec![finish()]).await;
    }
    assert!(rig.is_quiet().await);
    rig.close().await;
}

/// A panic while wake-up times are read is not the end of all timers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_fire_although_their_reader_panicked() {
    let rig = Rig::file().await;
    rig.start("w").await;
    rig.work(vec![timer("t", 300)]).await;
    let (folder, config) = rig.close().await;
    let rig = Rig::open_with(folder, config, |store| {
        store.panics.store(true, Ordering::SeqCst);
    })
    .await;
    rig.work(vec![finish()]).await;
    rig.close().await;
}

/// A worker with the run in its cache is there when its next task is scheduled, and gone when the
/// server starts again: the task does not wait for it until the timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_a_sticky_queue_goes_to_another_worker_when_its_own_does_not_come_back() {
    let rig = Rig::file().await;
    rig.start("w").await;
    let task = rig.poll().await;
    let poll = rig.poll_at("sticky", call_for(Duration::from_millis(200)));
    assert!(poll.await.expect("the poll is good").task_token.is_empty());
    let sticky = StickyExecutionAttributes {
        worker_task_queue: Some(task_queue("sticky")),
        schedule_to_start_timeout: millis(30_000),
    };
    let request = RespondWorkflowTaskCompletedRequest {
        sticky_attributes: Some(sticky),
        ..completion(&task, Vec::new())
    };
    rig.respond(request).await.expect("it completes");
    rig.signal("w", "next").await.expect("it runs");
    assert!(rig.is_quiet().await, "the task waits for its worker");
    let rig = rig.restart().await;
    rig.work(vec![finish()]).await;
    let events = rig.events("w").await;
    assert!(!events.contains(&E::WorkflowTaskTimedOut), "{events:?}");
    rig.close().await;
}
