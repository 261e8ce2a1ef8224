//! A worker in Rust and one in Python share one run: each executes the activities that it knows.

use std::env;
use std::process::Stdio;

use temporalio_macros::{activities, activity_definitions, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::{WorkerOptions, WorkflowContext, WorkflowResult};
use tokio::process::{Child, Command};

use crate::session::{QUEUE, connect, replay, start_as, unhurried, with_worker};
use tidemill_test_engine::{Engine, root};

/// The queue that the Python worker polls.
const PYTHON_QUEUE: &str = "python";

struct InRust;

#[activities]
impl InRust {
    #[activity]
    async fn split(_ctx: ActivityContext, text: String) -> Result<Vec<String>, ActivityError> {
        Ok(text.split(' ').map(str::to_owned).collect())
    }
}

/// What `python_worker.py` defines.
struct InPython;

#[activity_definitions]
impl InPython {
    #[activity(name = "lengths")]
    fn lengths(_words: Vec<String>) -> Result<Vec<u32>, ActivityError> {
        unimplemented!()
    }
}

#[workflow]
#[derive(Default)]
struct Measuring;

#[workflow_methods]
impl Measuring {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, text: String) -> WorkflowResult<Vec<u32>> {
        let words = ctx.execute_activity(InRust::split, text, unhurried());
        let words = words.await?;
        let mut there = unhurried();
        there.task_queue = Some(PYTHON_QUEUE.to_owned());
        Ok(ctx
            .execute_activity(InPython::lengths, words, there)
            .await?)
    }
}

fn python_worker(engine: &Engine) -> Child {
    let python = env::var_os("TIDEMILL_PYTHON").unwrap_or_else(|| ".venv/bin/python".into());
    let python = root().join(python);
    assert!(
        python.is_file(),
        "no Python at {}: `make .venv/.ready` sets it up, or set TIDEMILL_PYTHON to one that has \
         the temporalio package",
        python.display()
    );
    Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python_worker.py"))
        .args([&engine.address(), PYTHON_QUEUE])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_in_rust_calls_an_activity_in_python() {
    let engine = Engine::start();
    let client = connect(&engine).await;
    let mut python = python_worker(&engine);
    let worker = WorkerOptions::new(QUEUE)
        .register_activities(InRust)
        .register_workflow::<Measuring>()
        .unwrap();
    with_worker(&client, worker.build(), async {
        let text = "store the tide".to_owned();
        let started = client.start_workflow(Measuring::run, text, start_as("measuring"));
        let handle = started.await.unwrap();
        tokio::select! {
            ended = python.wait() => panic!("the Python worker ended by itself: {ended:?}"),
            lengths = handle.get_result(Default::default()) => {
                assert_eq!(lengths.unwrap(), [5, 3, 4]);
            }
        }
        replay::<Measuring>(&handle).await;
    })
    .await;
}
