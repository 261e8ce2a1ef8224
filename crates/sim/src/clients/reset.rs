//! Resets: a run begins again where one of its workflow tasks ended.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::workflowservice::v1::*;

use super::{call_for, execution, read, times, until};
use crate::life::Link;
use crate::world::Reset;

pub(super) async fn reset(link: Link, at: usize, when: Duration) {
    until(when).await;
    let id = &link.world.plan.workflows[at].id;
    let wanted = loop {
        if let Some(reset) = link.client(at, |client| client.reset.clone()) {
            break reset;
        }
        choose(&link, at).await;
        link.world.dawdle(300).await;
    };
    let request = ResetWorkflowExecutionRequest {
        workflow_execution: execution(id, &wanted.base),
        workflow_task_finish_event_id: wanted.finish_event_id,
        request_id: format!("reset-{id}"),
        reason: "by the plan".into(),
        ..Default::default()
    };
    let new_run = || {
        link.client(at, |client| client.reset.clone())
            .and_then(|reset| reset.new_run)
    };
    while new_run().is_none() {
        for _ in 0..times(&link) {
            let done = link.server.reset_workflow_execution(
                &link.namespace,
                request.clone(),
                call_for(Duration::from_secs(5)),
            );
            let answer = done.await;
            link.note(&format!("reset {id}"), &answer, |answer| {
                answer.run_id.clone()
            });
            if let Err(Error::NotFound(_) | Error::InvalidArgument(_)) = &answer {
                link.world.find(format!("{id} cannot be reset: {answer:?}"));
            }
            let Ok(answer) = answer else { continue };
            link.world.with(|shared| shared.stats.resets += 1);
            let before = link.client(at, |client| {
                let reset = client.reset.as_mut()?;
                reset.new_run.replace(answer.run_id.clone())
            });
            if before.is_some_and(|before| before != answer.run_id) {
                link.world
                    .find(format!("{id} was reset twice by one request"));
            }
        }
        link.world.dawdle(300).await;
    }
}

/// Chooses one of the workflow tasks that the first run has completed, once it has.
async fn choose(link: &Link, at: usize) {
    let id = &link.world.plan.workflows[at].id;
    let Some(base) = link.client(at, |client| client.run_id.clone()) else {
        return;
    };
    let Ok(events) = read(link, id, &base).await else {
        return;
    };
    let ends = events
        .iter()
        .filter(|event| event.event_type() == EventType::WorkflowTaskCompleted);
    let ends: Vec<i64> = ends.map(|event| event.event_id).collect();
    if ends.is_empty() {
        // Terminated before it did anything: there is nothing to go back to.
        let over = events.last().and_then(crate::oracle::history::closing);
        if over.is_some() {
            let nothing = Reset {
                base: base.clone(),
                finish_event_id: 0,
                new_run: Some(base),
            };
            link.client(at, |client| client.reset = Some(nothing));
        }
        return;
    }
    let finish_event_id = ends[link.world.below(ends.len())];
    let wanted = Reset {
        base,
        finish_event_id,
        new_run: None,
    };
    link.client(at, |client| client.reset = Some(wanted));
}
