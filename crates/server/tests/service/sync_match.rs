//! Workers that wait get a task in the commit that writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{EventType as E, TaskQueueKind};
use tidemill_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use tidemill_proto::api::workflowservice::v1::*;

use crate::rig::*;

/// Looks at a future once, so that what it asks for is asked for.
fn look<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> Option<F::Output> {
    let mut once = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut once) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// A poll that waits.
fn waiting<F: Future>(poll: F) -> std::pin::Pin<Box<F>> {
    let mut poll = Box::pin(poll);
    assert!(look(&mut poll).is_none(), "nothing is there yet");
    poll
}

/// Counts the commits that write something of a run.
fn count_commits(rig: &Rig) -> Arc<AtomicUsize> {
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = commits.clone();
    rig.store.fail_where(move |commit| {
        counted.fetch_add(usize::from(!commit.runs.is_empty()), Ordering::SeqCst);
        false
    });
    commits
}

/// Three activities, one after the other: the history, the transitions of the run, the commits.
async fn three_activities(rig: &Rig, workers_wait: bool) -> (Vec<E>, i64, usize) {
    let commits = count_commits(rig);
    let mut task = if workers_wait {
        let poll = waiting(rig.poll());
        rig.start("w").await;
        poll.await
    } else {
        rig.start("w").await;
        rig.poll().await
    };
    for id in ["a", "b", "c"] {
        let commands = vec![activity(id)];
        let step = if workers_wait {
            let poll = waiting(rig.poll_activity());
            rig.complete(&task, commands).await.unwrap();
            poll.await
        } else {
            rig.complete(&task, commands).await.unwrap();
            rig.poll_activity().await
        };
        assert_eq!((step.activity_id.as_str(), step.attempt), (id, 1));
        task = if workers_wait {
            let poll = waiting(rig.poll());
            rig.complete_activity(&step).await.unwrap();
            poll.await
        } else {
            rig.complete_activity(&step).await.unwrap();
            rig.poll().await
        };
    }
    rig.complete(&task, vec![finish()]).await.unwrap();
    let described = rig.describe("w").await.unwrap();
    let info = described.workflow_execution_info.unwrap();
    let events = rig.events("w").await;
    (
        events,
        info.state_transition_count,
        commits.load(Ordering::SeqCst),
    )
}

#[tokio::test]
async fn three_activities_are_eight_commits_and_the_same_history() {
    let rig = Rig::memory().await;
    let (history, transitions, commits) = three_activities(&rig, true).await;
    assert_eq!(commits, 8);
    rig.close().await;
    let rig = Rig::memory().await;
    assert_eq!(
        three_activities(&rig, false).await,
        (history, transitions, 15)
    );
    rig.close().await;
}

#[tokio::test]
async fn nothing_is_handed_over_before_it_is_durable() {
    let rig = Rig::memory().await;
    let mut poll = waiting(rig.poll());
    rig.store.hold();
    let mut start = waiting(rig.server.start_workflow_execution(
        &rig.namespace,
        start("w"),
        call(),
    ));
    rig.store.until(|counts| counts.held == 1).await;
    assert!(look(&mut poll).is_none() && look(&mut start).is_none());
    rig.store.recover();
    assert_eq!(poll.await.started_event_id, 3);
    start.await.unwrap();
    rig.close().await;
}

#[tokio::test]
async fn a_poll_outlives_a_commit_that_fails() {
    let rig = Rig::memory().await;
    let mut poll = waiting(rig.poll());
    for _ in 0..3 {
        rig.store.fail();
        let lost = rig
            .server
            .start_workflow_execution(&rig.namespace, start("w"), call())
            .await;
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
        assert!(look(&mut poll).is_none());
        rig.store.recover();
    }
    rig.start("w").await;
    let task = poll.await;
    assert_eq!(task.attempt, 1);
    // So with an activity, whose run is read again from the store.
    let mut poll = waiting(rig.poll_activity());
    rig.store.fail();
    let lost = rig.complete(&task, vec![activity("a")]).await;
    assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
    assert!(look(&mut poll).is_none());
    rig.store.recover();
    rig.complete(&task, vec![activity("a")]).await.unwrap();
    let step = poll.await;
    assert_eq!(step.attempt, 1);
    rig.complete_activity(&step).await.unwrap();
    rig.work(vec![finish()]).await;
    rig.close().await;
}

#[tokio::test]
async fn a_task_whose_poll_goes_while_it_starts_comes_again_after_its_timeout() {
    let rig = Rig::memory().await;
    let poll = waiting(rig.poll());
    let mut request = start("w");
    request.workflow_task_timeout = millis(1_000);
    rig.store.hold();
    let start = waiting(
        rig.server
            .start_workflow_execution(&rig.namespace, request, call()),
    );
    rig.store.until(|counts| counts.held == 1).await;
    drop(poll);
    rig.store.recover();
    start.await.unwrap();
    assert_eq!(rig.poll().await.attempt, 2);
    assert!(rig.events("w").await.contains(&E::WorkflowTaskTimedOut));
    rig.close().await;
}

#[tokio::test]
async fn several_activities_of_one_task_start_at_once_as_far_as_workers_wait() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    let task = rig.poll().await;
    let polls = [waiting(rig.poll_activity()), waiting(rig.poll_activity())];
    let commits = count_commits(&rig);
    let commands = ["a", "b", "c"].map(activity).to_vec();
    rig.complete(&task, commands).await.unwrap();
    let mut started = Vec::new();
    for poll in polls {
        started.push(poll.await);
    }
    assert_eq!(commits.load(Ordering::SeqCst), 1);
    started.push(rig.poll_activity().await);
    let ids: Vec<_> = started.iter().map(|s| s.activity_id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    for step in &started {
        rig.complete_activity(step).await.unwrap();
    }
    rig.work(vec![finish()]).await;
    rig.close().await;
}

#[tokio::test]
async fn a_worker_that_has_the_run_gets_only_what_is_new() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    let task = rig.poll().await;
    let own = TaskQueue {
        name: "sticky".into(),
        kind: TaskQueueKind::Sticky as i32,
        normal_name: QUEUE.into(),
    };
    let poll = |queue: TaskQueue| {
        let request = PollWorkflowTaskQueueRequest {
            task_queue: Some(queue),
            ..Default::default()
        };
        rig.server
            .poll_workflow_task_queue(&rig.namespace, request, call())
    };
    let sticky = waiting(poll(own.clone()));
    let mut request = completion(&task, Vec::new());
    request.sticky_attributes = Some(StickyExecutionAttributes {
        worker_task_queue: Some(own),
        schedule_to_start_timeout: millis(10_000),
    });
    rig.respond(request).await.unwrap();
    rig.signal("w", "s").await.unwrap();
    let task = sticky.await.unwrap().decoded().unwrap();
    let first = task.history.as_ref().unwrap().events[0].event_type();
    assert_eq!(first, E::WorkflowTaskCompleted);
    assert_eq!(task.previous_started_event_id, 3);
    rig.complete(&task, vec![finish()]).await.unwrap();
    rig.close().await;
}

/// It would drop what comes after it has left.
#[tokio::test]
async fn a_worker_that_leaves_is_answered_after_the_task_that_is_on_its_way() {
    let rig = Rig::memory().await;
    let poll = PollWorkflowTaskQueueRequest {
        task_queue: Some(task_queue(QUEUE)),
        worker_instance_key: "worker".into(),
        ..Default::default()
    };
    let (server, namespace) = (&rig.server, &rig.namespace);
    let task = {
        let mut poll = waiting(server.poll_workflow_task_queue(namespace, poll, call()));
        rig.store.hold();
        let started = waiting(server.start_workflow_execution(namespace, start("w"), call()));
        rig.store.until(|counts| counts.held == 1).await;
        let leave = ShutdownWorkerRequest {
            worker_instance_key: "worker".into(),
            ..Default::default()
        };
        let mut leave = waiting(server.shutdown_worker(namespace, leave, call_for(PATIENCE)));
        rig.store.recover();
        let task = tokio::select! {
            biased;
            _ = &mut leave => panic!("it has left, and its task is on the way"),
            task = &mut poll => task.unwrap().decoded().unwrap(),
        };
        leave.await.unwrap();
        started.await.unwrap();
        task
    };
    rig.complete(&task, vec![finish()]).await.unwrap();
    rig.close().await;
}
