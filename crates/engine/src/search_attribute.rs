//! Search attributes: decoding and checking the payloads that carry them (contract 10.4).

use std::collections::BTreeMap;

use tidemill_proto::api::common::v1::{Payload, SearchAttributes};
use tidemill_proto::api::enums::v1::IndexedValueType;

use crate::limits::Limits;
use crate::time::Time;

/// What a namespace knows of a search attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub kind: IndexedValueType,
    /// False for what only the server sets.
    pub settable: bool,
}

/// The search attributes of a namespace.
pub trait Schema: Send + Sync {
    fn attribute(&self, name: &str) -> Option<Attribute>;
}

/// A decoded value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Double(f64),
    Datetime(Time),
    Keyword(String),
    KeywordList(Vec<String>),
    Text(String),
}

/// Checks attributes that a caller sets.
pub fn validate(
    attributes: &SearchAttributes,
    schema: &dyn Schema,
    limits: &Limits,
) -> Result<(), String> {
    let fields = &attributes.indexed_fields;
    if fields.len() > limits.search_attributes {
        return Err(format!(
            "number of search attributes {} exceeds limit {}",
            fields.len(),
            limits.search_attributes
        ));
    }
    let mut total = 0;
    // In name order, so that the same request gets the same message.
    for (name, payload) in fields.iter().collect::<BTreeMap<_, _>>() {
        let attribute = schema.attribute(name).ok_or_else(|| {
            format!("Namespace has no mapping defined for search attribute {name}")
        })?;
        if !attribute.settable {
            return Err(format!("{name} attribute can't be set in SearchAttributes"));
        }
        decode(payload, attribute.kind).map_err(|e| {
            format!(
                "invalid value for search attribute {name} of type {}: {e}",
                type_name(attribute.kind)
            )
        })?;
        if payload.data.len() > limits.search_attribute_value_size {
            return Err(format!(
                "search attribute {name} value size {} exceeds size limit {}",
                payload.data.len(),
                limits.search_attribute_value_size
            ));
        }
        total += name.len() + payload.data.len();
    }
    if total > limits.search_attributes_size {
        return Err(format!(
            "total size of search attributes {total} exceeds size limit {}",
            limits.search_attributes_size
        ));
    }
    Ok(())
}

/// Whether a payload unsets its attribute (null or an empty list).
pub fn is_unset(payload: &Payload) -> bool {
    match payload.metadata.get("encoding").map(Vec::as_slice) {
        Some(b"binary/null") => true,
        Some(b"json/plain") | None => matches!(payload.data.trim_ascii(), b"null" | b"[]" | b""),
        Some(_) => false,
    }
}

/// Decodes a payload as a type; `None` when it unsets the attribute. What the server lists and what
/// filters find is what this made of it.
pub fn decode(payload: &Payload, kind: IndexedValueType) -> Result<Option<Value>, String> {
    match payload.metadata.get("encoding").map(Vec::as_slice) {
        Some(b"json/plain" | b"binary/null") => {}
        Some(other) => {
            let encoding = String::from_utf8_lossy(other);
            return Err(format!("its encoding is {encoding:?}, not json/plain"));
        }
        None => return Err("it has no encoding; json/plain is expected".to_owned()),
    }
    if is_unset(payload) {
        return Ok(None);
    }
    let json: serde_json::Value =
        serde_json::from_slice(&payload.data).map_err(|e| format!("not JSON: {e}"))?;
    if kind == IndexedValueType::KeywordList {
        let serde_json::Value::Array(items) = json else {
            return Err(format!("{json} is not a list"));
        };
        let words = items.into_iter().map(|v| match v {
            serde_json::Value::String(s) => Ok(s),
            other => Err(format!("{other} is not a string")),
        });
        return Ok(Some(Value::KeywordList(words.collect::<Result<_, _>>()?)));
    }
    // A list of one stands for its element: older SDKs send it so.
    let json = match json {
        serde_json::Value::Array(mut items) if items.len() == 1 => items.remove(0),
        other => other,
    };
    let wrong = || format!("{json} does not fit");
    let value = match kind {
        IndexedValueType::Bool => Value::Bool(json.as_bool().ok_or_else(wrong)?),
        IndexedValueType::Int => Value::Int(json.as_i64().ok_or_else(wrong)?),
        IndexedValueType::Double => Value::Double(json.as_f64().ok_or_else(wrong)?),
        IndexedValueType::Datetime => {
            let text = json.as_str().ok_or_else(wrong)?;
            let at =
                Time::parse(text).ok_or_else(|| format!("{text:?} is not an RFC 3339 time"))?;
            Value::Datetime(at)
        }
        IndexedValueType::Keyword => Value::Keyword(json.as_str().ok_or_else(wrong)?.to_owned()),
        IndexedValueType::Text => Value::Text(json.as_str().ok_or_else(wrong)?.to_owned()),
        IndexedValueType::KeywordList | IndexedValueType::Unspecified => {
            return Err("unknown type".into());
        }
    };
    Ok(Some(value))
}

/// The name of a type as payload metadata and clients spell it.
pub fn type_name(kind: IndexedValueType) -> &'static str {
    match kind {
        IndexedValueType::Text => "Text",
        IndexedValueType::Keyword => "Keyword",
        IndexedValueType::Int => "Int",
        IndexedValueType::Double => "Double",
        IndexedValueType::Bool => "Bool",
        IndexedValueType::Datetime => "Datetime",
        IndexedValueType::KeywordList => "KeywordList",
        IndexedValueType::Unspecified => "Unspecified",
    }
}

/// Marks every payload with its attribute's type, as clients expect it of what they read; what
/// the namespace does not know any more is left out.
pub fn typed(
    attributes: Option<&SearchAttributes>,
    schema: &dyn Schema,
) -> Option<SearchAttributes> {
    let mut typed = attributes?.clone();
    typed
        .indexed_fields
        .retain(|name, payload| match schema.attribute(name) {
            Some(a) => {
                payload
                    .metadata
                    .insert("type".to_owned(), type_name(a.kind).as_bytes().to_vec());
                true
            }
            None => false,
        });
    (!typed.indexed_fields.is_empty()).then_some(typed)
}

/// Applies an upsert: each key replaces, an unset value removes.
pub fn merge(into: &mut SearchAttributes, upsert: &SearchAttributes) {
    for (name, payload) in &upsert.indexed_fields {
        if is_unset(payload) {
            into.indexed_fields.remove(name);
        } else {
            into.indexed_fields.insert(name.clone(), payload.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(json: &str) -> Payload {
        Payload {
            metadata: [("encoding".into(), b"json/plain".to_vec())].into(),
            data: json.into(),
            ..Default::default()
        }
    }

    #[test]
    fn values_decode_by_type() {
        use IndexedValueType as T;
        type Row = (&'static str, T, Result<Option<Value>, ()>);
        let rows: &[Row] = &[
            ("true", T::Bool, Ok(Some(Value::Bool(true)))),
            ("1", T::Bool, Err(())),
            ("7", T::Int, Ok(Some(Value::Int(7)))),
            ("[7]", T::Int, Ok(Some(Value::Int(7)))),
            ("7.5", T::Int, Err(())),
            ("7", T::Double, Ok(Some(Value::Double(7.0)))),
            ("\"a\"", T::Keyword, Ok(Some(Value::Keyword("a".into())))),
            ("\"a\"", T::KeywordList, Err(())),
            ("[\"a\"]", T::Keyword, Ok(Some(Value::Keyword("a".into())))),
            ("[\"a\",\"b\"]", T::Keyword, Err(())),
            ("[\"a\",\"b\"]", T::Text, Err(())),
            ("5", T::Keyword, Err(())),
            ("\"5\"", T::Int, Err(())),
            (
                "\"many words\"",
                T::Text,
                Ok(Some(Value::Text("many words".into()))),
            ),
            (
                "[\"a\",\"b\"]",
                T::KeywordList,
                Ok(Some(Value::KeywordList(vec!["a".into(), "b".into()]))),
            ),
            ("[1]", T::KeywordList, Err(())),
            ("[\"a\",null]", T::KeywordList, Err(())),
            ("[]", T::KeywordList, Ok(None)),
            (
                "\"1970-01-01T00:00:01Z\"",
                T::Datetime,
                Ok(Some(Value::Datetime(Time(1_000_000_000)))),
            ),
            (
                "\"1970-01-01T01:00:00.5+01:00\"",
                T::Datetime,
                Ok(Some(Value::Datetime(Time(500_000_000)))),
            ),
            // What nanoseconds cannot hold is the first or the last time that they can.
            (
                "\"0001-01-01T00:00:00Z\"",
                T::Datetime,
                Ok(Some(Value::Datetime(Time(i64::MIN)))),
            ),
            (
                "\"9999-12-31T23:59:59Z\"",
                T::Datetime,
                Ok(Some(Value::Datetime(Time(i64::MAX)))),
            ),
            ("\"2020-01-01\"", T::Datetime, Err(())),
            ("\"yesterday\"", T::Datetime, Err(())),
            ("null", T::Int, Ok(None)),
            ("[]", T::Keyword, Ok(None)),
            ("{", T::Keyword, Err(())),
        ];
        for (json, kind, expected) in rows {
            assert_eq!(
                decode(&payload(json), *kind).map_err(|_| ()),
                *expected,
                "{json} as {kind:?}"
            );
        }
    }

    #[test]
    fn encodings_of_values() {
        let rows = [
            (Some("json/plain"), "\"a\"", true),
            (Some("binary/null"), "", true),
            (Some("json/protobuf"), "\"a\"", false),
            (Some("binary/plain"), "null", false),
            (None, "\"a\"", false),
            (None, "", false),
        ];
        for (encoding, data, ok) in rows {
            let metadata = encoding.map(|e| ("encoding".to_owned(), e.as_bytes().to_vec()));
            let payload = Payload {
                metadata: metadata.into_iter().collect(),
                ..payload(data)
            };
            let decoded = decode(&payload, IndexedValueType::Keyword);
            assert_eq!(decoded.is_ok(), ok, "{encoding:?} {data}: {decoded:?}");
        }
    }
}
