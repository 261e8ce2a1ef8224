//! Signals, queries and updates, to running workflows and together with a start.

use temporalio_client::errors::WorkflowUpdateError;
use temporalio_client::{WorkflowIdConflictPolicy, WorkflowUpdateWithStartOptions};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowContextView, WorkflowResult,
};

use crate::session::{QUEUE, connect, replay, start_as, with_worker};
use tidemill_test_engine::Engine;

/// Sums up what it is sent, and ends when the sum has reached its target.
#[workflow]
#[derive(Default)]
struct Sum {
    sum: i64,
}

#[workflow_methods]
impl Sum {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, target: i64) -> WorkflowResult<i64> {
        ctx.wait_condition(|state| state.sum >= target).await?;
        Ok(ctx.state(|state| state.sum))
    }

    #[signal]
    fn add(&mut self, _ctx: &mut SyncWorkflowContext<Self>, amount: i64) {
        self.sum += amount;
    }

    #[query]
    fn sum(&self, _ctx: &WorkflowContextView) -> i64 {
        self.sum
    }

    #[update_validator(replace)]
    fn validate_replace(
        &self,
        _ctx: &WorkflowContextView,
        sum: &i64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if *sum < 0 {
            return Err("a sum is never negative".into());
        }
        Ok(())
    }

    /// Returns the sum that it replaced.
    #[update]
    fn replace(&mut self, _ctx: &mut SyncWorkflowContext<Self>, sum: i64) -> i64 {
        std::mem::replace(&mut self.sum, sum)
    }

    /// Completes when somebody else has brought the sum that far.
    #[update]
    async fn reach(ctx: &mut WorkflowContext<Self>, sum: i64) -> i64 {
        let reached = ctx.wait_condition(move |state: &Self| state.sum >= sum);
        reached.await.expect("nobody cancels this workflow");
        ctx.state(|state| state.sum)
    }
}

fn worker() -> WorkerOptions {
    WorkerOptions::new(QUEUE)
        .register_workflow::<Sum>()
        .unwrap()
        .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_workflow_is_signalled_queried_and_updated() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    with_worker(&client, worker(), async {
        let started = client.start_workflow(Sum::run, 100, start_as("sum"));
        let handle = started.await.unwrap();
        let signal = handle.signal(Sum::add, 5, Default::default());
        signal.await.unwrap();
        let query = handle.query(Sum::sum, (), Default::default());
        assert_eq!(query.await.unwrap(), 5);

        let update = handle.execute_update(Sum::replace, 20, Default::default());
        assert_eq!(update.await.unwrap(), 5);
        let rejected = handle.execute_update(Sum::replace, -1, Default::default());
        let Err(WorkflowUpdateError::Failed(failure)) = rejected.await else {
            panic!("the validator rejects it");
        };
        assert_eq!(failure.message, "a sum is never negative");

        let accepted = handle.start_update(Sum::reach, 30, Default::default());
        let accepted = accepted.await.unwrap();
        let signal = handle.signal(Sum::add, 10, Default::default());
        signal.await.unwrap();
        assert_eq!(accepted.get_result(Default::default()).await.unwrap(), 30);

        let signal = handle.signal(Sum::add, 70, Default::default());
        signal.await.unwrap();
        assert_eq!(handle.get_result(Default::default()).await.unwrap(), 100);
        let query = handle.query(Sum::sum, (), Default::default());
        assert_eq!(query.await.unwrap(), 100, "a closed workflow still answers");
        replay::<Sum>(&handle).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_can_bring_the_start_with_it() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    with_worker(&client, worker(), async {
        let start = start_as("signalled");
        let started = client.signal_with_start_workflow(Sum::run, 1, Sum::add, 1, start);
        let handle = started.await.unwrap();
        assert_eq!(handle.get_result(Default::default()).await.unwrap(), 1);
        replay::<Sum>(&handle).await;

        let start = || {
            WorkflowUpdateWithStartOptions::new(
                QUEUE,
                "updated",
                WorkflowIdConflictPolicy::UseExisting,
            )
            .build()
        };
        let first =
            client.execute_update_with_start_workflow(Sum::run, 9, Sum::replace, 4, start());
        assert_eq!(first.await.unwrap(), 0);
        let second =
            client.execute_update_with_start_workflow(Sum::run, 9, Sum::replace, 9, start());
        assert_eq!(second.await.unwrap(), 4, "it reached the same run");
        let handle = client.get_workflow_handle("updated");
        assert_eq!(handle.get_result(Default::default()).await.unwrap(), 9);
        replay::<Sum>(&handle).await;
    })
    .await;
}
