//! A workflow that goes on as a new run: the chain has one result, each run its own history.

use temporalio_client::WorkflowGetResultOptions;
use temporalio_client::errors::WorkflowGetResultError;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{ContinueAsNewOptions, WorkerOptions, WorkflowContext, WorkflowResult};

use crate::session::{QUEUE, connect, replay, start_as, with_worker};
use tidemill_test_engine::Engine;

#[workflow]
#[derive(Default)]
struct Countdown;

#[workflow_methods]
impl Countdown {
    /// Returns the runs that it took.
    #[run]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        input: (u32, Vec<String>),
    ) -> WorkflowResult<Vec<String>> {
        let (left, mut runs) = input;
        runs.push(ctx.run_id().to_owned());
        if left > 0 {
            ctx.continue_as_new((left - 1, runs.clone()), ContinueAsNewOptions::default())?;
        }
        Ok(runs)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_runs_has_one_result() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    let worker = WorkerOptions::new(QUEUE)
        .register_workflow::<Countdown>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        let started = client.start_workflow(Countdown::run, (2, Vec::new()), start_as("countdown"));
        let first = started.await.unwrap();
        let runs = first.get_result(Default::default()).await.unwrap();
        assert_eq!(runs.len(), 3);
        assert_eq!(Some(runs[0].as_str()), first.run_id());
        let last = client.get_workflow_handle("countdown");
        let described = last.describe(Default::default()).await.unwrap();
        assert_eq!(runs[2], described.run_id());

        let alone = WorkflowGetResultOptions::builder().follow_runs(false);
        let alone = first.get_result(alone.build()).await;
        assert!(matches!(alone, Err(WorkflowGetResultError::ContinuedAsNew)));
        replay::<Countdown>(&first).await;
        replay::<Countdown>(&last).await;
    })
    .await;
}
