//! Child workflows: signalled by the parent, their result and their failure seen by it.

use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ApplicationFailure, ChildWorkflowExecutionError, ChildWorkflowOptions, SyncWorkflowContext,
    WorkerOptions, WorkflowContext, WorkflowResult,
};

use crate::session::{QUEUE, connect, replay, start_as, with_worker};
use tidemill_test_engine::Engine;

/// Greets whom it is told to by a signal.
#[workflow]
#[derive(Default)]
struct Greeter {
    name: Option<String>,
}

#[workflow_methods]
impl Greeter {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, greeting: String) -> WorkflowResult<String> {
        ctx.wait_condition(|state| state.name.is_some()).await?;
        let name = ctx.state(|state| state.name.clone()).unwrap();
        if name.is_empty() {
            return Err(ApplicationFailure::non_retryable("nobody to greet").into());
        }
        Ok(format!("{greeting}, {name}"))
    }

    #[signal]
    fn greet(&mut self, _ctx: &mut SyncWorkflowContext<Self>, name: String) {
        self.name = Some(name);
    }
}

#[workflow]
#[derive(Default)]
struct Parent;

#[workflow_methods]
impl Parent {
    /// Returns the greeting, or what the child failed with.
    #[run]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        names: Vec<String>,
    ) -> WorkflowResult<Vec<String>> {
        let mut heard = Vec::new();
        for (n, name) in names.into_iter().enumerate() {
            let options = ChildWorkflowOptions::workflow_id(format!("child-{n}"));
            let child = ctx.start_child_workflow(Greeter::run, "Hello".to_owned(), options);
            let child = child.await?;
            let signal = child.signal(Greeter::greet, name, Default::default());
            signal.await?;
            heard.push(match child.result().await {
                Ok(greeting) => greeting,
                Err(ChildWorkflowExecutionError::Failed(failure)) => {
                    failure.cause().map(ToString::to_string).unwrap_or_default()
                }
                Err(other) => return Err(other.into()),
            });
        }
        Ok(heard)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_answer_or_fail() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    let worker = WorkerOptions::new(QUEUE)
        .register_workflow::<Parent>()
        .unwrap()
        .register_workflow::<Greeter>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        let names = vec!["Ada".to_owned(), String::new()];
        let started = client.start_workflow(Parent::run, names, start_as("parent"));
        let handle = started.await.unwrap();
        let heard = handle.get_result(Default::default()).await.unwrap();
        assert_eq!(heard, ["Hello, Ada", "nobody to greet"]);
        replay::<Parent>(&handle).await;
        replay::<Greeter>(&client.get_workflow_handle("child-0")).await;
        replay::<Greeter>(&client.get_workflow_handle("child-1")).await;
    })
    .await;
}
