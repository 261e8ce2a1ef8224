//! Updates: one result, in the history once, the same for whoever asks.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::api::update::v1::outcome::Value;

use super::end::Run;
use super::result;
use crate::world::Shared;

/// A caller was told the result of an update.
pub(crate) fn answered(shared: &mut Shared, workflow: &str, update: &str, result: &str) {
    let name = (workflow.to_owned(), update.to_owned());
    let before = shared.ledger.updates.insert(name, result.to_owned());
    if let Some(before) = before.filter(|before| before != result) {
        shared.find(format!(
            "{update} of {workflow} had the result {before}, and has {result}"
        ));
    }
}

/// What was told against the histories.
pub(super) fn judge(shared: &mut Shared, all: &[Run]) {
    let mut found = Vec::new();
    let mut results: BTreeMap<(String, String), String> = BTreeMap::new();
    for run in all {
        let mut accepted = BTreeSet::new();
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
                    let name = (run.workflow.clone(), update);
                    if results.insert(name, result(&Some(value))).is_some() {
                        found.push(format!("an update of {} was completed twice", run.workflow));
                    }
                }
                _ => {}
            }
        }
    }
    for (name, told) in &shared.ledger.updates {
        let written = results.get(name);
        if written != Some(told) {
            found.push(format!(
                "the result of {name:?} was {told}; in the history it is {written:?}"
            ));
        }
    }
    found.into_iter().for_each(|what| shared.find(what));
}
