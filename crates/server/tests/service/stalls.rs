//! While a transaction is not durable, nothing of it is known, shown or handed out.

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{EventType as E, WorkflowExecutionStatus as Status};

use tidemill_proto::api::workflowservice::v1::PollWorkflowTaskQueueResponse;
use tidemill_server::Config;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_not_seen_before_it_is_durable() {
    let rig = Rig::memory().await;
    rig.store.hold();
    let started = async {
        let started = rig
            .server
            .start_workflow_execution(&rig.namespace, start("w"), call())
            .await;
        assert_eq!(rig.store.counts().held, 0, "acknowledged too early");
        started
    };
    let described = async {
        // Asked once the shard has the run in memory.
        rig.store.until(|counts| counts.held == 1).await;
        let described = rig.describe("w").await;
        assert_eq!(rig.store.counts().held, 0, "shown too early");
        described
    };
    let meanwhile = async {
        rig.store.until(|counts| counts.held == 1).await;
        assert_eq!(rig.listed().await, 0);
        assert!(rig.is_quiet().await);
        rig.store.recover();
    };
    let (started, described, ()) = tokio::join!(started, described, meanwhile);
    started.unwrap();
    described.unwrap();
    rig.work(vec![finish()]).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activity_is_not_handed_out_before_it_is_durable() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    let task = rig.poll().await;
    rig.store.hold();
    let completed = async {
        let completed = rig.complete(&task, vec![activity("a")]).await;
        assert_eq!(rig.store.counts().held, 0, "acknowledged too early");
        completed
    };
    let step = async {
        let step = rig.poll_activity().await;
        assert_eq!(rig.store.counts().held, 0, "handed out too early");
        step
    };
    let release = async {
        rig.store.until(|counts| counts.held == 1).await;
        assert!(rig.is_quiet().await);
        rig.store.recover();
    };
    let (completed, step, ()) = tokio::join!(completed, step, release);
    completed.unwrap();
    assert_eq!(step.activity_id, "a");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_waits_for_what_it_rests_on() {
    let rig = Rig::memory().await;
    rig.store.hold();
    let first = rig
        .server
        .start_workflow_execution(&rig.namespace, start("w"), call());
    let second = async {
        rig.store.until(|counts| counts.held == 1).await;
        let refused = rig
            .server
            .start_workflow_execution(&rig.namespace, start("w"), call());
        refused.await
    };
    let fail = async {
        rig.store.until(|counts| counts.held == 1).await;
        // Let the second request reach the shard: it is answered only with the first.
        assert!(rig.is_quiet().await);
        rig.store.fail();
    };
    let (first, second, ()) = tokio::join!(first, second, fail);
    assert!(matches!(first, Err(Error::Unavailable(_))), "{first:?}");
    assert!(
        matches!(second, Err(Error::Unavailable(_))),
        "it was refused for a run that never was: {second:?}"
    );
    rig.store.recover();
    rig.start("w").await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_being_deleted_does_not_come_back() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    rig.work(vec![finish()]).await;
    rig.start("other").await;
    rig.store.hold();
    let delete = rig.delete("w");
    let describe = async {
        let described = rig.describe("w").await;
        assert_eq!(rig.store.counts().held, 0, "said to be gone too early");
        described
    };
    let release = async {
        // Asked after the other, which is answered or waits now.
        rig.shard_is_here("other").await;
        rig.store.recover();
    };
    let meanwhile = async {
        rig.store.until(|counts| counts.held == 1).await;
        tokio::join!(describe, release).0
    };
    let (deleted, described) = tokio::join!(delete, meanwhile);
    deleted.unwrap();
    for described in [described, rig.describe("w").await] {
        assert!(
            matches!(described, Err(Error::NotFound(_))),
            "{described:?}"
        );
    }
    rig.start("w").await;
    assert_eq!(rig.status("w").await, Status::Running);
    assert_eq!(
        rig.events("w").await,
        [E::WorkflowExecutionStarted, E::WorkflowTaskScheduled]
    );
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_not_handed_out_before_its_start_is_durable() {
    let rig = Rig::memory().await;
    rig.start("w").await;
    rig.store.hold();
    let applied = rig.store.counts().applied;
    let poll = async {
        let task = rig.poll().await;
        assert!(rig.store.counts().applied > applied, "handed out too early");
        task
    };
    let release = async {
        rig.store.until(|counts| counts.held == 1).await;
        assert!(rig.is_quiet().await);
        rig.store.recover();
    };
    let (task, ()) = tokio::join!(poll, release);
    rig.complete(&task, vec![finish()]).await.unwrap();
    rig.close().await;
}

/// More runs than memory has room for have changes under way. None of them may be read from the
/// store, which does not have the changes yet: not even a run that makes room for its successor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_with_changes_under_way_stays_in_memory() {
    let config = Config {
        cache_bytes: 0,
        ..config()
    };
    let rig = Rig::with(config).await;
    let mut tasks = Vec::new();
    for n in 0..4 {
        rig.start(&format!("w{n}")).await;
        tasks.push(rig.poll().await);
    }
    rig.store.hold();
    let starts: Vec<_> = (0..40)
        .map(|n| {
            let (server, namespace) = (rig.server.clone(), rig.namespace.clone());
            let request = start(&format!("full{n}"));
            tokio::spawn(async move {
                let started = server.start_workflow_execution(&namespace, request, call());
                started.await.map(|_| ())
            })
        })
        .collect();
    rig.store.until(|counts| counts.held == 1).await;
    let old = |task: &PollWorkflowTaskQueueResponse| task.workflow_execution.clone().unwrap();
    let change = async |task| {
        let continued = rig.complete(task, vec![continue_as_new()]);
        // Asked after it, so it finds a run that has closed.
        let run = old(task);
        let late = rig.signal_run(&run.workflow_id, &run.run_id, "late");
        let (continued, late) = tokio::join!(continued, late);
        continued.unwrap();
        assert!(matches!(late, Err(Error::NotFound(_))), "{late:?}");
    };
    let [a, b, c, d] = &tasks[..] else {
        panic!("there are four")
    };
    tokio::join!(change(a), change(b), change(c), change(d), async {
        // What is above has asked: this is polled last.
        rig.store.recover();
    });
    for start in starts {
        start.await.unwrap().unwrap();
    }
    rig.close().await;
}
