//! While a transaction is not durable, nothing of it is known, shown or handed out.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{EventType as E, WorkflowExecutionStatus as Status};

use crate::rig::*;

on_each_store!(
    a_start_is_not_seen_before_it_is_durable,
    async |rig: Rig| {
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
            assert!(rig.is_quiet(QUEUE).await);
            rig.store.recover();
        };
        let (started, described, ()) = tokio::join!(started, described, meanwhile);
        started.unwrap();
        described.unwrap();
        rig.work(vec![finish()]).await;
        rig.close().await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activity_is_not_handed_out_before_it_is_durable() {
    let rig = Rig::new(Backend::Memory).await;
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
        assert!(rig.is_quiet(QUEUE).await);
        rig.store.recover();
    };
    let (completed, step, ()) = tokio::join!(completed, step, release);
    completed.unwrap();
    assert_eq!(step.activity_id, "a");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_waits_for_what_it_rests_on() {
    let rig = Rig::new(Backend::Memory).await;
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
        assert!(rig.is_quiet(QUEUE).await);
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
    let rig = Rig::new(Backend::File).await;
    rig.start("w").await;
    rig.work(vec![finish()]).await;
    rig.store.hold();
    let delete = rig.delete("w");
    let describe = async {
        rig.store.until(|counts| counts.held == 1).await;
        let described = rig.describe("w").await;
        assert_eq!(rig.store.counts().held, 0, "said to be gone too early");
        described
    };
    let release = async {
        rig.store.until(|counts| counts.held == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.store.recover();
    };
    let (deleted, described, ()) = tokio::join!(delete, describe, release);
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
