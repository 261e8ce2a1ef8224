//! Updates: one result, in a run's history once, the same for whoever asks. A reset may have one more done again.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::api::update::v1::outcome::Value;

use super::end::{Run, was_reset};
use super::result;
use crate::world::Shared;

/// A caller was told the result of an update.
pub(crate) fn answered(
    shared: &mut Shared,
    workflow: &str,
    update: &str,
    result: &str,
    most: usize,
) {
    let name = (workflow.to_owned(), update.to_owned());
    let results = shared.ledger.updates.entry(name).or_default();
    results.insert(result.to_owned());
    if results.len() > most {
        let results = format!("{results:?}");
        shared.find(format!("{update} of {workflow} has the results {results}"));
    }
}

/// What was told against the histories.
pub(super) fn judge(shared: &mut Shared, all: &[Run]) {
    let mut found = Vec::new();
    let mut results: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for run in all {
        let mut accepted = BTreeSet::new();
        let mut completed = BTreeSet::new();
        for event in &run.events {
            match &event.attributes {
                // Twice is not legal.
                Some(E::WorkflowExecutionUpdateAcceptedEventAttributes(a)) => {
                    accepted.insert(&a.protocol_instance_id);
                }
                Some(E::WorkflowExecutionUpdateCompletedEventAttributes(a)) => {
                    let update = a.meta.clone().unwrap_or_default().update_id;
                    if !accepted.contains(&update) {
                        found.push(format!("{update} was completed and not accepted"));
                    }
                    let value = a.outcome.clone().and_then(|outcome| outcome.value);
                    let Some(Value::Success(value)) = value else {
                        found.push(format!("{update} failed, which no worker said"));
                        continue;
                    };
                    let name = (run.workflow.clone(), update.clone());
                    let is_first = !results.contains_key(&name);
                    // A reset has what came after its point done again, in the new run.
                    if !completed.insert(update) || !(is_first || was_reset(all, &run.workflow)) {
                        found.push(format!("an update of {} was completed twice", run.workflow));
                    }
                    results
                        .entry(name)
                        .or_default()
                        .insert(result(&Some(value)));
                }
                _ => {}
            }
        }
    }
    for (name, told) in &shared.ledger.updates {
        let written = results.get(name);
        if !written.is_some_and(|written| told.is_subset(written)) {
            found.push(format!(
                "the result of {name:?} was {told:?}; in the history it is {written:?}"
            ));
        }
    }
    found.into_iter().for_each(|what| shared.find(what));
}

/// Updates that were accepted after the point of a reset, and that the new run does not know.
pub(super) fn forgotten(base: &[HistoryEvent], new: &[HistoryEvent]) -> BTreeSet<String> {
    let accepted = base.iter().filter_map(|event| match &event.attributes {
        Some(E::WorkflowExecutionUpdateAcceptedEventAttributes(a)) => {
            Some(a.protocol_instance_id.clone())
        }
        _ => None,
    });
    let known: BTreeSet<String> = new.iter().filter_map(known).collect();
    accepted.filter(|update| !known.contains(update)).collect()
}

/// The update that an event brings into a history.
pub(crate) fn known(event: &HistoryEvent) -> Option<String> {
    match &event.attributes {
        Some(E::WorkflowExecutionUpdateAdmittedEventAttributes(a)) => {
            Some(a.request.clone()?.meta?.update_id)
        }
        Some(E::WorkflowExecutionUpdateAcceptedEventAttributes(a)) => {
            Some(a.protocol_instance_id.clone())
        }
        _ => None,
    }
}
