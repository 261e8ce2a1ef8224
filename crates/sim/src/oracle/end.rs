//! What is there when everything is over, against what was acknowledged and shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_proto::api::enums::v1::{EventType, WorkflowExecutionStatus, WorkflowTaskFailedCause};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::api::workflow::v1::WorkflowExecutionInfo;
use tidemill_proto::api::workflowservice::v1::*;

use super::{history, result, retention, update};
use crate::clients::{self, call_for, execution};
use crate::life::Link;
use crate::trace::digest;
use crate::world::{Reset, Shared};

/// A run as it is in the end.
pub(super) struct Run {
    pub(super) workflow: String,
    pub(super) id: String,
    pub(super) events: Vec<HistoryEvent>,
    /// How many of its events are those of the run that it was reset from.
    copied: usize,
}

impl Run {
    /// What was written of this run itself.
    fn own(&self) -> &[HistoryEvent] {
        self.events.get(self.copied..).unwrap_or_default()
    }
}

/// One of a workflow's runs came of a reset.
pub(super) fn was_reset(all: &[Run], workflow: &str) -> bool {
    all.iter()
        .any(|run| run.workflow == workflow && run.copied > 0)
}

/// Everything is over and nothing goes wrong: what is there is what was said to be.
pub(crate) async fn at_the_end(link: &Link) {
    // What a run's end does to its child may have to be tried again.
    tokio::time::sleep(Duration::from_secs(60)).await;
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
    let resets: Vec<Reset> = link.world.with(|shared| {
        let resets = shared.clients.iter().filter_map(|c| c.reset.clone());
        resets.filter(|reset| reset.finish_event_id > 0).collect()
    });
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
        let reset = resets
            .iter()
            .find(|reset| reset.new_run.as_ref() == Some(&run.run_id));
        all.push(Run {
            copied: reset.map_or(0, |reset| reset.finish_event_id as usize - 1),
            workflow: run.workflow_id,
            id: run.run_id,
            events,
        });
    }
    link.world.with(|shared| {
        judge(shared, &all);
        update::judge(shared, &all);
        for reset in &resets {
            if let Err(what) = is_reset(reset, &all) {
                shared.find(format!("the reset of run {}: {what}", reset.base));
            }
        }
    });
    for (workflow, client) in link
        .world
        .plan
        .workflows
        .iter()
        .zip(link.world.with(|shared| shared.clients.clone()))
    {
        let runs = all.iter().filter(|run| run.workflow == workflow.id);
        if client
            .run_id
            .is_some_and(|id| !runs.clone().any(|run| run.id == id))
        {
            link.world.find(format!(
                "the run that {} was started as is missing",
                workflow.id
            ));
        }
        // A parent that is reset may start its child again.
        let resets = match link.world.plan.parent(workflow) {
            Some(parent) => parent.reset_after,
            None => workflow.reset_after,
        };
        let most = workflow.continues as usize + 1 + usize::from(resets.is_some());
        if runs.clone().count() > most {
            link.world
                .find(format!("{} has too many runs", workflow.id));
        }
    }
    if link.world.plan.expires {
        retention::begin(link, &all);
    }
}

/// The new run is the old one up to the workflow task, and the old one is over.
fn is_reset(reset: &Reset, all: &[Run]) -> Result<(), String> {
    let find = |id: &str| all.iter().find(|run| run.id == id);
    let new_run = reset.new_run.as_deref().unwrap_or_default();
    let (Some(base), Some(new)) = (find(&reset.base), find(new_run)) else {
        return Err("one of its runs is missing".into());
    };
    if base.events.last().and_then(history::closing).is_none() {
        return Err("it is still open".into());
    }
    for (before, after) in base.events.iter().zip(&new.events).take(new.copied) {
        if before.event_id > 1 && digest(before) != digest(after) {
            return Err(format!("event {} differs in the new run", before.event_id));
        }
    }
    let forgotten = update::forgotten(&base.events, &new.events);
    if !forgotten.is_empty() {
        return Err(format!("the new run does not know of {forgotten:?}"));
    }
    match new
        .own()
        .first()
        .and_then(|event| event.attributes.as_ref())
    {
        Some(E::WorkflowTaskFailedEventAttributes(a))
            if a.cause() == WorkflowTaskFailedCause::ResetWorkflow
                && a.base_run_id == base.id
                && a.new_run_id == new.id =>
        {
            Ok(())
        }
        other => Err(format!("the new run goes on with {other:?}")),
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
fn judge(shared: &mut Shared, all: &[Run]) {
    let mut completed = BTreeSet::new();
    let mut results = BTreeSet::new();
    let mut signals = BTreeSet::new();
    let mut scheduled = BTreeSet::new();
    let mut cancelled = BTreeSet::new();
    let mut open: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut found = Vec::new();
    for run in all {
        let id = &run.id;
        for event in &run.events {
            match &event.attributes {
                Some(E::ActivityTaskScheduledEventAttributes(a)) => {
                    scheduled.insert(format!("{id}/{}", a.activity_id));
                }
                Some(E::WorkflowExecutionCancelRequestedEventAttributes(_)) => {
                    cancelled.insert(run.workflow.clone());
                }
                _ => {}
            }
        }
        let mut signalled = BTreeSet::new();
        for event in run.own() {
            let Some(attributes) = &event.attributes else {
                continue;
            };
            match attributes {
                E::WorkflowTaskCompletedEventAttributes(a) => {
                    if !completed.insert(a.identity.clone()) {
                        found.push(format!("the completion {} is there twice", a.identity));
                    }
                    if !a.identity.starts_with(id.as_str()) {
                        found.push(format!("run {id} has a completion of {}", a.identity));
                    }
                }
                E::ActivityTaskCompletedEventAttributes(a) => {
                    let result = result(&a.result);
                    if !shared.ledger.results.contains_key(&result) {
                        found.push(format!("no worker had the result {result:?} of run {id}"));
                    }
                    if !results.insert(result.clone()) {
                        found.push(format!("the result {result} is there twice"));
                    }
                }
                E::WorkflowExecutionSignaledEventAttributes(a)
                    if !signalled.insert(&a.signal_name) =>
                {
                    found.push(format!("run {id} has {} twice", a.signal_name));
                }
                _ => {}
            }
        }
        let name = |signal: &str| (run.workflow.clone(), signal.to_owned());
        // In a chain of runs a signal belongs to one; a reset brings it into the new run as well.
        for signal in signalled {
            let is_new = signals.insert(name(signal));
            if !is_new && !was_reset(all, &run.workflow) {
                found.push(format!("{} has {signal} twice", run.workflow));
            }
        }
        let time = |event: Option<&HistoryEvent>| {
            event
                .and_then(|event| event.event_time.as_ref())
                .map_or(0, history::nanos)
        };
        let status = run.events.last().map(history::status);
        // A run that a reset makes is not asked again.
        let asked = run
            .events
            .iter()
            .any(|event| event.event_type() == EventType::WorkflowExecutionCancelRequested);
        match status {
            Some(WorkflowExecutionStatus::Completed) if asked => {
                found.push(format!("run {id} was not told that it is to end"));
            }
            Some(WorkflowExecutionStatus::Canceled) if !asked => {
                found.push(format!("run {id} was told to end, by nobody"));
            }
            _ => {}
        }
        let closed = run.events.last().and_then(history::closing).is_some();
        let end = if closed {
            time(run.events.last())
        } else {
            i64::MAX
        };
        open.entry(&run.workflow)
            .or_default()
            .push((time(run.own().first()), end));
        let shown = shared.ledger.shown.get(id).map_or(0, Vec::len);
        if shown > run.events.len() {
            found.push(format!("run {id} lost events that were shown"));
        }
    }
    for (workflow, runs) in &mut open {
        runs.sort_unstable();
        if runs.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            found.push(format!("two runs of {workflow} were open at a time"));
        }
    }
    let ledger = &shared.ledger;
    let runs: BTreeSet<&String> = all.iter().map(|run| &run.id).collect();
    let shown = ledger.shown.keys().filter(|run| !runs.contains(run));
    found.extend(shown.map(|run| format!("run {run} was shown and is gone")));
    let lost = |what: &str| format!("{what} was acknowledged and is lost");
    let marks = ledger.completed.difference(&completed);
    found.extend(marks.map(|mark| lost(&format!("the completion {mark}"))));
    let gone = ledger.signals.difference(&signals);
    found.extend(gone.map(|signal| lost(&format!("the signal {signal:?}"))));
    // A run that was over needs no telling.
    let closed_after = |workflow: &str, at: i64| {
        let mut runs = open[workflow].iter();
        runs.all(|(_, end)| *end > at)
    };
    let gone = ledger
        .cancelled
        .iter()
        .filter(|(workflow, at)| !cancelled.contains(*workflow) && closed_after(workflow, **at));
    found.extend(gone.map(|(workflow, _)| lost(&format!("the cancel request of {workflow}"))));
    let acknowledged = ledger.results.iter().filter(|(_, known)| **known);
    let gone = acknowledged.filter(|(result, _)| !results.contains(*result));
    found.extend(gone.map(|(result, _)| lost(&format!("the result {result}"))));
    let invented = ledger.activity_tasks.keys().filter(|task| {
        !task
            .rsplit_once('/')
            .is_some_and(|(activity, _)| scheduled.contains(activity))
    });
    found.extend(invented.map(|task| format!("the activity task {task} is in no history")));
    found.into_iter().for_each(|what| shared.find(what));
}
