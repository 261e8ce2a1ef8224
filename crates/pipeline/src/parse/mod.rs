//! A tree of YAML to a [`spec`](crate::spec): keys and the form of values. What names mean is for
//! [`check`](crate::check).

mod demands;
mod policy;
mod stage;
mod value;

use crate::diagnostic::Findings;
use crate::spec::{Input, Pipeline, Policy};
use crate::yaml::Tree;
use value::Fields;

const KEYS: &[&str] = &[
    "name",
    "description",
    "linear",
    "inputs",
    "defaults",
    "stages",
    "finally",
    "outputs",
];

/// Reads a document; `None` when it is not a mapping.
pub(crate) fn pipeline(tree: &Tree, findings: &mut Findings) -> Option<Pipeline> {
    if tree.entries().is_none() {
        findings.error(
            "not-a-mapping",
            tree.span,
            format!("a pipeline is a mapping, but this is {}", tree.what()),
            "begin with `name:` and `stages:`".to_owned(),
        );
        return None;
    }
    let fields = Fields::read(tree, KEYS, "a pipeline", findings)?;
    let name = match fields.text("name", findings) {
        Some(name) => {
            let fits = !name.value.is_empty()
                && name.value.len() <= 100
                && name
                    .value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !fits {
                findings.error(
                    "bad-name",
                    name.span,
                    format!("`{}` cannot be the name of a pipeline", name.value),
                    "use up to 100 letters, digits, `-`, `_` and `.`".to_owned(),
                );
            }
            name.value
        }
        None => {
            if fields.get("name").is_none() {
                value::missing(findings, "name", "a pipeline", value::first_line(tree));
            }
            String::new()
        }
    };
    let stages = match fields.get("stages") {
        Some(entry) => stage::list(&entry.value, entry.key_span, "stages", findings),
        None => {
            value::missing(findings, "stages", "a pipeline", value::first_line(tree));
            Vec::new()
        }
    };
    Some(Pipeline {
        name,
        description: fields
            .text("description", findings)
            .map(|text| text.value)
            .unwrap_or_default(),
        linear: fields.boolean("linear", findings).unwrap_or_default(),
        inputs: inputs(&fields, findings),
        defaults: fields
            .get("defaults")
            .map(|entry| defaults(&entry.value, findings))
            .unwrap_or_default(),
        stages,
        finally: fields
            .get("finally")
            .map(|entry| stage::list(&entry.value, entry.key_span, "finally", findings))
            .unwrap_or_default(),
        outputs: fields
            .get("outputs")
            .map(|entry| entry.value.clone())
            .filter(|outputs| !outputs.is_null()),
    })
}

fn defaults(tree: &Tree, findings: &mut Findings) -> Policy {
    Fields::read(
        tree,
        &["resource", "retry", "timeout", "priority", "affinity"],
        "`defaults`",
        findings,
    )
    .map(|fields| policy::read(&fields, findings))
    .unwrap_or_default()
}

fn inputs(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Input> {
    let Some(entry) = fields.get("inputs").filter(|entry| !entry.value.is_null()) else {
        return Vec::new();
    };
    let Some(entries) = entry.value.entries() else {
        value::wrong_type(
            findings,
            "inputs",
            "a mapping of names to JSON Schemas",
            &entry.value,
        );
        return Vec::new();
    };
    entries
        .iter()
        .map(|entry| Input {
            name: crate::spec::Spot::new(entry.key.clone(), entry.key_span),
            schema: entry.value.clone(),
        })
        .collect()
}
