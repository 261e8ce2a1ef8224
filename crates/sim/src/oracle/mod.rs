//! What must hold, judged by requests and answers alone.
//!
//! - What was acknowledged is there, once: starts, signals, completions of tasks.
//! - What was shown of a history stays as it was shown.
//! - Histories are legal: see [`history`].
//! - A workflow id has one open run at most.
//! - A task is given out once per attempt, an attempt is completed once, a retry does not come early, and
//!   nothing is given out that no history knows.
//! - When nothing goes wrong any more, every workflow ends.
//! - Lists and counts say what histories say.

pub(crate) mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::common::v1::Payloads;
use tidemill_proto::api::enums::v1::{EventType, WorkflowExecutionStatus};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::api::workflow::v1::WorkflowExecutionInfo;
use tidemill_proto::api::workflowservice::v1::*;

use crate::clients::{self, call_for, execution};
use crate::host;
use crate::life::Link;
use crate::trace::digest_bytes;
use crate::workers::RETRY;
use crate::world::{Shared, World};

/// What clients and workers have seen.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Of each run, a digest of each event that was shown.
    shown: BTreeMap<String, Vec<u64>>,
    /// First attempts of workflow tasks: run and started event.
    workflow_tasks: BTreeSet<(String, i64)>,
    /// Activity tasks by run, activity and attempt, and when they were started.
    activity_tasks: BTreeMap<String, i64>,
    /// When an attempt's failure was first sent.
    failures: BTreeMap<String, i64>,
    /// Tokens for which a completion or failure was accepted.
    answered: BTreeSet<Vec<u8>>,
    /// Results of activities that were ever sent, and whether that was acknowledged.
    results: BTreeMap<String, bool>,
    marks: u64,
    /// Completions of workflow tasks that were acknowledged.
    completed: BTreeSet<String>,
    /// Signals that were acknowledged: workflow and name.
    signals: BTreeSet<(String, String)>,
}

impl Ledger {
    pub(crate) fn next_mark(&mut self) -> u64 {
        self.marks += 1;
        self.marks
    }

    pub(crate) fn sent(&mut self, result: &str) {
        self.results.entry(result.to_owned()).or_default();
    }

    pub(crate) fn signalled(&mut self, workflow: &str, signal: &str) {
        self.signals
            .insert((workflow.to_owned(), signal.to_owned()));
    }
}

/// The text in a payload.
pub(crate) fn result(payloads: &Option<Payloads>) -> String {
    let first = payloads
        .as_ref()
        .and_then(|payloads| payloads.payloads.first());
    first.map_or_else(String::new, |first| {
        String::from_utf8_lossy(&first.data).into_owned()
    })
}

/// A history was shown, from its beginning on.
pub(crate) fn observe(shared: &mut Shared, run: &str, events: &[HistoryEvent]) {
    if let Err(what) = history::check(events) {
        shared.find(format!("the history of run {run} is not legal: {what}"));
    }
    let now = host::wall();
    if events
        .iter()
        .any(|event| event.event_time.as_ref().map_or(0, history::nanos) > now)
    {
        shared.find(format!("run {run} has an event of the future"));
    }
    // A workflow task that is not complete may be shown before it is written.
    let mut written = events;
    while let Some((last, before)) = written.split_last()
        && matches!(
            last.event_type(),
            EventType::WorkflowTaskScheduled | EventType::WorkflowTaskStarted
        )
    {
        written = before;
    }
    let digests: Vec<u64> = written
        .iter()
        .map(|event| digest_bytes(&prost::Message::encode_to_vec(event)))
        .collect();
    let shown = shared.ledger.shown.entry(run.to_owned()).or_default();
    let both = shown.len().min(digests.len());
    let differs = (0..both).find(|at| shown[*at] != digests[*at]);
    if digests.len() > shown.len() {
        *shown = digests;
    }
    if let Some(at) = differs {
        shared.find(format!(
            "event {} of run {run} is not what was shown before",
            at + 1
        ));
    }
}

/// A worker got a workflow task.
pub(crate) fn workflow_task(shared: &mut Shared, task: &PollWorkflowTaskQueueResponse) {
    let run = task.workflow_execution.clone().unwrap_or_default().run_id;
    let started = task.started_event_id;
    if task.attempt == 1 && !shared.ledger.workflow_tasks.insert((run.clone(), started)) {
        shared.find(format!(
            "workflow task {started} of run {run} was given out twice"
        ));
    }
}

/// A worker got an activity task.
pub(crate) fn activity_task(shared: &mut Shared, task: &PollActivityTaskQueueResponse) {
    let run = task.workflow_execution.clone().unwrap_or_default().run_id;
    let name = |attempt: i32| format!("{run}/{}/{attempt}", task.activity_id);
    let what = name(task.attempt);
    let started = task.started_time.as_ref().map_or(0, history::nanos);
    if shared
        .ledger
        .activity_tasks
        .insert(what.clone(), started)
        .is_some()
    {
        shared.find(format!("the activity task {what} was given out twice"));
    }
    if started > host::wall() {
        shared.find(format!(
            "the activity task {what} was started in the future"
        ));
    }
    if task.attempt < 2 {
        return;
    }
    let before = name(task.attempt - 1);
    let failed = shared.ledger.failures.get(&before).copied();
    let timeout = task
        .start_to_close_timeout
        .as_ref()
        .map_or(0, history::length);
    let timed_out = shared
        .ledger
        .activity_tasks
        .get(&before)
        .map(|started| started + timeout);
    // An attempt that no worker saw was lost on its way: nothing is known of it.
    let Some(ended) = failed.into_iter().chain(timed_out).min() else {
        return;
    };
    let doublings = u32::try_from(task.attempt - 2).unwrap_or(0).min(3);
    let wait = RETRY * (1 << doublings);
    let wait = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
    if started < ended + wait {
        shared.find(format!(
            "the activity task {what} came {} ms early",
            (ended + wait - started) / 1_000_000
        ));
    }
}

/// The first answer to a task is the only one.
fn accept(shared: &mut Shared, token: &[u8], what: &str) {
    if !shared.ledger.answered.insert(token.to_owned()) {
        shared.find(format!("{what}: the task was answered before"));
    }
}

pub(crate) fn completed<T>(
    shared: &mut Shared,
    token: &[u8],
    mark: &str,
    response: &Result<T, Error>,
) {
    if response.is_ok() {
        accept(shared, token, mark);
        shared.ledger.completed.insert(mark.to_owned());
    }
}

pub(crate) fn activity_completed(shared: &mut Shared, token: &[u8], result: &str, accepted: bool) {
    if accepted {
        accept(shared, token, result);
        shared.ledger.results.insert(result.to_owned(), true);
    }
}

/// An attempt's failure is about to be sent.
pub(crate) fn activity_fails(shared: &mut Shared, what: &str) {
    let now = host::wall();
    shared.ledger.failures.entry(what.to_owned()).or_insert(now);
}

pub(crate) fn activity_failed(shared: &mut Shared, token: &[u8], what: &str, accepted: bool) {
    if accepted {
        accept(shared, token, what);
    }
}

pub(crate) fn one_open_run(world: &World, open: &[WorkflowExecutionInfo]) {
    let mut seen = BTreeSet::new();
    for info in open {
        let id = info.execution.clone().unwrap_or_default().workflow_id;
        if !seen.insert(id.clone()) {
            world.find(format!("{id} has two open runs"));
        }
    }
}

/// Everything is over and nothing goes wrong: what is there is what was said to be.
pub(crate) async fn at_the_end(link: &Link) {
    let call = || call_for(Duration::from_secs(5));
    let request = ListWorkflowExecutionsRequest::default();
    let listed = link
        .server
        .list_workflow_executions(&link.namespace, request, call());
    let counted = link.server.count_workflow_executions(
        &link.namespace,
        CountWorkflowExecutionsRequest::default(),
        call(),
    );
    let (listed, counted) = match (listed.await, counted.await) {
        (Ok(listed), Ok(counted)) => (listed.executions, counted.count),
        _ => return link.world.find("the list cannot be read at the end"),
    };
    if counted != listed.len() as i64 {
        link.world.find(format!(
            "{} runs are listed, {counted} counted",
            listed.len()
        ));
    }
    let mut all = Vec::new();
    for info in listed {
        let run = info.execution.clone().unwrap_or_default();
        let Ok(events) = clients::read(link, &run.workflow_id, &run.run_id).await else {
            link.world
                .find(format!("the history of run {} cannot be read", run.run_id));
            continue;
        };
        let described = link.server.describe_workflow_execution(
            &link.namespace,
            DescribeWorkflowExecutionRequest {
                execution: execution(&run.workflow_id, &run.run_id),
                ..Default::default()
            },
            call(),
        );
        let described = described.await.ok().and_then(|d| d.workflow_execution_info);
        if let Err(what) = agree(&info, described.as_ref(), &events) {
            link.world.find(format!("run {}: {what}", run.run_id));
        }
        all.push((run.workflow_id, run.run_id, events));
    }
    link.world.with(|shared| judge(shared, &all));
    for (workflow, client) in link
        .world
        .plan
        .workflows
        .iter()
        .zip(link.world.with(|shared| shared.clients.clone()))
    {
        let runs = all.iter().filter(|(id, ..)| *id == workflow.id);
        if client
            .run_id
            .is_some_and(|run| !runs.clone().any(|(_, id, _)| *id == run))
        {
            link.world.find(format!(
                "the run that {} was started as is missing",
                workflow.id
            ));
        }
        let most = workflow.continues as usize + 1;
        if runs.clone().count() > most {
            link.world
                .find(format!("{} has too many runs", workflow.id));
        }
    }
}

/// What a list says, what a description says, and the history.
fn agree(
    listed: &WorkflowExecutionInfo,
    described: Option<&WorkflowExecutionInfo>,
    events: &[HistoryEvent],
) -> Result<(), String> {
    let described = described.ok_or("it is listed and cannot be described")?;
    let status = events
        .last()
        .map_or(WorkflowExecutionStatus::Unspecified, |last| {
            history::status(last)
        });
    for (who, info) in [("list", listed), ("description", described)] {
        if info.status() != status {
            return Err(format!(
                "the {who} says {:?}, the history {status:?}",
                info.status()
            ));
        }
    }
    let closed = status != WorkflowExecutionStatus::Running;
    for (who, info) in [("list", listed), ("description", described)] {
        if closed && info.history_length != events.len() as i64 {
            return Err(format!(
                "the {who} says {} events, the history has {}",
                info.history_length,
                events.len()
            ));
        }
        if closed && info.close_time != events.last().and_then(|last| last.event_time) {
            return Err(format!("the {who} has another close time than the history"));
        }
    }
    Ok(())
}

/// The ledger against all histories.
fn judge(shared: &mut Shared, all: &[(String, String, Vec<HistoryEvent>)]) {
    let mut completed = BTreeSet::new();
    let mut results = BTreeSet::new();
    let mut signals = BTreeSet::new();
    let mut scheduled = BTreeSet::new();
    let mut open: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut found = Vec::new();
    for (workflow, run, events) in all {
        for event in events {
            let Some(attributes) = &event.attributes else {
                continue;
            };
            match attributes {
                E::WorkflowTaskCompletedEventAttributes(a) => {
                    if !completed.insert(a.identity.clone()) {
                        found.push(format!("the completion {} is there twice", a.identity));
                    }
                    if !a.identity.starts_with(run.as_str()) {
                        found.push(format!("run {run} has a completion of {}", a.identity));
                    }
                }
                E::ActivityTaskScheduledEventAttributes(a) => {
                    scheduled.insert(format!("{run}/{}", a.activity_id));
                }
                E::ActivityTaskCompletedEventAttributes(a) => {
                    let result = result(&a.result);
                    if !shared.ledger.results.contains_key(&result) {
                        found.push(format!("no worker had the result {result:?} of run {run}"));
                    }
                    if !results.insert(result.clone()) {
                        found.push(format!("the result {result} is there twice"));
                    }
                }
                E::WorkflowExecutionSignaledEventAttributes(a)
                    if !signals.insert((workflow.clone(), a.signal_name.clone())) =>
                {
                    found.push(format!("{workflow} has {} twice", a.signal_name));
                }
                _ => {}
            }
        }
        let time = |event: Option<&HistoryEvent>| {
            event
                .and_then(|event| event.event_time.as_ref())
                .map_or(0, history::nanos)
        };
        let closed = events.last().and_then(history::closing).is_some();
        let end = if closed {
            time(events.last())
        } else {
            i64::MAX
        };
        open.entry(workflow)
            .or_default()
            .push((time(events.first()), end));
        let shown = shared.ledger.shown.get(run).map_or(0, Vec::len);
        if shown > events.len() {
            found.push(format!("run {run} lost events that were shown"));
        }
    }
    for (workflow, mut runs) in open {
        runs.sort_unstable();
        if runs.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            found.push(format!("two runs of {workflow} were open at a time"));
        }
    }
    let ledger = &shared.ledger;
    let runs: BTreeSet<&String> = all.iter().map(|(_, run, _)| run).collect();
    found.extend(
        ledger
            .shown
            .keys()
            .filter(|run| !runs.contains(run))
            .map(|run| format!("run {run} was shown and is gone")),
    );
    found.extend(
        ledger
            .completed
            .difference(&completed)
            .map(|mark| format!("the completion {mark} was acknowledged and is lost")),
    );
    found.extend(
        ledger
            .signals
            .difference(&signals)
            .map(|signal| format!("the signal {signal:?} was acknowledged and is lost")),
    );
    let acknowledged = ledger
        .results
        .iter()
        .filter(|(_, acknowledged)| **acknowledged);
    found.extend(
        acknowledged
            .filter(|(result, _)| !results.contains(*result))
            .map(|(result, _)| format!("the result {result} was acknowledged and is lost")),
    );
    let invented = ledger.activity_tasks.keys().filter(|task| {
        !task
            .rsplit_once('/')
            .is_some_and(|(activity, _)| scheduled.contains(activity))
    });
    found.extend(invented.map(|task| format!("the activity task {task} is in no history")));
    found.into_iter().for_each(|what| shared.find(what));
}
