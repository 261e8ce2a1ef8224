//! What must hold, judged by requests and answers alone.
//!
//! - What was acknowledged is there, once: starts, signals, completions of tasks.
//! - What was shown of a history stays as it was shown.
//! - Histories are legal: see [`history`].
//! - A workflow id has one open run at most. A reset leaves the run that was open behind, closed.
//! - A task is given out once per attempt, an attempt is completed once, a retry does not come early, and
//!   nothing is given out that no history knows.
//! - An attempt is handed what the last one said of its progress, and is not given up while it speaks.
//! - An update has one result, whoever asks. A query sees what was acknowledged before.
//! - When nothing goes wrong any more, every workflow ends.
//! - Lists and counts say what histories say.
//! - Closed runs are deleted when their time has come, and not before.

mod end;
pub(crate) mod heartbeat;
pub(crate) mod history;
pub(crate) mod retention;
pub(crate) mod update;

pub(crate) use end::at_the_end;

use std::collections::{BTreeMap, BTreeSet};

use tidemill_engine::Error;
use tidemill_proto::api::common::v1::Payloads;
use tidemill_proto::api::enums::v1::EventType;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::workflow::v1::WorkflowExecutionInfo;
use tidemill_proto::api::workflowservice::v1::*;

use crate::host;
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
    /// Workflows of which a cancel request was acknowledged, and when that was.
    cancelled: BTreeMap<String, i64>,
    /// What each update has brought, by workflow and update.
    updates: BTreeMap<(String, String), BTreeSet<String>>,
    /// What attempts said of their progress, by run and activity, in the order in which it was first sent.
    heartbeats: BTreeMap<String, Vec<heartbeat::Beat>>,
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

    /// How many signals of a workflow were acknowledged.
    pub(crate) fn signals_of(&self, workflow: &str) -> usize {
        self.signals.iter().filter(|(id, _)| id == workflow).count()
    }

    pub(crate) fn cancelled(&mut self, workflow: &str, at: i64) {
        self.cancelled.entry(workflow.to_owned()).or_insert(at);
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
    let digests: Vec<u64> = written.iter().map(shape).collect();
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

/// A digest of an event as it is shown. The events of a workflow task may be shown before they are written,
/// when the number of their writing is not known.
fn shape(event: &HistoryEvent) -> u64 {
    let is_task = matches!(
        event.event_type(),
        EventType::WorkflowTaskScheduled | EventType::WorkflowTaskStarted
    );
    let mut event = event.clone();
    if is_task {
        event.task_id = 0;
    }
    digest_bytes(&prost::Message::encode_to_vec(&event))
}

/// A worker got a workflow task. One that an update alone wants is not written before it is done: if it is
/// lost, another one takes its place.
pub(crate) fn workflow_task(shared: &mut Shared, task: &PollWorkflowTaskQueueResponse) {
    let run = task.workflow_execution.clone().unwrap_or_default().run_id;
    let started = task.started_event_id;
    let is_written = task.attempt == 1 && task.messages.is_empty();
    if is_written && !shared.ledger.workflow_tasks.insert((run.clone(), started)) {
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
    heartbeat::handed_on(shared, &run, task);
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
    let silent = heartbeat::given_up_from(shared, &run, task, &before);
    let Some(ended) = failed.into_iter().chain(timed_out).chain(silent).min() else {
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
