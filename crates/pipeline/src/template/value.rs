//! JSON in templates: in, out, and as text.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value as Dynamic, ValueKind};
use minijinja::{ErrorKind, Output, State};
use serde_json::Value;

pub(super) fn is_artifact(value: &Value) -> bool {
    value.get("$artifact").is_some_and(Value::is_string)
}

/// Writes a value into text: strings as they are, all else as JSON.
pub(super) fn format_value(
    out: &mut Output<'_>,
    _: &mut State<'_, '_>,
    value: &Dynamic,
) -> Result<(), minijinja::Error> {
    if let Some(text) = value.as_str() {
        return out.write_str(text).map_err(minijinja::Error::from);
    }
    if value.is_undefined() {
        // An `if` expression without `else`: nothing.
        return Ok(());
    }
    if value.downcast_object_ref::<Artifact>().is_some() {
        return Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            "a value that is kept as an artifact is too large to be put into text; pass it whole",
        ));
    }
    let json = to_json(value)?;
    out.write_str(&json.to_string())
        .map_err(minijinja::Error::from)
}

/// A value kept as an artifact: opaque, passed on as it is.
#[derive(Debug)]
struct Artifact(Value);

impl Object for Artifact {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Dynamic) -> Option<Dynamic> {
        Some(Dynamic::from(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("{key} lies in a value that is kept as an artifact; pass that value whole"),
        )))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(artifact)")
    }
}

pub(super) fn to_dynamic(value: &Value) -> Dynamic {
    match value {
        _ if is_artifact(value) => Dynamic::from_object(Artifact(value.clone())),
        Value::Array(items) => Dynamic::from(items.iter().map(to_dynamic).collect::<Vec<_>>()),
        Value::Object(fields) => Dynamic::from_pairs(
            fields
                .iter()
                .map(|(key, field)| (key.clone(), to_dynamic(field))),
        ),
        Value::Null => Dynamic::from(()),
        Value::Bool(flag) => Dynamic::from(*flag),
        Value::String(text) => Dynamic::from(text.as_str()),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => Dynamic::from(whole),
            (_, Some(whole)) => Dynamic::from(whole),
            _ => Dynamic::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

pub(super) fn to_json(value: &Dynamic) -> Result<Value, minijinja::Error> {
    if let Some(artifact) = value.downcast_object_ref::<Artifact>() {
        return Ok(artifact.0.clone());
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.map(|v| to_json(&v)).collect(),
        ValueKind::Map => {
            let mut fields = serde_json::Map::new();
            for key in value.try_iter()? {
                let field = value.get_item(&key)?;
                fields.insert(key.to_string(), to_json(&field)?);
            }
            Ok(Value::Object(fields))
        }
        _ => serde_json::to_value(value).map_err(|error| {
            minijinja::Error::new(
                ErrorKind::BadSerialization,
                format!("the value is not JSON: {error}"),
            )
        }),
    }
}
