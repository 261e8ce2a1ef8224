//! One engine, the interpreter's worker and a scripted one, for as long as a test takes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use temporalio_client::{Client, WorkflowStartOptions};
use temporalio_common::UntypedWorkflow;
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use temporalio_common::protos::temporal::api::history::v1::ActivityTaskScheduledEventAttributes;
use temporalio_common::protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use tidemill_pipeline::plan::Plan;
use tidemill_pipeline::run::{NodeState, RunState, Status, TASK_QUEUE, WORKFLOW};
use tidemill_runtime::client::{Pipelines, StartOptions};
use tidemill_runtime::worker;
use tokio::sync::oneshot;

use crate::histories;
use crate::script::Script;
use tidemill_test_engine::Engine;

/// Only a guard against a run that never ends; no test measures time with it.
const GUARD: Duration = Duration::from_secs(120);

/// A limit of history that runs reach.
pub(crate) const SMALL: u32 = 40;

pub(crate) struct Session {
    pub(crate) pipelines: Pipelines,
    pub(crate) script: Script,
    pub(crate) client: Client,
}

/// Runs a test beside the workers.
pub(crate) async fn with_workers(test: impl AsyncFnOnce(&Session)) {
    with_workers_on(&["cpu"], test).await;
}

/// Runs a test beside the interpreter's worker and scripted ones on these queues.
pub(crate) async fn with_workers_on(queues: &[&str], test: impl AsyncFnOnce(&Session)) {
    let engine = Engine::start();
    let at = worker::Engine {
        address: engine.address(),
        namespace: "default".to_owned(),
    };
    let client = worker::connect(&at).await.unwrap();
    let session = Session {
        pipelines: Pipelines::new(client.clone()),
        script: Script::default(),
        client: client.clone(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(worker::serve(at, async {
        let _ = stopped.await;
    }));

    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let workers = queues.iter().map(|queue| {
        let options = WorkerOptions::new(*queue)
            .graceful_shutdown_period(Duration::ZERO)
            .register_activities(session.script.clone())
            .build();
        Worker::new(&runtime, client.clone(), options).unwrap()
    });
    let mut workers: Vec<Worker> = workers.collect();
    let shut_down: Vec<_> = workers.iter().map(Worker::shutdown_handle).collect();
    let run = futures::future::try_join_all(workers.iter_mut().map(Worker::run));
    let mut run = std::pin::pin!(run);
    tokio::select! {
        ended = &mut run => panic!("the stages' workers ended by themselves: {ended:?}"),
        ended = tokio::time::timeout(GUARD, test(&session)) => ended.expect("runs end"),
    }
    for shut_down in shut_down {
        shut_down();
    }
    run.await.unwrap();
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
}

impl Session {
    /// Starts a run and waits for its result, which has to be good.
    pub(crate) async fn run(&self, id: &str, plan: Plan) -> (Value, RunState) {
        self.start(id, plan).await;
        self.done(id).await
    }

    pub(crate) async fn start(&self, id: &str, plan: Plan) {
        self.start_with(
            plan,
            StartOptions {
                id: id.to_owned(),
                ..StartOptions::default()
            },
        )
        .await;
    }

    pub(crate) async fn start_with(&self, plan: Plan, options: StartOptions) {
        let inputs = BTreeMap::from([("title".to_owned(), json!("Tides"))]);
        let started = self.pipelines.start(plan, inputs, options);
        started.await.unwrap();
    }

    /// Starts a run with an input that the client does not offer.
    pub(crate) async fn start_raw(&self, id: &str, input: &Value) {
        let input = RawValue::from_value(input, &PayloadConverter::serde_json());
        let options = WorkflowStartOptions::new(TASK_QUEUE, id).build();
        let workflow = UntypedWorkflow::new(WORKFLOW);
        let started = self.client.start_workflow(workflow, input, options);
        started.await.unwrap();
    }

    /// Starts a run that continues as new early.
    pub(crate) async fn start_small(&self, id: &str, plan: Plan) {
        let limits = json!({"history": SMALL, "history_hard": 400, "fold": 4, "store_wait_ms": 10});
        let input = json!({"plan": plan, "inputs": {"title": "Tides"}, "limits": limits});
        self.start_raw(id, &input).await;
    }

    pub(crate) async fn done(&self, id: &str) -> (Value, RunState) {
        let ended = self.pipelines.result(id).await.unwrap();
        let tidemill_runtime::client::Ended::Done(result) = ended else {
            panic!("{ended:?}");
        };
        self.replay(id).await;
        (result.outputs, result.state)
    }

    /// The error and the state of a run that fails.
    pub(crate) async fn failed(&self, id: &str) -> (String, RunState) {
        let ended = self.pipelines.result(id).await.unwrap();
        let tidemill_runtime::client::Ended::Failed { error, state } = ended else {
            panic!("{ended:?}");
        };
        self.replay(id).await;
        (error, state.expect("a failed run tells its state"))
    }

    pub(crate) async fn canceled(&self, id: &str) -> RunState {
        let ended = self.pipelines.result(id).await.unwrap();
        let tidemill_runtime::client::Ended::Canceled { state } = ended else {
            panic!("{ended:?}");
        };
        self.replay(id).await;
        state.expect("a cancelled run tells its state")
    }

    /// Waits until the state of a run is as wanted.
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&RunState) -> bool) -> RunState {
        loop {
            let state = self.pipelines.state(id).await.unwrap();
            if wanted(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The activities of a run that were scheduled, in that order.
    pub(crate) async fn scheduled(&self, id: &str) -> Vec<ActivityTaskScheduledEventAttributes> {
        let history = self.pipelines.handle(id).fetch_history(Default::default());
        let events = history.into_events().await.unwrap();
        let scheduled = events
            .into_iter()
            .filter_map(|event| match event.attributes {
                Some(Attributes::ActivityTaskScheduledEventAttributes(scheduled)) => {
                    Some(scheduled)
                }
                _ => None,
            });
        scheduled.collect()
    }

    /// The queues at which the activities of a run were scheduled.
    pub(crate) async fn scheduled_on(&self, id: &str) -> Vec<String> {
        let scheduled = self.scheduled(id).await.into_iter();
        scheduled
            .map(|task| task.task_queue.unwrap().name)
            .collect()
    }

    async fn replay(&self, id: &str) {
        let history = self.pipelines.handle(id).fetch_history(Default::default());
        histories::check(id, history).await;
    }
}

pub(crate) fn node<'a>(state: &'a RunState, id: &str) -> &'a NodeState {
    state.nodes.iter().find(|node| node.id == id).unwrap()
}

pub(crate) fn statuses(state: &RunState) -> Vec<(&str, Status)> {
    let nodes = state.nodes.iter();
    nodes.map(|node| (node.id.as_str(), node.status)).collect()
}
