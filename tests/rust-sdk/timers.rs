//! Timers fire when they are due, and not when they were cancelled.

use std::time::Duration;

use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::workflows::select;
use temporalio_sdk::{
    ApplicationFailure, CancellableFuture, TimerResult, WorkerOptions, WorkflowContext,
    WorkflowResult,
};

use crate::session::{QUEUE, connect, replay, start_as, with_worker};
use tidemill_test_engine::Engine;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(3600);

#[workflow]
#[derive(Default)]
struct Waiting;

#[workflow_methods]
impl Waiting {
    /// Returns how long it waited, in milliseconds.
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<u128> {
        let begin = ctx.workflow_time().unwrap();
        let mut long = ctx.timer(LONG);
        select! {
            _ = long => return Err(ApplicationFailure::new("an hour went by").into()),
            _ = ctx.timer(SHORT) => long.cancel(),
        }
        if long.await != TimerResult::Cancelled {
            return Err(ApplicationFailure::new("the cancelled timer fired").into());
        }
        let waited = ctx.workflow_time().unwrap().duration_since(begin).unwrap();
        Ok(waited.as_millis())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_and_a_cancelled_one_does_not() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    let worker = WorkerOptions::new(QUEUE)
        .register_workflow::<Waiting>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        let started = client.start_workflow(Waiting::run, (), start_as("waiting"));
        let handle = started.await.unwrap();
        let waited_ms = handle.get_result(Default::default()).await.unwrap();
        assert!(waited_ms >= SHORT.as_millis(), "waited {waited_ms} ms");
        replay::<Waiting>(&handle).await;
    })
    .await;
}
