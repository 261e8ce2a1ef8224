//! The search attribute that says which activities of a run are paused.

use std::collections::BTreeSet;

use tidemill_proto::api::common::v1::Payload;

use crate::tx::Tx;

const ATTRIBUTE: &str = "TemporalPauseInfo";
/// Entries with this prefix are ours; a paused run has others, which stay as they are.
const PREFIX: &str = "property:activityType=";

/// Brings the attribute up to date after an activity was paused, unpaused or removed.
pub(super) fn refresh(tx: &mut Tx<'_>) {
    let held = tx
        .run
        .visible
        .search_attributes
        .as_ref()
        .and_then(|s| s.indexed_fields.get(ATTRIBUTE))
        .and_then(|p| serde_json::from_slice::<Vec<String>>(&p.data).ok())
        .unwrap_or_default();
    let paused = tx.run.activities.values().filter(|a| a.pause.is_some());
    let types: BTreeSet<String> = paused
        .map(|a| format!("{PREFIX}{}", a.activity_type))
        .collect();
    let mut entries: Vec<String> = held
        .iter()
        .filter(|e| !e.starts_with(PREFIX))
        .cloned()
        .collect();
    entries.extend(types);
    if entries == held {
        return;
    }
    tx.change_visible(|visible| {
        let fields = &mut visible
            .search_attributes
            .get_or_insert_default()
            .indexed_fields;
        if entries.is_empty() {
            fields.remove(ATTRIBUTE);
        } else {
            fields.insert(ATTRIBUTE.into(), keyword_list(&entries));
        }
    });
}

fn keyword_list(entries: &[String]) -> Payload {
    let data = serde_json::to_vec(entries).expect("a list of strings has a JSON form");
    Payload {
        metadata: [
            ("encoding".to_owned(), b"json/plain".to_vec()),
            ("type".to_owned(), b"KeywordList".to_vec()),
        ]
        .into_iter()
        .collect(),
        data,
        ..Default::default()
    }
}
