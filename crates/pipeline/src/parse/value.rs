//! Reading the fields of a mapping, with a message for each that is not as it should be.

use serde_json::Value;

use crate::diagnostic::{Findings, Span};
use crate::duration;
use crate::spec::Spot;
use crate::suggest;
use crate::yaml::{Entry, Kind, Tree};

/// A mapping whose keys are known to be allowed.
pub(super) struct Fields<'t> {
    tree: &'t Tree,
}

impl<'t> Fields<'t> {
    /// Reports keys that are not among `known`; `None` when it is no mapping.
    pub(super) fn read(
        tree: &'t Tree,
        known: &[&str],
        of: &str,
        findings: &mut Findings,
    ) -> Option<Self> {
        let Some(entries) = tree.entries() else {
            findings.error(
                "wrong-type",
                tree.span,
                format!("{of} must be a mapping, but this is {}", tree.what()),
                format!("its keys are {}", known.join(", ")),
            );
            return None;
        };
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                unknown_key(findings, entry, known, of);
            }
        }
        Some(Self { tree })
    }

    pub(super) fn get(&self, key: &str) -> Option<&'t Entry> {
        self.tree.entry(key)
    }

    pub(super) fn text(&self, key: &str, findings: &mut Findings) -> Option<Spot<String>> {
        let entry = self.get(key)?;
        text(&entry.value, key, findings)
    }

    pub(super) fn boolean(&self, key: &str, findings: &mut Findings) -> Option<bool> {
        let entry = self.get(key)?;
        match &entry.value.kind {
            Kind::Scalar(Value::Bool(flag)) => Some(*flag),
            _ => {
                wrong_type(findings, key, "true or false", &entry.value);
                None
            }
        }
    }

    /// A whole number between `least` and `most`.
    pub(super) fn whole(
        &self,
        key: &str,
        least: u64,
        most: u64,
        findings: &mut Findings,
    ) -> Option<Spot<u32>> {
        let entry = self.get(key)?;
        let number = match &entry.value.kind {
            Kind::Scalar(Value::Number(number)) => number.as_u64(),
            _ => None,
        };
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Some(Spot::new(
                u32::try_from(number).unwrap_or(u32::MAX),
                entry.value.span,
            )),
            None => {
                findings.error(
                    "bad-number",
                    entry.value.span,
                    format!("`{key}` must be a whole number from {least} to {most}"),
                    None,
                );
                None
            }
        }
    }

    pub(super) fn number(&self, key: &str, findings: &mut Findings) -> Option<Spot<f64>> {
        let entry = self.get(key)?;
        match &entry.value.kind {
            Kind::Scalar(Value::Number(number)) => {
                Some(Spot::new(number.as_f64()?, entry.value.span))
            }
            _ => {
                wrong_type(findings, key, "a number", &entry.value);
                None
            }
        }
    }

    /// Milliseconds.
    pub(super) fn duration(&self, key: &str, findings: &mut Findings) -> Option<Spot<u64>> {
        let entry = self.get(key)?;
        duration(&entry.value, key, findings)
    }

    /// A list of texts; one text alone is taken as a list of one.
    pub(super) fn texts(&self, key: &str, findings: &mut Findings) -> Option<Vec<Spot<String>>> {
        let entry = self.get(key)?;
        match &entry.value.kind {
            Kind::List(items) => Some(
                items
                    .iter()
                    .filter_map(|item| text(item, key, findings))
                    .collect(),
            ),
            Kind::Scalar(Value::String(_)) => {
                text(&entry.value, key, findings).map(|one| vec![one])
            }
            _ => {
                wrong_type(findings, key, "a list of names", &entry.value);
                None
            }
        }
    }
}

pub(super) fn text(tree: &Tree, key: &str, findings: &mut Findings) -> Option<Spot<String>> {
    match &tree.kind {
        Kind::Scalar(Value::String(text)) => Some(Spot::new(text.clone(), tree.span)),
        Kind::Scalar(Value::Null) => {
            findings.error(
                "empty-value",
                tree.span,
                format!("`{key}` has no value"),
                "give it one, or remove the key".to_owned(),
            );
            None
        }
        _ => {
            wrong_type(findings, key, "text", tree);
            None
        }
    }
}

pub(super) fn duration(tree: &Tree, key: &str, findings: &mut Findings) -> Option<Spot<u64>> {
    let (text, unitless) = match &tree.kind {
        Kind::Scalar(Value::String(text)) => (text.clone(), false),
        Kind::Scalar(Value::Number(number)) => (number.to_string(), true),
        _ => {
            wrong_type(findings, key, "a duration such as 30s, 10m or 1h30m", tree);
            return None;
        }
    };
    match duration::parse_ms(&text) {
        Ok(ms) => Some(Spot::new(ms, tree.span)),
        Err(why) => {
            let help = if unitless {
                format!("add a unit: {text}s, {text}m or {text}h")
            } else {
                "durations are written as 500ms, 30s, 10m, 2h, 7d or 1h30m".to_owned()
            };
            findings.error(
                "bad-duration",
                tree.span,
                format!("`{text}` is not a duration: {why}"),
                help,
            );
            None
        }
    }
}

pub(super) fn wrong_type(findings: &mut Findings, key: &str, wanted: &str, found: &Tree) {
    findings.error(
        "wrong-type",
        found.span,
        format!("`{key}` must be {wanted}, but this is {}", found.what()),
        None,
    );
}

pub(super) fn unknown_key(findings: &mut Findings, entry: &Entry, known: &[&str], of: &str) {
    let help = if entry.key == "<<" {
        "merge keys are not part of YAML 1.2: write the keys out".to_owned()
    } else {
        suggest::among(&entry.key, known.iter().copied(), "keys")
    };
    findings.error(
        "unknown-key",
        entry.key_span,
        format!("{of} has no key `{}`", entry.key),
        help,
    );
}

pub(super) fn missing(findings: &mut Findings, key: &str, of: &str, span: Span) {
    findings.error(
        "missing-key",
        span,
        format!("{of} must have `{key}:`"),
        format!("add `{key}:`"),
    );
}

/// The place of a mapping's first key, rather than all of its lines.
pub(super) fn first_line(tree: &Tree) -> Span {
    tree.entries()
        .and_then(|entries| entries.first())
        .map_or(tree.span, |entry| entry.key_span)
}
