//! Workflows from their start to their end.

use tidemill_proto::api::enums::v1::{
    EventType as E, ParentClosePolicy, WorkflowExecutionStatus as Status,
};
use tidemill_server::Config;

use crate::rig::*;

on_each_store!(
    a_workflow_starts_is_polled_completes_and_has_a_history,
    async |rig: Rig| {
        let run_id = rig.start("w").await;
        let task = rig.poll().await;
        assert_eq!(task.workflow_execution.as_ref().unwrap().run_id, run_id);
        let sent: Vec<_> = task.history.as_ref().unwrap().events.iter().collect();
        assert_eq!(sent.len(), 3);
        rig.complete(&task, vec![finish()]).await.unwrap();
        assert_eq!(
            rig.events("w").await,
            [
                E::WorkflowExecutionStarted,
                E::WorkflowTaskScheduled,
                E::WorkflowTaskStarted,
                E::WorkflowTaskCompleted,
                E::WorkflowExecutionCompleted
            ]
        );
        assert_eq!(rig.status("w").await, Status::Completed);
        assert_eq!(rig.listed().await, 1);
        rig.close().await;
    }
);

on_each_store!(activities_and_timers_come_back, async |rig: Rig| {
    rig.start("w").await;
    rig.work(vec![activity("a"), timer("t", 1)]).await;
    let step = rig.poll_activity().await;
    assert_eq!(step.activity_id, "a");
    rig.complete_activity(&step).await.unwrap();
    rig.until_event("w", E::TimerFired).await;
    rig.work(vec![finish()]).await;
    assert_eq!(rig.status("w").await, Status::Completed);
    rig.close().await;
});

on_each_store!(
    children_are_started_awaited_and_ended_with_their_parent,
    async |rig: Rig| {
        rig.start("parent").await;
        rig.work(vec![
            child("awaited", ParentClosePolicy::Abandon),
            child("left", ParentClosePolicy::Terminate),
        ])
        .await;
        // Tasks come in whatever order the children start in.
        while rig.status("parent").await == Status::Running {
            let task = rig.poll().await;
            let commands = match &*task.workflow_execution.as_ref().unwrap().workflow_id {
                "awaited" => vec![finish()],
                "parent"
                    if rig
                        .events("parent")
                        .await
                        .contains(&E::ChildWorkflowExecutionCompleted) =>
                {
                    vec![finish()]
                }
                _ => Vec::new(),
            };
            rig.complete(&task, commands).await.unwrap();
        }
        let mut seen = Vec::new();
        while !seen.contains(&E::WorkflowExecutionTerminated) {
            seen = rig
                .until_event("left", E::WorkflowExecutionTerminated)
                .await;
        }
        rig.store
            .until_stored(|store| {
                store
                    .read_outbox((tidemill_store::RunNo(0), 0), 10)
                    .unwrap()
                    .is_empty()
            })
            .await;
        rig.close().await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_runs_than_memory_holds() {
    let config = Config {
        cached_runs: 16,
        ..config()
    };
    let rig = Rig::with(Backend::File, config).await;
    for n in 0..100 {
        rig.start(&format!("w{n}")).await;
    }
    for _ in 0..100 {
        rig.work(vec![timer("t", 3_600_000)]).await;
    }
    for n in 0..100 {
        rig.signal(&format!("w{n}"), "go").await.unwrap();
    }
    for _ in 0..100 {
        rig.work(vec![finish()]).await;
    }
    for n in 0..100 {
        assert_eq!(rig.status(&format!("w{n}")).await, Status::Completed);
    }
    rig.close().await;
}
