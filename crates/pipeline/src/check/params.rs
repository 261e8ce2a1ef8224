//! Values of a file against a JSON Schema: `with` of a stage, inputs of a call, defaults.
//!
//! A string that is one template can become anything, so it fits everywhere; what it becomes is
//! checked when the stage runs. A text with templates in it stays a string.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::Value;

use crate::diagnostic::{Findings, Span};
use crate::yaml::Tree;
use crate::{suggest, template};

/// The codes of what can be wrong.
pub(super) struct Codes {
    pub(super) unknown: &'static str,
    pub(super) missing: &'static str,
    pub(super) wrong: &'static str,
}

struct Check<'a> {
    findings: &'a mut Findings,
    schema: &'a Value,
    value: &'a Value,
    tree: Option<&'a Tree>,
    /// Where to point when the value is not written at all.
    fallback: Span,
    /// What the value is, such as `text.split`.
    what: &'a str,
    codes: &'a Codes,
}

/// Reports all in which `value` does not fit `schema`. `tree` is the value in the file.
pub(super) fn validate(
    findings: &mut Findings,
    schema: &Value,
    value: &Value,
    tree: Option<&Tree>,
    fallback: Span,
    what: &str,
    codes: &Codes,
) {
    let validator = match jsonschema::validator_for(schema) {
        Ok(validator) => validator,
        Err(error) => {
            findings.error(
                "stage-schema",
                fallback,
                format!("the schema of {what} is not usable: {}", error.masked()),
                "this is a fault of the stage type, not of the pipeline".to_owned(),
            );
            return;
        }
    };
    let mut check = Check {
        findings,
        schema,
        value,
        tree,
        fallback,
        what,
        codes,
    };
    for error in validator.iter_errors(value) {
        check.report(&error);
    }
}

impl Check<'_> {
    fn report(&mut self, error: &ValidationError<'_>) {
        let path = error.instance_path().to_string();
        if self.is_open(&path, error.kind()) {
            return;
        }
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let known = self.properties(error);
                for key in unexpected {
                    let span = self.key_span(&path, key);
                    let message = match path.as_str() {
                        "" => format!("{} has no parameter `{key}`", self.what),
                        _ => format!("`{}` of {} has no key `{key}`", name(&path), self.what),
                    };
                    let help = suggest::among(key, known.iter().map(String::as_str), "known");
                    self.findings.error(self.codes.unknown, span, message, help);
                }
            }
            ValidationErrorKind::Required { property } => {
                let property = property.as_str().unwrap_or_default();
                let message = match path.as_str() {
                    "" => format!("{} needs the parameter `{property}`", self.what),
                    _ => format!("`{}` of {} needs `{property}`", name(&path), self.what),
                };
                let help = self.describe(error, property);
                let span = match path.as_str() {
                    "" => self.fallback,
                    _ => self.span(&path),
                };
                self.findings.error(self.codes.missing, span, message, help);
            }
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context } => {
                match self.likely_branch(&path, context) {
                    Some(branch) => branch.iter().for_each(|error| self.report(error)),
                    None => {
                        let wanted: Vec<String> = context
                            .iter()
                            .flatten()
                            .filter_map(|error| wanted(error.kind()))
                            .collect();
                        let wanted = if wanted.is_empty() {
                            "of another form".to_owned()
                        } else {
                            dedup(wanted).join(" or ")
                        };
                        self.wrong(&path, &format!("must be {wanted}"), None);
                    }
                }
            }
            ValidationErrorKind::Enum { options } => {
                let options: Vec<String> = options
                    .as_array()
                    .map(|options| options.iter().map(plain).collect())
                    .unwrap_or_default();
                let found = self.value.pointer(&path).map(plain).unwrap_or_default();
                let near = suggest::nearest(&found, options.iter().map(String::as_str))
                    .map(|near| format!("did you mean `{near}`?"));
                let message = format!("must be one of {}", options.join(", "));
                self.wrong(&path, &message, near);
            }
            ValidationErrorKind::Type { .. } => {
                let wanted = wanted(error.kind()).unwrap_or_default();
                let found = self.value.pointer(&path).map_or("nothing", kind_of);
                self.wrong(
                    &path,
                    &format!("must be {wanted}, but this is {found}"),
                    None,
                );
            }
            _ => {
                let text = error.masked_with("the value").to_string();
                self.wrong(&path, &format!("does not fit: {text}"), None);
            }
        }
    }

    fn wrong(&mut self, path: &str, message: &str, help: Option<String>) {
        let message = match path {
            "" => format!("{} {message}", self.what),
            _ => format!("`{}` of {} {message}", name(path), self.what),
        };
        let span = self.span(path);
        self.findings.error(self.codes.wrong, span, message, help);
    }

    /// Whether a template decides what stands there.
    fn is_open(&self, path: &str, kind: &ValidationErrorKind) -> bool {
        let Some(value) = self.value.pointer(path) else {
            return false;
        };
        match kind {
            ValidationErrorKind::AnyOf { .. }
            | ValidationErrorKind::OneOfNotValid { .. }
            | ValidationErrorKind::OneOfMultipleValid { .. }
            | ValidationErrorKind::Not { .. } => has_template(value),
            ValidationErrorKind::Type { .. } => value
                .as_str()
                .is_some_and(|text| template::whole_expression(text).is_some()),
            _ => value.as_str().is_some_and(template::is_template),
        }
    }

    /// The form that the author probably meant: the one whose only faults lie deeper.
    fn likely_branch<'e>(
        &self,
        path: &str,
        context: &'e [Vec<ValidationError<'static>>],
    ) -> Option<&'e Vec<ValidationError<'static>>> {
        let deeper = |branch: &&Vec<ValidationError<'static>>| {
            branch.iter().all(|error| {
                error.instance_path().to_string().len() > path.len()
                    || matches!(
                        error.kind(),
                        ValidationErrorKind::AdditionalProperties { .. }
                            | ValidationErrorKind::Required { .. }
                            | ValidationErrorKind::Enum { .. }
                    )
            })
        };
        context
            .iter()
            .filter(|branch| !branch.is_empty())
            .filter(deeper)
            .min_by_key(|branch| branch.len())
    }

    /// The keys that the schema behind an error about keys has.
    fn properties(&self, error: &ValidationError<'_>) -> Vec<String> {
        let at = error.schema_path().to_string();
        let parent = at.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.schema
            .pointer(parent)
            .and_then(|schema| schema.get("properties")?.as_object())
            .map(|properties| properties.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// What the schema says about a key.
    fn describe(&self, error: &ValidationError<'_>, key: &str) -> Option<String> {
        let at = error.schema_path().to_string();
        let parent = at.rsplit_once('/').map_or("", |(parent, _)| parent);
        let property = self.schema.pointer(parent)?.get("properties")?.get(key)?;
        let description = property.get("description")?.as_str()?;
        Some(format!("{key}: {description}"))
    }

    /// The value at a path; the key that lacks something when it is a mapping of many lines.
    fn span(&self, path: &str) -> Span {
        match self.tree {
            None => self.fallback,
            Some(tree) => match tree.at(path) {
                (at, Some(key)) if at.entries().is_some() || at.list().is_some() => key,
                (at, _) => at.span,
            },
        }
    }

    fn key_span(&self, path: &str, key: &str) -> Span {
        self.tree
            .and_then(|tree| Some(tree.at(path).0.entry(key)?.key_span))
            .unwrap_or(self.fallback)
    }
}

fn has_template(value: &Value) -> bool {
    match value {
        Value::String(text) => template::is_template(text),
        Value::Array(items) => items.iter().any(has_template),
        Value::Object(fields) => fields.values().any(has_template),
        _ => false,
    }
}

/// `/retry/0/delay` as people write it: `retry[0].delay`.
fn name(path: &str) -> String {
    let mut name = String::new();
    for part in path.split('/').skip(1) {
        if part.parse::<usize>().is_ok() {
            name.push_str(&format!("[{part}]"));
        } else {
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    name
}

/// What a kind of error says is wanted.
fn wanted(kind: &ValidationErrorKind) -> Option<String> {
    match kind {
        ValidationErrorKind::Type { kind } => Some(match kind {
            TypeKind::Single(one) => type_name(&one.to_string()),
            TypeKind::Multiple(several) => several
                .into_iter()
                .map(|one| type_name(&one.to_string()))
                .collect::<Vec<_>>()
                .join(" or "),
        }),
        ValidationErrorKind::Constant { expected_value } => Some(plain(expected_value)),
        _ => None,
    }
}

fn type_name(name: &str) -> String {
    match name {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
    .to_owned()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn dedup(mut words: Vec<String>) -> Vec<String> {
    words.sort_unstable();
    words.dedup();
    words
}
