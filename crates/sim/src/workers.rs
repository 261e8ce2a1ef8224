//! Workers: they carry out the plan's workflows from their histories, and activities.
//!
//! While things go wrong they die with a task in hand, are slow beyond its timeout, answer twice, or fail
//! it. A task in hand survives the server's crash: it is answered to the next process.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::command::v1::*;
use tidemill_proto::api::common::v1::{ActivityType, RetryPolicy, WorkflowType};
use tidemill_proto::api::enums::v1::{CommandType, WorkflowTaskFailedCause};
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure, failure};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_proto::wkt;

use crate::clients::{QUEUE, call_for, decoded, execution, queue, text};
use crate::host;
use crate::life::Link;
use crate::oracle;
use crate::plan::{Step, Workflow};
use crate::world::Held;

/// What a worker says of a task.
#[derive(Clone)]
pub(crate) enum Answer {
    Completed(RespondWorkflowTaskCompletedRequest),
    Failed(RespondWorkflowTaskFailedRequest),
    ActivityCompleted(RespondActivityTaskCompletedRequest),
    ActivityFailed(RespondActivityTaskFailedRequest),
}

/// The first retry of an activity comes so long after its failure, each later one after twice as long.
pub(crate) const RETRY: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(4);
const ACTIVITY_TIMEOUT: i64 = 10_000;

pub(crate) fn begin(link: &Link) {
    let held: Vec<u64> = link
        .world
        .with(|shared| shared.held.keys().copied().collect());
    for number in held {
        tokio::spawn(answer(link.clone(), number));
    }
    for _ in 0..link.world.plan.workers {
        tokio::spawn(poll_workflow_tasks(link.clone()));
        tokio::spawn(poll_activities(link.clone()));
    }
}

fn faulty(link: &Link) -> bool {
    link.world.plan.faults.workers && !link.world.is_calm()
}

/// How long a poll is held; some workers go away in the middle.
fn patience(link: &Link) -> (Duration, Duration) {
    if faulty(link) && link.world.one_in(3) {
        let gone = Duration::from_millis(link.world.below(3_000) as u64);
        return (Duration::from_secs(30), gone);
    }
    (Duration::from_secs(30), Duration::from_secs(60))
}

async fn poll_workflow_tasks(link: Link) {
    loop {
        let (deadline, gone) = patience(&link);
        let request = PollWorkflowTaskQueueRequest {
            task_queue: queue(),
            identity: "worker".into(),
            ..Default::default()
        };
        let poll =
            link.server
                .poll_workflow_task_queue(&link.namespace, request, call_for(deadline));
        let Ok(polled) = tokio::time::timeout(gone, poll).await else {
            link.world.say("a poller went away");
            continue;
        };
        let polled = polled.map(decoded);
        link.note("workflow task", &polled, crate::trace::digest);
        match polled {
            Ok(task) if !task.task_token.is_empty() => {
                tokio::spawn(work(link.clone(), task));
            }
            // A server that stops says so at once, each time.
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(_) => link.world.dawdle(500).await,
        }
    }
}

async fn poll_activities(link: Link) {
    loop {
        let (deadline, gone) = patience(&link);
        let request = PollActivityTaskQueueRequest {
            task_queue: queue(),
            identity: "worker".into(),
            ..Default::default()
        };
        let poll =
            link.server
                .poll_activity_task_queue(&link.namespace, request, call_for(deadline));
        let Ok(polled) = tokio::time::timeout(gone, poll).await else {
            link.world.say("a poller went away");
            continue;
        };
        link.note("activity task", &polled, crate::trace::digest);
        match polled {
            Ok(task) if !task.task_token.is_empty() => act(&link, task),
            // A server that stops says so at once, each time.
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(_) => link.world.dawdle(500).await,
        }
    }
}

/// A workflow task.
async fn work(link: Link, task: PollWorkflowTaskQueueResponse) {
    let Some(run) = task.workflow_execution.clone() else {
        return link.world.find("a workflow task of no run");
    };
    link.world.with(|shared| {
        shared.stats.tasks += 1;
        oracle::workflow_task(shared, &task);
    });
    let mut events = task.history.clone().unwrap_or_default().events;
    let mut token = task.next_page_token.clone();
    while !token.is_empty() {
        let request = GetWorkflowExecutionHistoryRequest {
            execution: execution(&run.workflow_id, &run.run_id),
            next_page_token: token,
            ..Default::default()
        };
        let page = link.server.get_workflow_execution_history(
            &link.namespace,
            request,
            call_for(Duration::from_secs(5)),
        );
        let answer = page.await.map(decoded);
        link.note("more history", &answer, crate::trace::digest);
        // Left alone, it comes again.
        let Ok(page) = answer else { return };
        events.extend(page.history.unwrap_or_default().events);
        token = page.next_page_token;
    }
    link.world
        .with(|shared| oracle::observe(shared, &run.run_id, &events));
    let Some(at) = link.world.workflows.get(&run.workflow_id) else {
        return link.world.find(format!(
            "a task of {}, which nobody started",
            run.workflow_id
        ));
    };
    let plan = link.world.plan.clone();
    if faulty(&link) && link.world.one_in(12) {
        let failed = RespondWorkflowTaskFailedRequest {
            task_token: task.task_token,
            cause: WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure as i32,
            identity: "worker".into(),
            ..Default::default()
        };
        return take(&link, Answer::Failed(failed), 50);
    }
    let commands = decide(&plan.workflows, &plan.workflows[*at], &events);
    let number = link.world.with(|shared| shared.ledger.next_mark());
    let completed = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token,
        commands: commands.into_iter().map(command).collect(),
        // Stands in the history, and tells completions apart.
        identity: format!("{}/{number}", run.run_id),
        ..Default::default()
    };
    take(&link, Answer::Completed(completed), 50);
}

/// An activity task.
fn act(link: &Link, task: PollActivityTaskQueueResponse) {
    link.world.with(|shared| {
        shared.stats.tasks += 1;
        oracle::activity_task(shared, &task);
    });
    let run = task.workflow_execution.unwrap_or_default();
    let failures: i32 = task
        .activity_id
        .rsplit('-')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let what = format!("{}/{}/{}", run.run_id, task.activity_id, task.attempt);
    let answer = if task.attempt <= failures {
        Answer::ActivityFailed(RespondActivityTaskFailedRequest {
            task_token: task.task_token,
            failure: Some(Failure {
                message: what,
                failure_info: Some(failure::FailureInfo::ApplicationFailureInfo(
                    ApplicationFailureInfo::default(),
                )),
                ..Default::default()
            }),
            ..Default::default()
        })
    } else {
        link.world.with(|shared| shared.ledger.sent(&what));
        Answer::ActivityCompleted(RespondActivityTaskCompletedRequest {
            task_token: task.task_token,
            result: text(what),
            ..Default::default()
        })
    };
    take(link, answer, 1_500);
}

/// Has a task in hand and will answer it, usually.
fn take(link: &Link, answer_: Answer, most_ms: usize) {
    let mut most_ms = most_ms;
    let mut times = 1;
    if faulty(link) {
        match link.world.below(12) {
            0 => return link.world.say("a worker died"),
            1 => most_ms = 25_000,
            2 => times = 2,
            _ => {}
        }
    }
    let mut at = Vec::new();
    for _ in 0..times {
        let wait = link.world.below(most_ms + 1) as u64;
        at.push(host::now() + wait * 1_000_000);
    }
    let number = link.world.with(|shared| {
        shared.last_held += 1;
        shared.held.insert(
            shared.last_held,
            Held {
                at,
                answer: answer_,
            },
        );
        shared.last_held
    });
    tokio::spawn(answer(link.clone(), number));
}

/// Answers a task that is in hand, until there is an answer to that.
async fn answer(link: Link, number: u64) {
    while let Some(held) = link.world.with(|shared| shared.held.get(&number).cloned()) {
        let Some(at) = held.at.first() else {
            break;
        };
        let wait = at.saturating_sub(host::now());
        tokio::time::sleep(Duration::from_nanos(wait)).await;
        let answered = respond(&link, &held.answer).await;
        if matches!(
            answered,
            Err(Error::Unavailable(_)
                | Error::DeadlineExceeded(_)
                | Error::ResourceExhausted { .. })
        ) {
            link.world.dawdle(300).await;
            continue;
        }
        link.world.with(|shared| {
            if let Some(held) = shared.held.get_mut(&number) {
                held.at.remove(0);
            }
        });
    }
    link.world.with(|shared| shared.held.remove(&number));
}

async fn respond(link: &Link, answer: &Answer) -> Result<(), Error> {
    let call = call_for(Duration::from_secs(10));
    let (server, namespace) = (&link.server, &link.namespace);
    match answer.clone() {
        Answer::Completed(request) => {
            let (token, mark) = (request.task_token.clone(), request.identity.clone());
            let response = server.respond_workflow_task_completed(namespace, request, call);
            let response = response.await;
            link.note(
                &format!("completed {mark}"),
                &response,
                crate::trace::digest,
            );
            link.world
                .with(|shared| oracle::completed(shared, &token, &mark, &response));
            response.map(|_| ())
        }
        Answer::Failed(request) => {
            let response = server
                .respond_workflow_task_failed(namespace, request, call)
                .await;
            link.note("failed a workflow task", &response, |_| "ok".into());
            response.map(|_| ())
        }
        Answer::ActivityCompleted(request) => {
            let (token, result) = (request.task_token.clone(), oracle::result(&request.result));
            let response = server.respond_activity_task_completed(namespace, request, call);
            let response = response.await;
            link.note(&format!("activity completed {result}"), &response, |_| {
                "ok".into()
            });
            link.world.with(|shared| {
                oracle::activity_completed(shared, &token, &result, response.is_ok())
            });
            response.map(|_| ())
        }
        Answer::ActivityFailed(request) => {
            let (token, what) = (
                request.task_token.clone(),
                request.failure.clone().unwrap_or_default().message,
            );
            link.world
                .with(|shared| oracle::activity_fails(shared, &what));
            let response = server
                .respond_activity_task_failed(namespace, request, call)
                .await;
            link.note(&format!("activity failed {what}"), &response, |_| {
                "ok".into()
            });
            link.world
                .with(|shared| oracle::activity_failed(shared, &token, &what, response.is_ok()));
            response.map(|_| ())
        }
    }
}

fn millis(ms: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration {
        seconds: ms / 1000,
        nanos: (ms % 1000 * 1_000_000) as i32,
    })
}

/// What the workflow does next, from its history alone.
fn decide(workflows: &[Workflow], workflow: &Workflow, events: &[HistoryEvent]) -> Vec<C> {
    let attributes = || events.iter().filter_map(|event| event.attributes.as_ref());
    let ends: Vec<i64> = attributes()
        .filter_map(|attributes| match attributes {
            E::ActivityTaskCompletedEventAttributes(a) => Some(a.scheduled_event_id),
            E::ActivityTaskFailedEventAttributes(a) => Some(a.scheduled_event_id),
            E::ActivityTaskTimedOutEventAttributes(a) => Some(a.scheduled_event_id),
            E::TimerFiredEventAttributes(a) => Some(a.started_event_id),
            E::ChildWorkflowExecutionCompletedEventAttributes(a) => Some(a.initiated_event_id),
            E::ChildWorkflowExecutionTerminatedEventAttributes(a) => Some(a.initiated_event_id),
            _ => None,
        })
        .collect();
    let begun = |is_it: &dyn Fn(&E) -> bool| {
        events
            .iter()
            .find(|event| event.attributes.as_ref().is_some_and(is_it))
            .map(|event| event.event_id)
    };
    let signals = attributes()
        .filter(|a| matches!(a, E::WorkflowExecutionSignaledEventAttributes(_)))
        .count();
    for (number, step) in workflow.steps.iter().enumerate() {
        let mut commands = Vec::new();
        let mut waits = false;
        let mut go = |begun: Option<i64>, begin: C| match begun {
            None => {
                commands.push(begin);
                waits = true;
            }
            Some(id) => waits |= !ends.contains(&id),
        };
        match step {
            Step::Activities(failures) => {
                for (at, failures) in failures.iter().enumerate() {
                    let id = format!("activity-{number}-{at}-{failures}");
                    let is_it = |a: &E| matches!(a, E::ActivityTaskScheduledEventAttributes(a) if a.activity_id == id);
                    go(begun(&is_it), activity(&id));
                }
            }
            Step::Timer(time) => {
                let id = format!("timer-{number}");
                let is_it =
                    |a: &E| matches!(a, E::TimerStartedEventAttributes(a) if a.timer_id == id);
                let start = C::StartTimerCommandAttributes(StartTimerCommandAttributes {
                    timer_id: id.clone(),
                    start_to_fire_timeout: millis(time.as_millis() as i64),
                });
                go(begun(&is_it), start);
            }
            Step::Signals(count) => waits = signals < *count,
            Step::Child(at) => {
                let id = &workflows[*at].id;
                let is_it = |a: &E| matches!(a, E::StartChildWorkflowExecutionInitiatedEventAttributes(a) if a.workflow_id == *id);
                go(begun(&is_it), child(id));
            }
        }
        if waits {
            return commands;
        }
    }
    let runs_before = attributes()
        .find_map(|attributes| match attributes {
            E::WorkflowExecutionStartedEventAttributes(a) => {
                Some(oracle::result(&a.input).parse().unwrap_or(0))
            }
            _ => None,
        })
        .unwrap_or(0);
    if runs_before < workflow.continues {
        let again = ContinueAsNewWorkflowExecutionCommandAttributes {
            input: text((runs_before + 1).to_string()),
            ..Default::default()
        };
        return vec![C::ContinueAsNewWorkflowExecutionCommandAttributes(again)];
    }
    vec![C::CompleteWorkflowExecutionCommandAttributes(
        CompleteWorkflowExecutionCommandAttributes::default(),
    )]
}

fn activity(id: &str) -> C {
    C::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
        activity_id: id.into(),
        activity_type: Some(ActivityType {
            name: "Step".into(),
        }),
        task_queue: queue(),
        start_to_close_timeout: millis(ACTIVITY_TIMEOUT),
        retry_policy: Some(RetryPolicy {
            initial_interval: millis(RETRY.as_millis() as i64),
            backoff_coefficient: 2.0,
            maximum_interval: millis(RETRY_MOST.as_millis() as i64),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn child(id: &str) -> C {
    C::StartChildWorkflowExecutionCommandAttributes(StartChildWorkflowExecutionCommandAttributes {
        workflow_id: id.into(),
        workflow_type: Some(WorkflowType {
            name: "Plan".into(),
        }),
        task_queue: queue(),
        ..Default::default()
    })
}

fn command(attributes: C) -> Command {
    let kind = match &attributes {
        C::CompleteWorkflowExecutionCommandAttributes(_) => CommandType::CompleteWorkflowExecution,
        C::ScheduleActivityTaskCommandAttributes(_) => CommandType::ScheduleActivityTask,
        C::StartTimerCommandAttributes(_) => CommandType::StartTimer,
        C::ContinueAsNewWorkflowExecutionCommandAttributes(_) => {
            CommandType::ContinueAsNewWorkflowExecution
        }
        C::StartChildWorkflowExecutionCommandAttributes(_) => {
            CommandType::StartChildWorkflowExecution
        }
        other => unreachable!("no plan has {other:?} on {QUEUE}"),
    };
    Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}
