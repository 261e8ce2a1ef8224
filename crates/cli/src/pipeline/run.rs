//! `tidemill run`: checks a pipeline and its inputs, starts a run and follows it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use tidemill_pipeline::inputs;
use tidemill_pipeline::plan::Plan;
use tidemill_runtime::client::StartOptions;

use super::{Target, check, follow};
use crate::exit::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Pipeline file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// An input: a text, or JSON where the pipeline wants something else; repeat for more.
    #[arg(long = "input", short, value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// A JSON file with inputs; --input comes on top.
    #[arg(long, value_name = "FILE")]
    inputs_file: Option<PathBuf>,
    /// The run's id; by default it is made from the pipeline's name and the time.
    #[arg(long, default_value = "")]
    id: String,
    /// Start the run and return; its id is printed.
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let plan = check::plan(&arguments.file)?;
    let inputs = read_inputs(&plan, &arguments)?;
    let target = &arguments.target;
    let pipelines = target.connect().await?;
    for class in pipelines.placeable(&plan).await? {
        eprintln!("note: no worker of `{class}` is known at the moment; its stages wait for one");
    }
    let options = StartOptions {
        id: arguments.id.clone(),
        ..Default::default()
    };
    let run = pipelines.start(plan, inputs, options).await?;
    follow::started(target, &pipelines, &run, arguments.detach).await
}

/// The inputs, checked, with defaults.
fn read_inputs(plan: &Plan, arguments: &Arguments) -> Result<BTreeMap<String, Value>, Failure> {
    let mut given = BTreeMap::new();
    if let Some(file) = &arguments.inputs_file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::general(format!("cannot read {}: {error}", file.display()))
        })?;
        given = serde_json::from_str(&text).map_err(|error| {
            Failure::Invalid(format!(
                "{}: not a JSON object of inputs: {error}",
                file.display()
            ))
        })?;
    }
    for input in &arguments.inputs {
        let Some((name, text)) = input.split_once('=') else {
            return Err(Failure::usage(format!("--input {input}: write NAME=VALUE")));
        };
        given.insert(name.to_owned(), value(plan, name, text));
    }
    complete(plan, &given)
}

/// Inputs with defaults, if the plan takes them.
pub(super) fn complete(
    plan: &Plan,
    given: &BTreeMap<String, Value>,
) -> Result<BTreeMap<String, Value>, Failure> {
    inputs::complete(plan, given).map_err(|refusals| {
        let lines: Vec<String> = refusals
            .iter()
            .map(|refusal| format!("  {refusal}"))
            .collect();
        Failure::Invalid(format!(
            "the inputs of {} are not valid:\n{}",
            plan.name,
            lines.join("\n")
        ))
    })
}

/// A text stays one where the pipeline wants a text; elsewhere it is JSON if it can be.
fn value(plan: &Plan, name: &str, text: &str) -> Value {
    let wanted = &plan.inputs["properties"][name]["type"];
    if wanted == "string" {
        return Value::from(text);
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}
