//! Closed runs are deleted when their time is over.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus as Status;
use tidemill_server::Config;
use tidemill_store::RunNo;

use crate::rig::*;

fn often() -> Config {
    Config {
        retention_interval: Duration::from_millis(10),
        ..config()
    }
}

async fn some_runs(rig: &Rig) {
    for id in ["a", "b"] {
        rig.start(id).await;
        rig.work(vec![finish()]).await;
    }
    rig.start("open").await;
}

fn pass(rig: &Rig) {
    *rig.store.later.lock() = 2 * i64::try_from(RETENTION.as_nanos()).unwrap();
}

async fn until_one_is_left(rig: &Rig) {
    let namespace = rig.namespace.id;
    rig.store
        .until_stored(move |store| {
            let left = store.runs_of_namespace(&namespace, RunNo(0), 10);
            left.unwrap().len() == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_runs_go_when_their_time_is_over() {
    let rig = Rig::with(often()).await;
    some_runs(&rig).await;
    assert_eq!(rig.listed().await, 3);
    pass(&rig);
    until_one_is_left(&rig).await;
    for id in ["a", "b"] {
        let gone = rig.describe(id).await;
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    }
    assert_eq!(rig.listed().await, 1);
    assert_eq!(rig.status("open").await, Status::Running);
    rig.start("a").await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_is_tried_again_at_the_next_look() {
    let rig = Rig::with(often()).await;
    some_runs(&rig).await;
    rig.store.fail_where(|commit| !commit.deletes.is_empty());
    pass(&rig);
    rig.store.until(|counts| counts.failed >= 3).await;
    assert_eq!(rig.listed().await, 3);
    assert_eq!(rig.status("a").await, Status::Completed);
    rig.store.recover();
    until_one_is_left(&rig).await;
    rig.close().await;
}
