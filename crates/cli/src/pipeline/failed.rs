//! The items of a run that failed, from the artifacts in which their outcome is.

use std::collections::HashSet;

use futures::StreamExt;
use serde_json::{Value, json};
use tidemill_connect::artifacts::Artifacts;
use tidemill_pipeline::data::FailedItem;
use tidemill_pipeline::run::RunState;

use crate::exit::Failure;
use crate::{output, table};

/// Prints them, in the order of the nodes.
pub(super) async fn list(
    artifacts: &Artifacts,
    state: &RunState,
    json: bool,
) -> Result<(), Failure> {
    // A fan-out over the results of another brings along what failed there.
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    for node in &state.nodes {
        let Some(fan_out) = &node.fan_out else {
            continue;
        };
        let mut parts = artifacts.parts(&fan_out.results);
        while let Some(part) = parts.next().await {
            let part = part.map_err(Failure::general)?;
            for item in part.failed {
                if seen.insert((item.id.clone(), item.stage.clone())) {
                    items.push((node.id.as_str(), item));
                }
            }
        }
    }
    if json {
        let items: Vec<Value> = items
            .iter()
            .map(|(node, item)| as_json(node, item))
            .collect();
        output::line(json!(items));
        return Ok(());
    }
    let row = |(_, item): &(&str, FailedItem)| {
        let error = item.error.replace('\n', " ");
        vec![item.stage.clone(), item.id.clone(), error]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    output::write(&table::render(&["STAGE", "ITEM", "ERROR"], &rows));
    Ok(())
}

fn as_json(node: &str, item: &FailedItem) -> Value {
    json!({
        "node": node, "stage": item.stage, "item": item.id, "source": item.source,
        "error": item.error,
    })
}
