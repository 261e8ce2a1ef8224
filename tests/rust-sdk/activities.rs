//! Activities: retries, what a heartbeat keeps for the next attempt, timeouts, failures.

use std::time::Duration;

use temporalio_client::errors::WorkflowGetResultError;
use temporalio_common::RetryPolicy;
use temporalio_common::error::IncomingError;
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::{
    ActivityOptions, ApplicationFailure, LocalActivityOptions, TimeoutType, WorkerOptions,
    WorkflowContext, WorkflowResult,
};

use crate::session::{QUEUE, connect, replay, start_as, unhurried, with_worker};
use tidemill_test_engine::Engine;

struct Steps;

#[activities]
impl Steps {
    #[activity]
    async fn succeed_at(ctx: ActivityContext, attempt: u32) -> Result<u32, ActivityError> {
        if ctx.info().attempt < attempt {
            return Err(ApplicationFailure::new("not yet").into());
        }
        Ok(ctx.info().attempt)
    }

    #[activity]
    async fn resume(ctx: ActivityContext, progress: u32) -> Result<u32, ActivityError> {
        match ctx.heartbeat_details().deserialize::<u32>()? {
            Some(kept) => Ok(kept),
            None => {
                ctx.record_heartbeat(progress).await?;
                Err(ApplicationFailure::new("stopped half-way").into())
            }
        }
    }

    #[activity]
    async fn hang(ctx: ActivityContext) -> Result<(), ActivityError> {
        ctx.cancelled().await;
        Err(ActivityError::cancelled())
    }

    #[activity]
    async fn decline(_ctx: ActivityContext, amount: u32) -> Result<(), ActivityError> {
        let failure = ApplicationFailure::builder("no credit")
            .type_name("Declined".to_owned())
            .non_retryable(true)
            .details(amount)
            .build();
        Err(failure.into())
    }
}

fn quickly_retried() -> ActivityOptions {
    let retries = RetryPolicy::builder().initial_interval(Duration::from_millis(10));
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60))
        .heartbeat_timeout(Duration::from_secs(60))
        .retry_policy(retries.build())
        .build()
}

#[workflow]
#[derive(Default)]
struct Retried;

#[workflow_methods]
impl Retried {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Vec<u32>> {
        let at = ctx.execute_activity(Steps::succeed_at, 3u32, quickly_retried());
        let kept = ctx.execute_activity(Steps::resume, 7u32, quickly_retried());
        let local = ctx.execute_local_activity(
            Steps::succeed_at,
            1u32,
            LocalActivityOptions::builder()
                .start_to_close_timeout(Duration::from_secs(60))
                .build(),
        );
        Ok(vec![at.await?, kept.await?, local.await?])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_attempts_are_tried_again() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    let worker = WorkerOptions::new(QUEUE)
        .register_activities(Steps)
        .register_workflow::<Retried>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        let started = client.start_workflow(Retried::run, (), start_as("retried"));
        let handle = started.await.unwrap();
        let result = handle.get_result(Default::default()).await.unwrap();
        assert_eq!(result, [3, 7, 1]);
        replay::<Retried>(&handle).await;
    })
    .await;
}

#[workflow]
#[derive(Default)]
struct Failing;

#[workflow_methods]
impl Failing {
    /// Sees an attempt time out, then fails with what its next activity failed with.
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let once = ActivityOptions::with_start_to_close_timeout(Duration::from_millis(100))
            .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
            .build();
        let timeout = ctx.execute_activity(Steps::hang, (), once).await;
        let timeout = timeout.expect_err("the activity never ends");
        let kind = timeout.as_timeout().map(|timeout| timeout.timeout_type());
        if kind != Some(TimeoutType::StartToClose) {
            return Err(ApplicationFailure::new(format!("got {timeout:?}")).into());
        }
        ctx.execute_activity(Steps::decline, 40u32, unhurried())
            .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failure_of_an_activity_reaches_the_client() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    // A worker that ends does not wait for the activity that hangs.
    let worker = WorkerOptions::new(QUEUE)
        .graceful_shutdown_period(Duration::ZERO)
        .register_activities(Steps)
        .register_workflow::<Failing>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        let started = client.start_workflow(Failing::run, (), start_as("failing"));
        let handle = started.await.unwrap();
        let error = handle.get_result(Default::default()).await.unwrap_err();
        let WorkflowGetResultError::Failed(failure) = error else {
            panic!("{error:?}");
        };
        let Some(IncomingError::Application(declined)) = failure.cause() else {
            panic!("{failure:?}");
        };
        assert_eq!(declined.type_name(), Some("Declined"));
        assert_eq!(declined.to_string(), "no credit");
        assert_eq!(declined.details::<u32>().unwrap(), Some(40));
        replay::<Failing>(&handle).await;
    })
    .await;
}
