//! Updates: sent until there is a result, by more than one caller at times.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Stage;
use tidemill_proto::api::update::v1::outcome::Value;
use tidemill_proto::api::update::v1::{Input, Meta, Outcome, Request, UpdateRef, WaitPolicy};
use tidemill_proto::api::workflowservice::v1::*;

use super::{call_for, execution, new_run, times, until};
use crate::life::Link;
use crate::oracle;

pub(super) async fn send(link: Link, at: usize, number: usize, when: Duration) {
    until(when).await;
    while !link.client(at, |client| client.updated.contains(&number)) {
        if link.world.one_in(3) {
            tokio::spawn(poll(link.clone(), at, number));
        }
        for _ in 0..times(&link) {
            call(&link, at, number).await;
        }
        link.world.dawdle(300).await;
    }
}

fn name(link: &Link, at: usize, number: usize) -> (String, String) {
    let id = link.world.plan.workflows[at].id.clone();
    let update = format!("update-{id}-{number}");
    (id, update)
}

async fn call(link: &Link, at: usize, number: usize) {
    let (id, update) = name(link, at, number);
    let request = UpdateWorkflowExecutionRequest {
        workflow_execution: execution(&id, ""),
        wait_policy: Some(WaitPolicy {
            lifecycle_stage: Stage::Completed as i32,
        }),
        request: Some(Request {
            meta: Some(Meta {
                update_id: update.clone(),
                ..Default::default()
            }),
            input: Some(Input {
                name: "change".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    // The run that a reset makes is there still.
    let wants_reset = link.world.plan.workflows[at].reset_after.is_some();
    let is_last = !wants_reset || link.client(at, |client| new_run(client).is_some());
    let updated = link.server.update_workflow_execution(
        &link.namespace,
        request,
        call_for(Duration::from_secs(15)),
    );
    let answer = updated.await;
    link.note(&update, &answer, crate::trace::digest);
    match answer {
        Ok(answer) => learn(link, at, number, answer.outcome),
        Err(Error::NotFound(_)) if is_last => over(link, at, number),
        Err(_) => {}
    }
}

/// Somebody else who waits for the same result.
async fn poll(link: Link, at: usize, number: usize) {
    let (id, update) = name(&link, at, number);
    let request = PollWorkflowExecutionUpdateRequest {
        update_ref: Some(UpdateRef {
            workflow_execution: execution(&id, ""),
            update_id: update.clone(),
        }),
        wait_policy: Some(WaitPolicy {
            lifecycle_stage: Stage::Completed as i32,
        }),
        ..Default::default()
    };
    link.world.dawdle(1_000).await;
    let polled = link.server.poll_workflow_execution_update(
        &link.namespace,
        request,
        call_for(Duration::from_secs(15)),
    );
    let answer = polled.await;
    link.note(&format!("poll {update}"), &answer, crate::trace::digest);
    if let Ok(answer) = answer {
        learn(&link, at, number, answer.outcome);
    }
}

fn learn(link: &Link, at: usize, number: usize, outcome: Option<Outcome>) {
    // A worker that rejected it may accept it the next time.
    let Some(Value::Success(result)) = outcome.and_then(|outcome| outcome.value) else {
        return;
    };
    let (id, update) = name(link, at, number);
    let result = oracle::result(&Some(result));
    let most = 1 + usize::from(link.world.plan.workflows[at].reset_after.is_some());
    link.world.with(|shared| {
        shared.stats.updates += 1;
        oracle::update::answered(shared, &id, &update, &result, most);
    });
    over(link, at, number);
}

fn over(link: &Link, at: usize, number: usize) {
    link.client(at, |client| client.updated.insert(number));
}
