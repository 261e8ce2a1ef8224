//! The `inputs:` of a pipeline: a JSON Schema for each, which becomes one for all.

use serde_json::{Map, Value, json};

use crate::diagnostic::{Findings, Span};
use crate::spec::Input;
use crate::stage::Type;
use crate::suggest;
use crate::yaml::{Kind, Tree};

use super::ids::is_name;
use super::params::{self, Codes};

const TYPES: &[&str] = &[
    "string", "integer", "number", "boolean", "array", "object", "null",
];

const CODES: Codes = Codes {
    unknown: "wrong-default",
    missing: "wrong-default",
    wrong: "wrong-default",
};

/// The JSON Schema of all inputs; those without a default are required.
pub(super) fn schema(inputs: &[Input], findings: &mut Findings) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for input in inputs {
        let name = &input.name.value;
        if !is_name(name) {
            findings.error(
                "bad-input-name",
                input.name.span,
                format!("`{name}` cannot be the name of an input"),
                "templates name it, so it is made of letters, digits and `_`".to_owned(),
            );
        }
        let schema = one(input, findings);
        if schema.get("default").is_none() {
            required.push(json!(name));
        }
        properties.insert(name.clone(), schema);
    }
    required.sort_by_key(|name| name.to_string());
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn one(input: &Input, findings: &mut Findings) -> Value {
    let tree = &input.schema;
    let name = &input.name.value;
    match &tree.kind {
        // `folder: string` for `folder: { type: string }`.
        Kind::Scalar(Value::String(text)) => {
            type_name(text, tree.span, findings);
            return json!({ "type": text });
        }
        Kind::Scalar(Value::Null) => return json!({}),
        Kind::Map(_) => {}
        _ => {
            findings.error(
                "bad-input-schema",
                tree.span,
                format!(
                    "the input `{name}` must be a JSON Schema, but this is {}",
                    tree.what()
                ),
                "write `{ type: string }`".to_owned(),
            );
            return json!({});
        }
    }
    let schema = tree.to_json();
    if !type_names(tree, findings) {
        return json!({ "default": null });
    }
    if !is_schema(&schema, tree, &format!("the input `{name}`"), findings) {
        return schema;
    }
    if let Some(default) = tree.entry("default") {
        let mut without = schema.clone();
        if let Some(fields) = without.as_object_mut() {
            fields.remove("default");
        }
        params::validate(
            findings,
            &without,
            &default.value.to_json(),
            Some(&default.value),
            default.value.span,
            &format!("the default of `{name}`"),
            &CODES,
        );
    }
    schema
}

/// Whether a value of the file is a JSON Schema; reports it if not.
pub(super) fn is_schema(schema: &Value, tree: &Tree, what: &str, findings: &mut Findings) -> bool {
    let meta = jsonschema::meta::validator_for(schema).ok();
    if let Some(error) = meta.and_then(|meta| {
        let error = meta.validate(schema).err()?;
        Some((
            error.instance_path().to_string(),
            error.masked().to_string(),
        ))
    }) {
        let (at, key) = tree.at(&error.0);
        findings.error(
            "bad-input-schema",
            key.unwrap_or(at.span),
            format!("{what} is not a JSON Schema: {}", error.1),
            None,
        );
        return false;
    }
    if let Err(error) = jsonschema::validator_for(schema) {
        findings.error(
            "bad-input-schema",
            tree.span,
            format!("{what} cannot be used as a JSON Schema: {}", error.masked()),
            "schemas stand on their own: they refer to no files or addresses".to_owned(),
        );
        return false;
    }
    true
}

/// Looks at the `type` keywords of a schema, since the meta-schema's message about a slip in one is
/// hard to read.
fn type_names(tree: &Tree, findings: &mut Findings) -> bool {
    let mut good = true;
    for entry in tree.entries().unwrap_or_default() {
        match entry.key.as_str() {
            "type" => match &entry.value.kind {
                Kind::Scalar(Value::String(text)) => {
                    good &= type_name(text, entry.value.span, findings);
                }
                Kind::List(items) => {
                    for item in items {
                        if let Some(text) = item.text() {
                            good &= type_name(text, item.span, findings);
                        }
                    }
                }
                _ => {}
            },
            "items" | "additionalProperties" => good &= type_names(&entry.value, findings),
            "properties" => {
                for property in entry.value.entries().unwrap_or_default() {
                    good &= type_names(&property.value, findings);
                }
            }
            _ => {}
        }
    }
    good
}

fn type_name(text: &str, span: Span, findings: &mut Findings) -> bool {
    if TYPES.contains(&text) {
        return true;
    }
    let meant = match text {
        "str" | "text" => Some("string"),
        "int" => Some("integer"),
        "float" | "double" => Some("number"),
        "bool" => Some("boolean"),
        "list" => Some("array"),
        "dict" | "map" => Some("object"),
        _ => None,
    };
    findings.error(
        "unknown-type",
        span,
        format!("there is no type `{text}`"),
        match meant {
            Some(name) => format!("did you mean `{name}`?"),
            None => suggest::among(text, TYPES.iter().copied(), "types"),
        },
    );
    false
}

/// The type of an input's values, as far as stages know types.
pub(super) fn type_of(schema: &Value) -> Type {
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some("object") => Type::Object,
        Some("array") => Type::List(Box::new(schema.get("items").map_or(Type::Any, type_of))),
        _ => Type::Any,
    }
}
