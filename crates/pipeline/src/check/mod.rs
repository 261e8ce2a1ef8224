//! Text to plan: everything that can be wrong with a pipeline is found here, before it runs.
//!
//! What an author leaves out is decided here too:
//!
//! - A stage comes after the stage before it, and takes that one's output as its input. `needs`
//!   changes the first and with it the second: one need gives the input, several give an object of
//!   their outputs, an empty list gives none. `input` says it outright.
//! - A stage that can be skipped (`when`) or may fail (`allow_failure`) is passed over when it gave
//!   null: the next stage gets what this one would have got. An approval is always passed over; its
//!   answer is read by name.
//! - A template that names an earlier stage makes that stage a need.
//! - Stages of kind [`Items`](crate::stage::Kind::Items) in a row become one fan-out if nothing else
//!   uses what is between them and their `chunk`, `window` and `tolerate` agree.
//! - A stage that asks for it is told what follows it: [`following`].

mod approve;
mod call;
mod demands;
mod draft;
mod expression;
mod following;
mod fuse;
mod ids;
mod inputs;
mod linear;
mod lower;
mod order;
mod params;
mod policy;
mod work;

use std::cell::Cell;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, Findings, Severity, Span};
use crate::plan::{FORMAT, Node, Plan};
use crate::stage::{Catalog, PYTHON_CALL, python_call};
use crate::{parse, spec, yaml};

use draft::Area;
use lower::Lowering;

/// Pipelines within pipelines.
const MAX_CALL_DEPTH: usize = 16;
/// Sub-pipelines in one plan.
const MAX_CALLS: u32 = 256;

/// A file that a pipeline calls.
#[derive(Clone, Debug)]
pub struct Source {
    /// The same for the same file, however it was named.
    pub file: String,
    pub text: String,
}

/// Finds the files of `call:`.
pub trait Loader {
    /// The file `path`, as named in the file `from`.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn load(&self, path: &str, from: &str) -> Result<Source, String>;
}

impl<F: Fn(&str, &str) -> Result<Source, String>> Loader for F {
    fn load(&self, path: &str, from: &str) -> Result<Source, String> {
        self(path, from)
    }
}

/// A loader for pipelines that call no files.
pub struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, _: &str, _: &str) -> Result<Source, String> {
        Err("files cannot be called from here".to_owned())
    }
}

/// What a check gives.
#[derive(Debug)]
pub struct Checked {
    /// There is one if there is no error among the findings.
    pub plan: Option<Plan>,
    /// Errors and warnings, by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// Checks a pipeline and makes its plan. `file` is the text's name in messages, and where the paths
/// of `call:` begin.
///
/// # Errors
/// All that is wrong, by place. Warnings are among it; use [`check_all`] to see them on success.
pub fn check(
    text: &str,
    file: &str,
    catalog: &Catalog,
    loader: &dyn Loader,
) -> Result<Plan, Vec<Diagnostic>> {
    let checked = check_all(text, file, catalog, loader);
    checked.plan.ok_or(checked.diagnostics)
}

/// Checks a pipeline built in code: the same form as YAML's, as JSON. Messages show it as JSON.
///
/// # Errors
/// As [`check`].
pub fn check_value(
    spec: &Value,
    file: &str,
    catalog: &Catalog,
    loader: &dyn Loader,
) -> Result<Plan, Vec<Diagnostic>> {
    // JSON is YAML: one way for both forms, so that they cannot differ.
    check(&format!("{spec:#}"), file, catalog, loader)
}

/// As [`check`], with warnings.
pub fn check_all(text: &str, file: &str, catalog: &Catalog, loader: &dyn Loader) -> Checked {
    let mut catalog = catalog.clone();
    catalog
        .entry(PYTHON_CALL.to_owned())
        .or_insert_with(python_call);
    let shared = Shared {
        catalog,
        loader,
        calls: Cell::new(0),
    };
    check_file(text, file, &shared, &[file.to_owned()])
}

/// What the check of a file and of the files that it calls have in common.
struct Shared<'a> {
    catalog: Catalog,
    loader: &'a dyn Loader,
    calls: Cell<u32>,
}

/// `files` are those that are being checked, the outermost first; `file` is the last.
fn check_file(text: &str, file: &str, shared: &Shared<'_>, files: &[String]) -> Checked {
    let mut findings = Findings::new(file, text);
    let plan = plan(&mut findings, shared, files).filter(|_| !findings.has_errors());
    Checked {
        plan,
        diagnostics: findings.into_sorted(),
    }
}

fn plan(findings: &mut Findings, shared: &Shared<'_>, files: &[String]) -> Option<Plan> {
    let Some(tree) = yaml::read(findings) else {
        if !findings.has_errors() {
            findings.error(
                "empty-file",
                Span::default(),
                "there is no pipeline in this file",
                "begin with `name:` and `stages:`".to_owned(),
            );
        }
        return None;
    };
    let spec = parse::pipeline(&tree, findings)?;
    if spec.linear {
        linear::lint(&spec.stages, findings);
    }
    let inputs = inputs::schema(&spec.inputs, findings);
    let mut lowering = Lowering::new(findings, shared, files, &spec, &inputs);
    let last = lowering.stages(&spec.stages, Area::Main);
    lowering.stages(&spec.finally, Area::Finally);
    let outputs = outputs(&mut lowering, &spec, last);
    lowering.unused_inputs();
    let (drafts, outputs_mention) = lowering.finish();
    let drafts = order::resolve(drafts, &outputs_mention, findings)?;
    let mut drafts = fuse::fuse(drafts, &outputs_mention);
    following::fill(&mut drafts, &shared.catalog);
    let mut nodes = BTreeMap::from([(Area::Main, Vec::new()), (Area::Finally, Vec::new())]);
    for draft in order::sorted(drafts) {
        let area = draft.area;
        nodes.entry(area).or_default().push(draft.into_node());
    }
    let mut of = |area: Area| -> Vec<Node> { nodes.remove(&area).unwrap_or_default() };
    Some(Plan {
        format: FORMAT,
        name: spec.name.clone(),
        description: spec.description.clone(),
        inputs,
        nodes: of(Area::Main),
        finally: of(Area::Finally),
        outputs,
    })
}

/// The plan's outputs: those given, or the last stage's.
fn outputs(lowering: &mut Lowering<'_>, spec: &spec::Pipeline, last: Option<String>) -> Value {
    match (&spec.outputs, last) {
        (Some(outputs), _) => {
            lowering.outputs(outputs);
            outputs.to_json()
        }
        (None, Some(last)) => {
            lowering.output_of(&last);
            json!(format!("{{{{ {last} }}}}"))
        }
        (None, None) => Value::Null,
    }
}

/// Whether a finding stops the pipeline.
pub fn is_error(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == Severity::Error
}

#[cfg(test)]
mod tests;
