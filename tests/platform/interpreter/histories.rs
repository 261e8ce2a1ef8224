//! Every run of these tests is replayed, and so are the histories that were recorded once: a change
//! of the interpreter that takes another way through them would break runs under way.
//!
//! `TIDEMILL_RECORD=1` records the histories anew. Do so only with a change that was made on
//! purpose, after its effect on runs under way has been thought through.

use std::env;
use std::fs;
use std::path::PathBuf;

use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use tidemill_runtime::Interpreter;

/// Runs whose histories are kept.
const RECORDED: [&str; 8] = [
    "order",
    "parallel",
    "cleaned-up",
    "window",
    "long",
    "asked",
    "caller",
    "spilled",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("histories")
}

/// Replays a history that has just been made, and records it if that is wanted.
pub(crate) async fn check(id: &str, history: WorkflowHistory) {
    let json = history.to_json().await.unwrap();
    replay(id, &json).await;
    if env::var_os("TIDEMILL_RECORD").is_some() && RECORDED.contains(&id) {
        fs::create_dir_all(folder()).unwrap();
        fs::write(folder().join(format!("{id}.json")), json).unwrap();
    }
}

async fn replay(id: &str, json: &[u8]) {
    let history = WorkflowHistory::from_json(json).unwrap();
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<Interpreter>()
        .unwrap()
        .build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    let replayed = replayer.replay_workflow(history).await;
    replayed.unwrap_or_else(|error| panic!("the history of run {id} does not replay: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_histories_replay() {
    if env::var_os("TIDEMILL_RECORD").is_some() {
        return;
    }
    for id in RECORDED {
        let json = fs::read(folder().join(format!("{id}.json"))).unwrap();
        replay(id, &json).await;
    }
}
