//! Clients: each has a workflow that it starts, signals, updates, asks, perhaps cancels, resets or
//! terminates, and waits for.
//!
//! A request that was not answered, or was answered with "unavailable", is sent again with the same
//! request id until it is answered.

mod query;
mod reset;
mod update;

use std::time::Duration;

use prost::Message;
use tidemill_engine::Error;
use tidemill_proto::api::common::v1::{Payload, Payloads, WorkflowExecution, WorkflowType};
use tidemill_proto::api::enums::v1::{HistoryEventFilterType, TaskQueueKind};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::taskqueue::v1::TaskQueue;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::with_history::WithHistory;
use tidemill_server::Call;
use tokio::time::Instant;

use crate::host;
use crate::life::Link;
use crate::oracle;
use crate::world::{Client, World, now};

pub(crate) const QUEUE: &str = "queue";

/// Sends the clients on their way, where they are.
pub(crate) fn begin(link: &Link) {
    for (at, workflow) in link.world.plan.workflows.iter().enumerate() {
        if !workflow.is_child && !workflow.is_absent {
            tokio::spawn(attend(link.clone(), at));
        }
    }
    tokio::spawn(look_around(link.clone()));
}

pub(crate) fn undone(world: &World) -> Vec<String> {
    let workflows = world.plan.workflows.iter().enumerate();
    let undone = workflows.filter(|(at, workflow)| {
        !workflow.is_child
            && !workflow.is_absent
            && !world.with(|shared| shared.clients[*at].closed)
    });
    undone.map(|(_, workflow)| workflow.id.clone()).collect()
}

pub(crate) async fn until_done(world: &World) {
    while !undone(world).is_empty() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A call whose caller gives up after so long.
pub(crate) fn call_for(time: Duration) -> Call {
    Call {
        deadline: Some(Instant::now() + time),
        client_name: "temporal-cli".into(),
    }
}

pub(crate) fn queue() -> Option<TaskQueue> {
    Some(TaskQueue {
        name: QUEUE.into(),
        kind: TaskQueueKind::Normal as i32,
        ..Default::default()
    })
}

pub(crate) fn text(text: String) -> Option<Payloads> {
    Some(Payloads {
        payloads: vec![Payload {
            data: text.into_bytes(),
            ..Default::default()
        }],
    })
}

impl Link {
    /// Notes a request's answer.
    pub(crate) fn note<T>(
        &self,
        what: &str,
        answer: &Result<T, Error>,
        shown: impl Fn(&T) -> String,
    ) {
        self.world.with(|shared| {
            shared.stats.requests += 1;
            match answer {
                Ok(answer) => {
                    let shown = shown(answer);
                    shared.trace.say(format_args!("{what}: {shown}"));
                }
                Err(error) => {
                    shared.stats.failed_requests += 1;
                    shared.trace.say(format_args!("{what}: {error:?}"));
                    if matches!(error, Error::Internal(_) | Error::DataLoss(_)) {
                        shared.find(format!("{what}: {error:?}"));
                    }
                }
            }
        });
    }

    fn client<T>(&self, at: usize, f: impl FnOnce(&mut Client) -> T) -> T {
        self.world.with(|shared| f(&mut shared.clients[at]))
    }
}

async fn until(time: Duration) {
    tokio::time::sleep(time.saturating_sub(now())).await;
}

async fn attend(link: Link, at: usize) {
    let workflow = &link.world.plan.clone().workflows[at];
    until(workflow.starts_at).await;
    start(&link, at).await;
    let begun = link.client(at, |client| client.started_at);
    for (number, after) in workflow.updates.iter().enumerate() {
        tokio::spawn(update::send(link.clone(), at, number, begun + *after));
    }
    for (number, after) in workflow.queries.iter().enumerate() {
        tokio::spawn(query::ask(link.clone(), at, number, begun + *after));
    }
    if let Some(after) = workflow.cancelled_after {
        tokio::spawn(cancel(link.clone(), at, begun + after));
    }
    if let Some(after) = workflow.reset_after {
        tokio::spawn(reset::reset(link.clone(), at, begun + after));
    }
    while link.client(at, |client| client.signals) < workflow.signals.len() {
        let number = link.client(at, |client| client.signals);
        until(begun + workflow.signals[number]).await;
        signal(&link, at, number).await;
    }
    if let Some(after) = workflow.terminated_after {
        until(begun + after).await;
        terminate(&link, at).await;
    }
    wait_for_the_end(&link, at).await;
}

/// The run that a reset has made.
fn new_run(client: &Client) -> Option<String> {
    client.reset.clone().and_then(|reset| reset.new_run)
}

/// Some requests are sent twice.
fn times(link: &Link) -> usize {
    let faults = link.world.plan.faults.clients && !link.world.is_calm();
    1 + usize::from(faults && link.world.one_in(4))
}

async fn start(link: &Link, at: usize) {
    let id = &link.world.plan.workflows[at].id;
    loop {
        if link.client(at, |client| client.run_id.is_some()) {
            return;
        }
        let request = StartWorkflowExecutionRequest {
            workflow_id: id.clone(),
            workflow_type: Some(WorkflowType {
                name: "Plan".into(),
            }),
            task_queue: queue(),
            request_id: format!("start-{id}"),
            ..Default::default()
        };
        for _ in 0..times(link) {
            let started = link.server.start_workflow_execution(
                &link.namespace,
                request.clone(),
                call_for(Duration::from_secs(5)),
            );
            let answer = started.await;
            link.note(&format!("start {id}"), &answer, |answer| {
                answer.run_id.clone()
            });
            let Ok(answer) = answer else { continue };
            let before = link.client(at, |client| {
                if client.run_id.is_none() {
                    client.started_at = now();
                }
                client.run_id.replace(answer.run_id.clone())
            });
            if before.is_some_and(|before| before != answer.run_id) {
                link.world
                    .find(format!("{id} was started twice by one request"));
            }
        }
        link.world.dawdle(300).await;
    }
}

async fn signal(link: &Link, at: usize, number: usize) {
    let id = &link.world.plan.workflows[at].id;
    let request = SignalWorkflowExecutionRequest {
        workflow_execution: execution(id, ""),
        signal_name: format!("signal-{number}"),
        request_id: format!("signal-{id}-{number}"),
        ..Default::default()
    };
    let mut answered = false;
    let is_to_be_reset = link.world.plan.workflows[at].reset_after.is_some();
    while !answered {
        // A run that is over may be reset, and wait for it again.
        let was_reset = link.client(at, |client| new_run(client).is_some());
        for _ in 0..times(link) {
            let sent = link.server.signal_workflow_execution(
                &link.namespace,
                request.clone(),
                call_for(Duration::from_secs(5)),
            );
            let answer = sent.await;
            link.note(&format!("signal {id} {number}"), &answer, |_| "ok".into());
            match answer {
                Ok(_) => {
                    answered = true;
                    link.world
                        .with(|shared| shared.ledger.signalled(id, &request.signal_name));
                }
                // It has closed: it was terminated, or has had the signal.
                Err(Error::NotFound(_)) => answered = was_reset || !is_to_be_reset,
                Err(_) => {}
            }
        }
        link.world.dawdle(300).await;
    }
    link.client(at, |client| client.signals = number + 1);
    let queries = &link.world.plan.workflows[at].queries;
    if !queries.is_empty() {
        // Before the workflow has had it.
        tokio::spawn(query::ask(link.clone(), at, queries.len() + number, now()));
    }
}

async fn terminate(link: &Link, at: usize) {
    let id = &link.world.plan.workflows[at].id;
    while !link.client(at, |client| client.terminated) {
        let request = TerminateWorkflowExecutionRequest {
            workflow_execution: execution(id, ""),
            reason: "by the plan".into(),
            first_execution_run_id: String::new(),
            ..Default::default()
        };
        let terminated = link.server.terminate_workflow_execution(
            &link.namespace,
            request,
            call_for(Duration::from_secs(5)),
        );
        let answer = terminated.await;
        link.note(&format!("terminate {id}"), &answer, |_| "ok".into());
        if matches!(answer, Ok(_) | Err(Error::NotFound(_))) {
            link.client(at, |client| client.terminated = true);
        }
        link.world.dawdle(300).await;
    }
}

async fn cancel(link: Link, at: usize, when: Duration) {
    until(when).await;
    let id = &link.world.plan.workflows[at].id;
    while !link.client(at, |client| client.cancelled) {
        let request = RequestCancelWorkflowExecutionRequest {
            workflow_execution: execution(id, ""),
            request_id: format!("cancel-{id}"),
            ..Default::default()
        };
        for _ in 0..times(&link) {
            let asked = link.server.request_cancel_workflow_execution(
                &link.namespace,
                request.clone(),
                call_for(Duration::from_secs(5)),
            );
            let answer = asked.await;
            link.note(&format!("cancel {id}"), &answer, |_| "ok".into());
            if answer.is_ok() {
                link.world.with(|shared| {
                    shared.stats.cancels += 1;
                    shared.ledger.cancelled(id, host::wall());
                });
            }
            if matches!(answer, Ok(_) | Err(Error::NotFound(_))) {
                link.client(at, |client| client.cancelled = true);
            }
        }
        link.world.dawdle(300).await;
    }
}

/// Waits for the last run of the chain to close.
async fn wait_for_the_end(link: &Link, at: usize) {
    let workflow = &link.world.plan.workflows[at];
    let id = &workflow.id;
    // A reset makes a new run of one that may be over.
    while workflow.reset_after.is_some() && link.client(at, |client| new_run(client).is_none()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut run = link
        .client(at, |client| new_run(client).or(client.run_id.clone()))
        .unwrap_or_default();
    while !link.client(at, |client| client.closed) {
        let request = GetWorkflowExecutionHistoryRequest {
            execution: execution(id, &run),
            wait_new_event: true,
            history_event_filter_type: HistoryEventFilterType::CloseEvent as i32,
            ..Default::default()
        };
        let read = link.server.get_workflow_execution_history(
            &link.namespace,
            request,
            call_for(Duration::from_secs(20)),
        );
        let answer = read.await.map(decoded);
        link.note(&format!("wait {id} {run}"), &answer, crate::trace::digest);
        let last = answer
            .ok()
            .and_then(|answer| answer.history?.events.into_iter().last());
        match last.as_ref().map(oracle::history::closing) {
            Some(Some(next)) if next.is_empty() => link.client(at, |client| client.closed = true),
            Some(Some(next)) => run = next,
            _ => link.world.dawdle(1_000).await,
        }
    }
}

/// Somebody who reads: lists, histories.
async fn look_around(link: Link) {
    while !link.world.is_over() {
        link.world.dawdle(3_000).await;
        let request = ListWorkflowExecutionsRequest {
            query: "ExecutionStatus = 'Running'".into(),
            ..Default::default()
        };
        let listed = link.server.list_workflow_executions(
            &link.namespace,
            request,
            call_for(Duration::from_secs(5)),
        );
        let answer = listed.await;
        link.note("list", &answer, crate::trace::digest);
        let Ok(answer) = answer else { continue };
        oracle::one_open_run(&link.world, &answer.executions);
        if let Some(info) = answer
            .executions
            .get(link.world.below(answer.executions.len()))
            && let Some(execution) = &info.execution
        {
            let _ = read(&link, &execution.workflow_id, &execution.run_id).await;
        }
    }
}

/// An answer with its history to look at.
pub(crate) fn decoded<M: Message + Default, const TAG: u32>(answer: WithHistory<M, TAG>) -> M {
    answer.decoded().expect("a stored history can be decoded")
}

/// A whole history, which is checked.
pub(crate) async fn read(link: &Link, id: &str, run: &str) -> Result<Vec<HistoryEvent>, Error> {
    let request = GetWorkflowExecutionHistoryRequest {
        maximum_page_size: 1 + link.world.below(20) as i32,
        ..Default::default()
    };
    let events = pages(link, id, run, request).await?;
    link.world
        .with(|shared| oracle::observe(shared, run, &events));
    Ok(events)
}

/// The pages of a history from the one that a request asks for.
pub(crate) async fn pages(
    link: &Link,
    id: &str,
    run: &str,
    mut request: GetWorkflowExecutionHistoryRequest,
) -> Result<Vec<HistoryEvent>, Error> {
    let mut events = Vec::new();
    request.execution = execution(id, run);
    loop {
        let page = link.server.get_workflow_execution_history(
            &link.namespace,
            request.clone(),
            call_for(Duration::from_secs(5)),
        );
        let answer = page.await.map(decoded);
        link.note(
            &format!("history {id} {run}"),
            &answer,
            crate::trace::digest,
        );
        let page = answer?;
        events.extend(page.history.unwrap_or_default().events);
        request.next_page_token = page.next_page_token;
        if request.next_page_token.is_empty() {
            return Ok(events);
        }
    }
}

pub(crate) fn execution(id: &str, run: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution {
        workflow_id: id.into(),
        run_id: run.into(),
    })
}
