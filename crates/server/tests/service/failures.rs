//! A store that fails: callers are told to come again, nothing of what failed is ever seen, and
//! when the store is well again all runs go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{
    EventType as E, ParentClosePolicy, UpdateWorkflowExecutionLifecycleStage as UpdateStage,
    WorkflowExecutionStatus as Status,
};
use tidemill_proto::api::taskqueue::v1::StickyExecutionAttributes;
use tidemill_server::namespaces::Registration;
use tidemill_store::{Commit, RunNo};

use crate::rig::*;

fn is_unavailable<T>(answer: &Result<T, Error>) -> bool {
    // The frontend makes UNAVAILABLE of it; the text must not blame a shutdown.
    matches!(answer, Err(Error::Unavailable(text)) if !text.contains("stopping"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_not_stored_never_was() {
    let rig = Rig::memory().await;
    rig.store.fail();
    let request = start("w");
    let started = rig
        .server
        .start_workflow_execution(&rig.namespace, request.clone(), call())
        .await;
    assert!(is_unavailable(&started), "{started:?}");
    let described = rig.describe("w").await;
    assert!(
        matches!(described, Err(Error::NotFound(_))),
        "{described:?}"
    );
    assert_eq!(rig.listed().await, 0);
    assert!(rig.is_quiet().await);
    rig.store.recover();
    let started = rig
        .server
        .start_workflow_execution(&rig.namespace, request, call())
        .await
        .unwrap();
    assert!(started.started);
    rig.work(vec![finish()]).await;
    assert_eq!(rig.status("w").await, Status::Completed);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_is_not_stored_can_be_sent_again() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    let task = rig.poll().await;
    rig.store.fail();
    for _ in 0..3 {
        let answer = rig.complete(&task, vec![activity("a")]).await;
        assert!(is_unavailable(&answer), "{answer:?}");
        assert_eq!(rig.events("w").await.len(), 3);
    }
    rig.store.recover();
    rig.complete(&task, vec![activity("a")]).await.unwrap();
    let step = rig.poll_activity().await;
    rig.complete_activity(&step).await.unwrap();
    rig.work(vec![finish()]).await;
    let events = rig.events("w").await;
    assert_eq!(
        events
            .iter()
            .filter(|kind| **kind == E::ActivityTaskScheduled)
            .count(),
        1
    );
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_handed_out_once_the_store_is_well() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    rig.store.fail();
    let recover = async {
        // The poll has tried to start the task, and tries again.
        rig.store.until(|counts| counts.failed >= 3).await;
        rig.store.recover();
    };
    let (task, ()) = tokio::join!(rig.poll(), recover);
    assert_eq!(task.attempt, 1);
    rig.complete(&task, vec![activity("a")]).await.unwrap();
    rig.store.fail();
    let failed = rig.store.counts().failed;
    let recover = async {
        rig.store.until(|counts| counts.failed >= failed + 3).await;
        rig.store.recover();
    };
    let (step, ()) = tokio::join!(rig.poll_activity(), recover);
    assert_eq!(step.attempt, 1);
    rig.complete_activity(&step).await.unwrap();
    rig.work(vec![finish()]).await;
    rig.close().await;
}

/// A read may meet the shard between the failure of a commit and the moment it learns of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_shows_what_was_not_stored() {
    let rig = Arc::new(Rig::memory().await);
    rig.start("w").await;
    rig.store.fail();
    let reader = rig.clone();
    let reads = tokio::spawn(async move {
        for _ in 0..5_000 {
            match reader.describe("w").await {
                Ok(described) => {
                    let info = described.workflow_execution_info.unwrap();
                    assert_eq!(info.history_length, 2, "what was not stored was shown");
                }
                Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
            }
        }
    });
    while !reads.is_finished() {
        let sent = rig.signal("w", "lost").await;
        assert!(is_unavailable(&sent), "{sent:?}");
    }
    reads.await.unwrap();
    rig.store.recover();
    rig.signal("w", "kept").await.unwrap();
    assert_eq!(rig.events("w").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_up_whose_commit_failed_comes_again() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    let task = rig.poll().await;
    rig.complete(&task, vec![timer("t", 300)]).await.unwrap();
    rig.store.fail();
    rig.store.until(|counts| counts.failed >= 2).await;
    assert!(!rig.events("w").await.contains(&E::TimerFired));
    rig.store.recover();
    rig.until_event("w", E::TimerFired).await;
    rig.work(vec![finish()]).await;
    rig.close().await;
}

/// The wake-up finds nothing to do, because a change that moved the deadline is under way; then
/// that change is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_up_that_met_a_lost_change_comes_again() {
    let rig = Rig::memory().await;
    let mut request = start("w");
    request.workflow_task_timeout = millis(1_000);
    rig.server
        .start_workflow_execution(&rig.namespace, request, call())
        .await
        .unwrap();
    let task = rig.poll().await;
    rig.store.hold();
    // In memory the task is done; in the store it runs out of time.
    let answer = rig.complete(&task, vec![finish()]);
    let lose = async {
        rig.store.until(|counts| counts.held == 1).await;
        // Time passes, and nobody says so. The wake-up finds a task that is done.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        rig.store.fail();
        rig.store.until(|counts| counts.failed >= 1).await;
        rig.store.recover();
    };
    let (answer, ()) = tokio::join!(answer, lose);
    assert!(is_unavailable(&answer), "{answer:?}");
    rig.until_event("w", E::WorkflowTaskTimedOut).await;
    rig.work(vec![finish()]).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_not_stored_can_be_made_again() {
    let rig = Rig::memory().await;
    let registration = Registration {
        name: "another".into(),
        retention: RETENTION,
        ..Default::default()
    };
    rig.store.fail();
    for _ in 0..2 {
        let made = rig.server.namespaces().register(registration.clone()).await;
        assert!(is_unavailable(&made), "{made:?}");
        assert!(rig.server.namespaces().by_name("another").is_err());
    }
    rig.store.recover();
    rig.server
        .namespaces()
        .register(registration)
        .await
        .unwrap();
    // Others go on, too.
    rig.start("w").await;
    rig.work(vec![finish()]).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_whose_maker_has_gone_is_there_once_it_is_stored() {
    let rig = Rig::memory().await;
    let registration = |name: &str| Registration {
        name: name.into(),
        retention: RETENTION,
        ..Default::default()
    };
    rig.store.hold();
    {
        let mut make = std::pin::pin!(rig.server.namespaces().register(registration("another")));
        tokio::select! {
            _ = &mut make => panic!("acknowledged too early"),
            () = rig.store.until(|counts| counts.held == 1) => {}
        }
    }
    assert!(rig.server.namespaces().by_name("another").is_err());
    rig.store.recover();
    // The next change waits for it.
    rig.server
        .namespaces()
        .register(registration("third"))
        .await
        .unwrap();
    rig.server.namespaces().by_name("another").unwrap();
    rig.close().await;
}

/// Each commit that carries out an effect fails a few times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_on_other_runs_survive_failures() {
    let rig = Rig::memory().await;
    rig.start("target").await;
    rig.work(Vec::new()).await;
    rig.start("parent").await;
    let task = rig.poll().await;
    let failures = std::sync::atomic::AtomicU64::new(0);
    rig.store.fail_where(move |commit| {
        let effect = commit
            .runs
            .iter()
            .any(|run| !run.outbox_removed.is_empty() || !run.outbox_added.is_empty());
        // Two of three attempts fail.
        effect && failures.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 3 != 2
    });
    while let Err(error) = rig
        .complete(
            &task,
            vec![
                child("child", ParentClosePolicy::Terminate),
                signal_external("target", "hello"),
            ],
        )
        .await
    {
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
    }
    rig.until_event("parent", E::ChildWorkflowExecutionStarted)
        .await;
    rig.until_event("parent", E::ExternalWorkflowExecutionSignaled)
        .await;
    while rig.status("parent").await == Status::Running {
        let task = rig.poll().await;
        let commands = match &*task.workflow_execution.as_ref().unwrap().workflow_id {
            "parent" => vec![finish()],
            _ => Vec::new(),
        };
        while let Err(error) = rig.complete(&task, commands.clone()).await {
            assert!(matches!(error, Error::Unavailable(_)), "{error}");
        }
    }
    rig.until_event("child", E::WorkflowExecutionTerminated)
        .await;
    // Entries without a result are removed by a commit of their own, which fails like the others.
    rig.store
        .until_stored(|store| store.read_outbox((RunNo(0), 0), 10).unwrap().is_empty())
        .await;
    assert!(rig.store.counts().failed >= 6);
    let signals = rig
        .events("target")
        .await
        .iter()
        .filter(|kind| **kind == E::WorkflowExecutionSignaled)
        .count();
    assert_eq!(signals, 1);
    rig.close().await;
}

/// A panic of the store is a failure like others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_is_tried_again() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    rig.store.fail_where(|_| panic!("as the test asked"));
    let sent = rig.signal("w", "lost").await;
    assert!(is_unavailable(&sent), "{sent:?}");
    rig.store.recover();
    rig.signal("w", "kept").await.unwrap();
    rig.work(vec![finish()]).await;
    assert_eq!(rig.events("w").await.len(), 6);
    rig.close().await;
}

/// A rig with a run whose sticky queue nobody polls, so that each of its workflow tasks times out at once, over a
/// store that fails when it should say so.
async fn with_a_time_out_that_fails() -> Rig {
    let rig = Rig::memory().await;
    rig.start("w").await;
    let task = rig.poll().await;
    let mut idle = completion(&task, Vec::new());
    idle.sticky_attributes = Some(StickyExecutionAttributes {
        worker_task_queue: Some(task_queue("sticky")),
        schedule_to_start_timeout: millis(1),
    });
    rig.respond(idle).await.unwrap();
    rig
}

/// Waits for some attempts: two at once, then one each 100 ms and one each 250 ms at most.
async fn attempts_are_apart(rig: &Rig) {
    const ATTEMPTS: u64 = 6;
    const LEAST: Duration = Duration::from_millis(200);
    let begun = Instant::now();
    rig.store.until(|counts| counts.failed >= ATTEMPTS).await;
    let took = begun.elapsed();
    assert!(took >= LEAST, "{ATTEMPTS} attempts in {took:?}");
    rig.store.recover();
}

fn adds_events(commit: &Commit) -> bool {
    commit.runs.iter().any(|run| !run.history.is_empty())
}

/// An update that nobody accepted is lost with the run's memory, and admitted again for as long as its caller
/// waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_waits_between_attempts_while_the_store_fails() {
    let rig = with_a_time_out_that_fails().await;
    rig.store.fail_where(adds_events);
    let worker = async {
        attempts_are_apart(&rig).await;
        let task = rig.poll().await;
        rig.respond(with_update_done(&task)).await.unwrap();
    };
    let (updated, ()) = tokio::join!(rig.update("w", "u", UpdateStage::Completed), worker);
    assert_eq!(updated.unwrap().stage(), UpdateStage::Completed);
    rig.close().await;
}

/// So is a query that waits for a workflow task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_waits_between_attempts_while_the_store_fails() {
    let rig = with_a_time_out_that_fails().await;
    rig.store.hold();
    let signal = rig.signal("w", "s");
    let held = async {
        rig.store.until(|counts| counts.held > 0).await;
        // The signal and its workflow task are stored, and nothing after them.
        let first = AtomicBool::new(true);
        rig.store
            .fail_where(move |commit| adds_events(commit) && !first.swap(false, SeqCst));
    };
    let (signalled, ()) = tokio::join!(signal, held);
    signalled.unwrap();
    tokio::select! {
        answered = rig.query("w") => panic!("{answered:?}"),
        () = attempts_are_apart(&rig) => {}
    }
    rig.close().await;
}
