//! Ids of stages: given or made from what they use, and unique in the pipeline.

use std::collections::BTreeMap;

use crate::diagnostic::{Findings, Span};
use crate::spec::{Stage, Work};
use crate::stage::PYTHON_CALL;
use crate::suggest;

/// Names that mean something else in templates.
pub(super) const RESERVED: &[&str] = &[
    "inputs", "run", "item", "loop", "env", "secrets", "true", "false", "none", "and", "or", "not",
    "in", "is", "if", "else", "range", "True", "False", "None",
];

#[derive(Default)]
pub(super) struct Ids {
    /// With the line on which each is.
    taken: BTreeMap<String, Span>,
}

impl Ids {
    /// Takes the id of a stage. After an error it is one that disturbs nothing.
    pub(super) fn claim(
        &mut self,
        stage: &Stage,
        fallback: Option<&str>,
        findings: &mut Findings,
    ) -> String {
        let (id, span) = match &stage.id {
            Some(id) => (id.value.clone(), id.span),
            None => (
                fallback.map_or_else(|| default_id(stage), str::to_owned),
                stage.span,
            ),
        };
        if !is_name(&id) {
            findings.error(
                "bad-id",
                span,
                format!("`{id}` cannot be the id of a stage"),
                format!(
                    "templates name it, so it is made of letters, digits and `_`: `{}`",
                    to_name(&id)
                ),
            );
        } else if RESERVED.contains(&id.as_str()) {
            findings.error(
                "reserved-id",
                span,
                format!("`{id}` has a meaning of its own in templates"),
                format!("give the stage another id, such as `{id}_stage`"),
            );
        } else if let Some(other) = self.taken.get(&id) {
            let line = findings.text()[..other.start].matches('\n').count() + 1;
            findings.error(
                "duplicate-id",
                span,
                format!("there is another stage `{id}`, on line {line}"),
                "give one of them another `id`".to_owned(),
            );
        } else {
            self.taken.insert(id.clone(), span);
            return id;
        }
        // No author can write such a name, so what follows finds no more to say about it.
        format!("{} {}", to_name(&id), span.start)
    }
}

fn default_id(stage: &Stage) -> String {
    let name = match &stage.work {
        Work::Uses(uses) if uses.uses.value == PYTHON_CALL => uses
            .with
            .as_ref()
            .and_then(|with| with.entry("function")?.value.text())
            .unwrap_or("call"),
        Work::Uses(uses) => &uses.uses.value,
        Work::Approve(_) => "approve",
        Work::Parallel(_) => "parallel",
        Work::Map(_) => "map",
        Work::Call(call) => {
            let file = call.pipeline.value.rsplit('/').next().unwrap_or_default();
            file.split('.').next().unwrap_or_default()
        }
        Work::Unclear => return format!("_{}", stage.span.start),
    };
    // `shell.run` is called `shell`: its last part means something else.
    let mut parts = name.rsplit(['.', ':']).map(to_name);
    let free = parts.find(|part| !RESERVED.contains(&part.as_str()));
    free.unwrap_or_else(|| to_name(name))
}

fn to_name(text: &str) -> String {
    let name: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    match name.chars().next() {
        Some(first) if !first.is_ascii_digit() => name,
        _ => format!("_{name}"),
    }
}

pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 100
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Help for a name that is not the id of a stage.
pub(super) fn unknown<'a>(name: &str, ids: impl IntoIterator<Item = &'a str>) -> String {
    // Ids made after an error have a space.
    let ids: Vec<&str> = ids.into_iter().filter(|id| is_name(id)).collect();
    suggest::among(name, ids, "known")
}
