//! Cancellation reaches the activity under way and lets the workflow clean up; termination does not.

use std::sync::Arc;
use std::time::Duration;

use temporalio_client::errors::WorkflowGetResultError;
use temporalio_client::{WorkflowCancelOptions, WorkflowTerminateOptions};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, ApplicationFailure,
    WorkerOptions, WorkflowCancellationToken, WorkflowContext, WorkflowResult, WorkflowTermination,
};
use tokio::sync::Notify;

use crate::session::{QUEUE, connect, replay, start_as, unhurried, with_worker};
use tidemill_test_engine::Engine;

#[derive(Clone, Default)]
struct Oven {
    burning: Arc<Notify>,
    out: Arc<Notify>,
}

#[activities]
impl Oven {
    /// Goes on until it is told to stop, which it hears with a heartbeat.
    #[activity]
    async fn burn(self: Arc<Self>, ctx: ActivityContext) -> Result<(), ActivityError> {
        self.burning.notify_one();
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                () = ctx.cancelled() => return Err(ActivityError::cancelled()),
                _ = beat.tick() => ctx.record_heartbeat(()).await?,
            }
        }
    }

    #[activity]
    async fn clean(self: Arc<Self>, _ctx: ActivityContext) -> Result<(), ActivityError> {
        self.out.notify_one();
        Ok(())
    }
}

#[workflow]
#[derive(Default)]
struct Baking;

#[workflow_methods]
impl Baking {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let burning = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(600))
            .heartbeat_timeout(Duration::from_secs(1))
            .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
            .build();
        let ended = ctx.execute_activity(Oven::burn, (), burning).await;
        let Err(ActivityExecutionError::Cancelled(_)) = ended else {
            return Err(ApplicationFailure::new("it burns until it is cancelled").into());
        };
        let mut detached = unhurried();
        detached.cancellation_token = Some(WorkflowCancellationToken::new());
        ctx.execute_activity(Oven::clean, (), detached).await?;
        let reason = ctx.cancellation_token().reason();
        Err(WorkflowTermination::cancelled_with_details(reason))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_workflow_cleans_up_and_a_terminated_one_does_not() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    let oven = Oven::default();
    let worker = WorkerOptions::new(QUEUE)
        .register_activities(oven.clone())
        .register_workflow::<Baking>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        let started = client.start_workflow(Baking::run, (), start_as("cancelled"));
        let handle = started.await.unwrap();
        oven.burning.notified().await;
        let cancel = WorkflowCancelOptions::builder().reason("enough").build();
        handle.cancel(cancel).await.unwrap();
        oven.out.notified().await;
        let error = handle.get_result(Default::default()).await.unwrap_err();
        let WorkflowGetResultError::Cancelled { details } = error else {
            panic!("{error:?}");
        };
        let reason = details.deserialize::<Option<String>>().unwrap();
        assert_eq!(reason.as_deref(), Some("enough"));
        replay::<Baking>(&handle).await;

        let started = client.start_workflow(Baking::run, (), start_as("terminated"));
        let handle = started.await.unwrap();
        oven.burning.notified().await;
        let terminate = WorkflowTerminateOptions::builder().reason("now").build();
        handle.terminate(terminate).await.unwrap();
        let error = handle.get_result(Default::default()).await.unwrap_err();
        assert!(
            matches!(error, WorkflowGetResultError::Terminated { .. }),
            "{error:?}"
        );
        replay::<Baking>(&handle).await;
    })
    .await;
}
