//! Pipeline files: reading and checking them, without an engine.

use std::path::{Path, PathBuf};

use serde_json::json;
use tidemill_pipeline::check::{Checked, Loader, Source, check_all};
use tidemill_pipeline::plan::Plan;
use tidemill_pipeline::stage::{Catalog, StageType};
use tidemill_pipeline::{graph, schema};
use tidemill_stages::catalog;

use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Check {
    /// Pipeline files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the plan and its hash, or the findings, as JSON: one line for each file.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct Graph {
    /// Pipeline file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write an SVG picture instead of text.
    #[arg(long)]
    svg: bool,
}

/// Files that a pipeline calls lie beside it.
struct Beside;

impl Loader for Beside {
    fn load(&self, path: &str, from: &str) -> Result<Source, String> {
        let path = Path::new(from).parent().unwrap_or(Path::new("")).join(path);
        let failed = |error| format!("{}: {error}", path.display());
        // The same name for the same file, so that one that calls itself is found out.
        let path = path.canonicalize().map_err(failed)?;
        Ok(Source {
            text: std::fs::read_to_string(&path).map_err(failed)?,
            file: path.display().to_string(),
        })
    }
}

/// Reads and checks one file.
pub(super) fn load(file: &Path) -> Result<Checked, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::general(format!("cannot read {}: {error}", file.display())))?;
    let name = file.display().to_string();
    Ok(check_all(&text, &name, &stage_types(file)?, &Beside))
}

/// The stage types that a pipeline may use: those that come with Tidemill, and those that workers of
/// one's own serve, which `stages.json` beside the pipeline lists.
fn stage_types(file: &Path) -> Result<Catalog, Failure> {
    let mut all = catalog();
    let path = file.with_file_name("stages.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        Err(error) => {
            let path = path.display();
            return Err(Failure::general(format!("cannot read {path}: {error}")));
        }
    };
    let wrong = |why: String| {
        Failure::Invalid(format!(
            "{}: {why}; it lists stage types as a worker's `describe` prints them",
            path.display()
        ))
    };
    let own: Vec<StageType> =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    for stage in own {
        if let Some(known) = all.insert(stage.name.clone(), stage) {
            return Err(wrong(format!("there is a {} already", known.name)));
        }
    }
    Ok(all)
}

/// The plan of a file; what is wrong with it is told, warnings too.
pub(super) fn plan(file: &Path) -> Result<Plan, Failure> {
    let checked = load(file)?;
    for finding in &checked.diagnostics {
        eprintln!("{finding}\n");
    }
    checked
        .plan
        .ok_or_else(|| refused(file, checked.diagnostics.len()))
}

fn refused(file: &Path, findings: usize) -> Failure {
    let what = if findings == 1 { "finding" } else { "findings" };
    Failure::Invalid(format!(
        "{} is no valid pipeline: {findings} {what}",
        file.display()
    ))
}

pub(crate) fn run(arguments: Check) -> Result<(), Failure> {
    let mut failure = None;
    for file in &arguments.files {
        let checked = load(file)?;
        let name = file.display();
        if arguments.json {
            let findings: Vec<_> = checked.diagnostics.iter().map(|d| d.to_json()).collect();
            output::line(match &checked.plan {
                Some(plan) => json!({
                    "file": name.to_string(), "hash": plan.hash(), "plan": plan,
                    "diagnostics": findings,
                }),
                None => json!({"file": name.to_string(), "diagnostics": findings}),
            });
        } else {
            for finding in &checked.diagnostics {
                eprintln!("{finding}\n");
            }
            if let Some(plan) = &checked.plan {
                let stages = plan.all_nodes().count();
                output::line(format_args!("{name}: {stages} nodes, plan {}", plan.hash()));
            }
        }
        if checked.plan.is_none() {
            failure = Some(refused(file, checked.diagnostics.len()));
        }
    }
    failure.map_or(Ok(()), Err)
}

pub(crate) fn draw(arguments: Graph) -> Result<(), Failure> {
    let plan = plan(&arguments.file)?;
    output::write(&if arguments.svg {
        graph::svg(&plan)
    } else {
        graph::text(&plan)
    });
    Ok(())
}

/// The JSON Schema of pipeline files, for editors; with the stage types of the folder's `stages.json`.
pub(crate) fn print_schema() -> Result<(), Failure> {
    let types = stage_types(Path::new("pipeline.yaml"))?;
    output::line(format_args!("{:#}", schema::schema(&types)));
    Ok(())
}
