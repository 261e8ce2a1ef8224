//! Workers: they carry out the plan's workflows from their histories, and activities.
//!
//! While things go wrong they die with a task in hand, are slow beyond its timeout, answer twice, or fail
//! it. A task in hand survives the server's crash: it is answered to the next process.

mod activity;
mod cache;
mod decide;
mod query;
mod update;

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::workflowservice::v1::*;

use self::cache::Worker;
pub(crate) use self::cache::{Cache, STICKY_TIMEOUT};
use crate::clients::{call_for, decoded, queue};
use crate::host;
use crate::life::Link;
use crate::oracle;
use crate::world::Held;

/// What a worker says of a task.
#[derive(Clone)]
pub(crate) enum Answer {
    Completed(Box<Completion>),
    Failed(RespondWorkflowTaskFailedRequest),
    ActivityCompleted(RespondActivityTaskCompletedRequest),
    ActivityFailed(RespondActivityTaskFailedRequest),
}

/// A workflow task that is done, by whom, and what was known then.
#[derive(Clone)]
pub(crate) struct Completion {
    request: RespondWorkflowTaskCompletedRequest,
    worker: Worker,
    run: String,
    events: Vec<HistoryEvent>,
}

/// The first retry of an activity comes so long after its failure, each later one after twice as long.
pub(crate) const RETRY: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(4);
/// In milliseconds, as those that follow.
const ACTIVITY_TIMEOUT: i64 = 10_000;
/// An activity that beats may take its time, but not be silent for long.
const BEATING_TIMEOUT: i64 = 3_600_000;
const HEARTBEAT_TIMEOUT: i64 = 3_000;

pub(crate) fn begin(link: &Link) {
    let held: Vec<u64> = link
        .world
        .with(|shared| shared.held.keys().copied().collect());
    for number in held {
        tokio::spawn(answer(link.clone(), number));
    }
    for number in 0..link.world.plan.workers {
        tokio::spawn(poll_workflow_tasks(link.clone(), number, false));
        if link.world.plan.sticky {
            tokio::spawn(poll_workflow_tasks(link.clone(), number, true));
        }
        tokio::spawn(poll_activities(link.clone(), number));
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

async fn poll_workflow_tasks(link: Link, number: usize, is_sticky: bool) {
    while !link.world.is_over() {
        let (deadline, gone) = patience(&link);
        let worker = Worker::now(&link, number);
        let request = PollWorkflowTaskQueueRequest {
            task_queue: if is_sticky { worker.queue() } else { queue() },
            identity: "worker".into(),
            ..Default::default()
        };
        let poll =
            link.server
                .poll_workflow_task_queue(&link.namespace, request, call_for(deadline));
        let polled = tokio::select! {
            biased;
            () = worker.death(&link) => continue,
            polled = tokio::time::timeout(gone, poll) => polled,
        };
        let Ok(polled) = polled else {
            link.world.say("a poller went away");
            continue;
        };
        let polled = polled.map(decoded);
        link.note("workflow task", &polled, crate::trace::digest);
        match polled {
            Ok(task) if !task.task_token.is_empty() => {
                let sticky = u64::from(is_sticky);
                link.world
                    .with(|shared| shared.stats.sticky_tasks += sticky);
                tokio::spawn(work(link.clone(), worker, task));
            }
            // A server that stops says so at once, each time.
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(_) => link.world.dawdle(500).await,
        }
    }
}

async fn poll_activities(link: Link, number: usize) {
    while !link.world.is_over() {
        let (deadline, gone) = patience(&link);
        let request = PollActivityTaskQueueRequest {
            task_queue: queue(),
            identity: "worker".into(),
            ..Default::default()
        };
        let worker = Worker::now(&link, number);
        let poll =
            link.server
                .poll_activity_task_queue(&link.namespace, request, call_for(deadline));
        let polled = tokio::select! {
            biased;
            () = worker.death(&link) => continue,
            polled = tokio::time::timeout(gone, poll) => polled,
        };
        let Ok(polled) = polled else {
            link.world.say("a poller went away");
            continue;
        };
        link.note("activity task", &polled, crate::trace::digest);
        match polled {
            Ok(task) if !task.task_token.is_empty() => activity::act(&link, worker, task),
            // A server that stops says so at once, each time.
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(_) => link.world.dawdle(500).await,
        }
    }
}

/// A workflow task.
async fn work(link: Link, worker: Worker, task: PollWorkflowTaskQueueResponse) {
    let Some(run) = task.workflow_execution.clone() else {
        return link.world.find("a workflow task of no run");
    };
    // Left alone, it comes again.
    let Ok(events) = worker.history(&link, &task).await else {
        return;
    };
    link.world
        .with(|shared| oracle::observe(shared, &run.run_id, &events));
    if task.query.is_some() {
        return query::answer(&link, &task, &events).await;
    }
    link.world.with(|shared| {
        shared.stats.tasks += 1;
        oracle::workflow_task(shared, &task);
    });
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
        return take(&link, worker, Answer::Failed(failed), Vec::new(), 50);
    }
    let decided = decide::decide(&plan.workflows, &plan.workflows[*at], &events);
    let number = link.world.with(|shared| shared.ledger.next_mark());
    // Stands in the history, and tells completions apart.
    let mark = format!("{}/{number}", run.run_id);
    let closes = decided.iter().any(closes);
    let updates = update::answer(&link, &task, &events, &mark, closes);
    let commands = updates.commands.into_iter().chain(decided);
    let request = RespondWorkflowTaskCompletedRequest {
        query_results: query::results(&task, &events),
        // An update that was answered may be what the workflow waits for.
        force_create_new_workflow_task: !updates.messages.is_empty() && !closes,
        messages: updates.messages,
        commands: commands.map(decide::command).collect(),
        sticky_attributes: worker.wish(&link),
        return_new_workflow_task: link.world.one_in(2),
        task_token: task.task_token,
        identity: mark,
        ..Default::default()
    };
    let started = usize::try_from(task.started_event_id).unwrap_or(0);
    let completion = Completion {
        request,
        worker,
        run: run.run_id,
        events: events.get(..started).unwrap_or_default().to_vec(),
    };
    let answer = Answer::Completed(Box::new(completion));
    take(&link, worker, answer, Vec::new(), 50);
}

fn closes(command: &C) -> bool {
    matches!(
        command,
        C::CompleteWorkflowExecutionCommandAttributes(_)
            | C::ContinueAsNewWorkflowExecutionCommandAttributes(_)
            | C::CancelWorkflowExecutionCommandAttributes(_)
    )
}

/// Has a task in hand and will answer it, usually.
/// `beats` says when it tells before that that it is alive, in milliseconds from now.
fn take(link: &Link, worker: Worker, answer_: Answer, beats: Vec<u64>, most_ms: usize) {
    let mut most_ms = most_ms;
    let mut times = 1;
    if faulty(link) {
        match link.world.below(12) {
            0 => return worker.dies(link),
            1 => most_ms = 25_000,
            2 => times = 2,
            // It says that it is alive for a while, and no more.
            3 if !beats.is_empty() => times = 0,
            _ => {}
        }
    }
    let from_now = |ms: u64| host::now() + ms * 1_000_000;
    let beats: Vec<u64> = beats.into_iter().map(from_now).collect();
    let begun = beats.last().copied().unwrap_or_else(host::now);
    let mut at = Vec::new();
    for _ in 0..times {
        let wait = link.world.below(most_ms + 1) as u64;
        at.push(begun + wait * 1_000_000);
    }
    let number = link.world.with(|shared| {
        shared.last_held += 1;
        shared.held.insert(
            shared.last_held,
            Held {
                at,
                beats,
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
        let beat = held.beats.first().copied();
        let Some(at) = beat.or(held.at.first().copied()) else {
            break;
        };
        let wait = at.saturating_sub(host::now());
        tokio::time::sleep(Duration::from_nanos(wait)).await;
        let answered = match beat {
            Some(at) => activity::beat(&link, &held.answer, at).await,
            None => respond(&link, &held.answer).await,
        };
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
            let Some(held) = shared.held.get_mut(&number) else {
                return;
            };
            if beat.is_some() {
                held.beats.remove(0);
            } else {
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
        Answer::Completed(done) => {
            let (token, mark) = (
                done.request.task_token.clone(),
                done.request.identity.clone(),
            );
            let response = server.respond_workflow_task_completed(namespace, done.request, call);
            let response = response.await;
            link.note(
                &format!("completed {mark}"),
                &response,
                crate::trace::digest,
            );
            link.world
                .with(|shared| oracle::completed(shared, &token, &mark, &response));
            let response = response?;
            done.worker.keep(link, &done.run, &done.events);
            if let Some(task) = response.workflow_task {
                tokio::spawn(work(link.clone(), done.worker, task));
            }
            Ok(())
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
