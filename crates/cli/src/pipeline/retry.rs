//! `tidemill retry`: a new run that uses again what an earlier one has done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;
use tidemill_pipeline::plan::Plan;
use tidemill_pipeline::run::{FanOutResult, RunState, Status};
use tidemill_runtime::client::StartOptions;

use super::history::Histories;
use super::{Target, check, follow};
use crate::exit::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The run's id.
    #[arg(value_name = "RUN")]
    run: String,
    /// Run this stage and all that follow from it again, also if they ended well.
    #[arg(long, value_name = "STAGE", conflicts_with = "failed_items")]
    from: Option<String>,
    /// Run fan-outs again for the items that failed, and what follows from them.
    #[arg(long)]
    failed_items: bool,
    /// Use this pipeline instead of the plan that the run was pinned to.
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// The new run's id.
    #[arg(long, default_value = "")]
    id: String,
    /// Start the run and return; its id is printed.
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let target = &arguments.target;
    let pipelines = target.connect().await?;
    let state = pipelines.state(&arguments.run).await?;
    let mut input = Histories::connect(target)
        .await?
        .input(&arguments.run)
        .await?;
    if let Some(file) = &arguments.with {
        input.plan = check::plan(file)?;
        // What it has got since then has its defaults.
        input.inputs = super::run::complete(&input.plan, &input.inputs)?;
    }
    let again = Again::choose(
        &input.plan,
        &state,
        arguments.from.as_deref(),
        arguments.failed_items,
    )
    .map_err(|why| Failure::Invalid(format!("run {}: {why}", arguments.run)))?;
    let options = StartOptions {
        id: arguments.id.clone(),
        keep: again.keep,
        kept_fan_outs: again.kept_fan_outs,
        failed_items: again.failed_items,
        earlier: Some(arguments.run.clone()),
    };
    let run = pipelines.start(input.plan, input.inputs, options).await?;
    follow::started(target, &pipelines, &run, arguments.detach).await
}

/// What of an earlier run is used again.
#[derive(Debug, Default, PartialEq)]
struct Again {
    keep: BTreeMap<String, Value>,
    kept_fan_outs: BTreeMap<String, FanOutResult>,
    failed_items: BTreeMap<String, FanOutResult>,
}

impl Again {
    fn choose(
        plan: &Plan,
        state: &RunState,
        from: Option<&str>,
        failed_items: bool,
    ) -> Result<Self, String> {
        let mut again = Self::default();
        // What has to run, and all that needs it.
        let mut runs: BTreeSet<&str> = BTreeSet::new();
        if let Some(from) = from {
            if !plan.nodes.iter().any(|node| node.id == from) {
                let known: Vec<_> = plan.nodes.iter().map(|node| node.id.as_str()).collect();
                return Err(format!(
                    "there is no stage `{from}`; its stages are {}",
                    known.join(", ")
                ));
            }
            runs.insert(from);
        }
        let ended: BTreeMap<&str, _> = state.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
        for node in &plan.nodes {
            let earlier = ended.get(node.id.as_str());
            let well = earlier.is_some_and(|node| {
                matches!(node.status, Status::Done | Status::Kept | Status::Skipped)
            });
            let failed = earlier
                .and_then(|node| node.fan_out.clone())
                .filter(|result| failed_items && result.failed > 0);
            if let Some(result) = failed {
                again.failed_items.insert(node.id.clone(), result);
                runs.insert(&node.id);
            } else if !well || node.needs.iter().any(|need| runs.contains(need.as_str())) {
                runs.insert(&node.id);
            } else if !runs.contains(node.id.as_str()) {
                let output = earlier.map_or(Value::Null, |node| node.output.clone());
                again.keep.insert(node.id.clone(), output);
                if let Some(result) = earlier.and_then(|node| node.fan_out.clone()) {
                    again.kept_fan_outs.insert(node.id.clone(), result);
                }
            }
        }
        if runs.is_empty() {
            return Err("nothing failed. --from STAGE runs a stage again nevertheless".to_owned());
        }
        if failed_items && again.failed_items.is_empty() {
            return Err("no item of a fan-out failed".to_owned());
        }
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> Plan {
        let node = |id: &str, needs: &[&str]| {
            json!({
                "id": id, "needs": needs,
                "work": {"approve": {"message": "", "choices": []}}
            })
        };
        serde_json::from_value(json!({
            "format": 1, "name": "p", "inputs": {}, "outputs": null,
            "nodes": [node("a", &[]), node("b", &["a"]), node("c", &["b"]), node("d", &["a"])],
        }))
        .unwrap()
    }

    fn state(statuses: &[(&str, &str)]) -> RunState {
        let nodes: Vec<_> = statuses
            .iter()
            .map(|(id, status)| {
                json!({
                    "id": id, "status": status, "started_ms": 1, "ended_ms": 2, "uses": "x",
                    "output": format!("of {id}"),
                })
            })
            .collect();
        serde_json::from_value(json!({"pipeline": "p", "plan": "h", "nodes": nodes})).unwrap()
    }

    fn kept(again: &Again) -> Vec<&str> {
        again.keep.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_ended_well_is_kept_unless_it_needs_what_did_not() {
        let state = state(&[
            ("a", "done"),
            ("b", "failed"),
            ("c", "waiting"),
            ("d", "done"),
        ]);
        let again = Again::choose(&plan(), &state, None, false).unwrap();
        assert_eq!(kept(&again), ["a", "d"]);
        assert_eq!(again.keep["a"], json!("of a"));
    }

    #[test]
    fn from_a_stage_on() {
        let state = state(&[("a", "done"), ("b", "done"), ("c", "done"), ("d", "done")]);
        let again = Again::choose(&plan(), &state, Some("b"), false).unwrap();
        assert_eq!(kept(&again), ["a", "d"]);
        let wrong = Again::choose(&plan(), &state, Some("x"), false).unwrap_err();
        assert!(wrong.contains("a, b, c, d"), "{wrong}");
        let nothing = Again::choose(&plan(), &state, None, false).unwrap_err();
        assert!(nothing.contains("--from"), "{nothing}");
    }

    #[test]
    fn failed_items_only() {
        let mut state = state(&[("a", "done"), ("b", "done"), ("c", "done"), ("d", "done")]);
        assert!(Again::choose(&plan(), &state, None, true).is_err());
        let collection = json!({"$collection": "m", "item": "x", "count": 1, "parts": 1});
        let result: FanOutResult =
            serde_json::from_value(json!({"over": collection, "results": collection, "failed": 7}))
                .unwrap();
        state.nodes[1].fan_out = Some(result.clone());
        let again = Again::choose(&plan(), &state, None, true).unwrap();
        assert_eq!(kept(&again), ["a", "d"]);
        assert_eq!(again.failed_items["b"], result);
        // What failed is known after a retry of something else, too.
        let again = Again::choose(&plan(), &state, Some("c"), false).unwrap();
        assert_eq!(again.kept_fan_outs["b"], result);
    }
}
