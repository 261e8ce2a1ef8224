//! The engine is killed in the middle of a workflow, twice, and started again on the same file.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use temporalio_client::WorkflowStartOptions;
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::workflows::join;
use temporalio_sdk::{
    SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowContextView, WorkflowResult,
};
use tokio::sync::Notify;

use crate::session::{QUEUE, connect, replay, unhurried, with_worker};
use tidemill_test_engine::Engine;

const STEPS: u32 = 6;
/// The steps that wait for the test.
const HELD: [u32; 2] = [2, 4];

/// What the activities did, kept where the engine cannot change it.
#[derive(Clone, Default)]
struct Ledger {
    ran: Arc<Mutex<Vec<u32>>>,
    held: Arc<Notify>,
    go_on: Arc<Notify>,
}

#[activities]
impl Ledger {
    #[activity]
    async fn step(self: Arc<Self>, _ctx: ActivityContext, n: u32) -> Result<(), ActivityError> {
        self.ran.lock().unwrap().push(n);
        if HELD.contains(&n) {
            self.held.notify_one();
            self.go_on.notified().await;
        }
        Ok(())
    }
}

#[workflow]
#[derive(Default)]
struct Journey {
    word: Option<String>,
}

#[workflow_methods]
impl Journey {
    /// Returns the word that it was sent on the way. Each step has a timer beside it.
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Option<String>> {
        for n in 0..STEPS {
            let step = ctx.execute_activity(Ledger::step, n, unhurried());
            let (step, _) = join!(step, ctx.timer(Duration::from_millis(100)));
            step?;
        }
        Ok(ctx.state(|state| state.word.clone()))
    }

    #[signal]
    fn send(&mut self, _ctx: &mut SyncWorkflowContext<Self>, word: String) {
        self.word = Some(word);
    }

    #[query]
    fn word(&self, _ctx: &WorkflowContextView) -> Option<String> {
        self.word.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_goes_on_where_it_was() {
    let mut engine = Engine::start();
    let client = connect(&engine).await;
    let ledger = Ledger::default();
    // Without a cache each workflow task begins with what the engine has kept.
    let worker = WorkerOptions::new(QUEUE)
        .max_cached_workflows(0)
        .register_activities(ledger.clone())
        .register_workflow::<Journey>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        // A task on its way to the worker is lost with the engine, and given out again after this time.
        let start =
            WorkflowStartOptions::new(QUEUE, "journey").task_timeout(Duration::from_secs(1));
        let started = client.start_workflow(Journey::run, (), start.build());
        let handle = started.await.unwrap();

        ledger.held.notified().await;
        let signal = handle.signal(Journey::send, "onward".to_owned(), Default::default());
        signal.await.unwrap();
        engine.crash();
        let query = handle.query(Journey::word, (), Default::default());
        assert_eq!(query.await.unwrap().as_deref(), Some("onward"));
        ledger.go_on.notify_one();

        ledger.held.notified().await;
        engine.crash();
        ledger.go_on.notify_one();

        let word = handle.get_result(Default::default()).await.unwrap();
        assert_eq!(word.as_deref(), Some("onward"));
        let ran = ledger.ran.lock().unwrap().clone();
        assert_eq!(ran, (0..STEPS).collect::<Vec<_>>(), "each step ran once");
        replay::<Journey>(&handle).await;
    })
    .await;
}
