//! Search attributes between the protocol and the store: registration, and values out of payloads
//! (engine contract 10.4, 10.5). The engine checks what users set; which names mean what, and
//! queries over them, are the business of [`tidemill_store::visibility`].

use std::collections::{BTreeMap, HashMap};

use tidemill_engine::Error;
use tidemill_proto::api::common::v1::Payload;
use tidemill_proto::api::enums::v1::IndexedValueType;
use tidemill_store::visibility::Schema;
use tidemill_store::{AttributeType, AttributeValue};

/// A namespace's own attributes: name to type.
pub type Custom = BTreeMap<String, AttributeType>;

/// Attributes that one namespace may add.
const CUSTOM_MAX: usize = 200;
/// Bytes of a custom attribute's name.
const NAME_BYTES_MAX: usize = 255;

/// Adds attributes to a namespace's own. Those that exist already are left as they are, even
/// when another type is asked for; nothing is added when one of them is refused.
pub fn add(custom: &mut Custom, wanted: &HashMap<String, i32>) -> Result<(), Error> {
    if wanted.is_empty() {
        return Err(Error::invalid("SearchAttributes are not set on request."));
    }
    let mut fresh = Vec::new();
    for (name, ty) in wanted {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let text = format!("Search attribute names have 1 to {NAME_BYTES_MAX} bytes.");
            return Err(Error::InvalidArgument(text));
        }
        if Schema::is_reserved(name) {
            let text = format!("Search attribute {name} is reserved by system.");
            return Err(Error::InvalidArgument(text));
        }
        let Some(ty) = IndexedValueType::try_from(*ty).ok().and_then(from_proto) else {
            return Err(Error::InvalidArgument(format!(
                "Unknown search attribute type: {ty}."
            )));
        };
        if !custom.contains_key(name) {
            fresh.push((name.clone(), ty));
        }
    }
    if custom.len() + fresh.len() > CUSTOM_MAX {
        return Err(Error::InvalidArgument(format!(
            "Unable to create search attributes: cannot have more than {CUSTOM_MAX}."
        )));
    }
    custom.extend(fresh);
    Ok(())
}

/// Removes attributes from a namespace's own; unknown names are passed over. Data stays in the
/// runs that have it and is hidden.
pub fn remove(custom: &mut Custom, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::invalid("SearchAttributes are not set on request."));
    }
    for name in names {
        if !custom.contains_key(name) && (Schema::is_system(name) || Schema::is_predefined(name)) {
            let text = format!("Unable to remove non-custom search attributes: {name}.");
            return Err(Error::InvalidArgument(text));
        }
    }
    for name in names {
        custom.remove(name);
    }
    Ok(())
}

/// A payload's value as the given type; `Err` holds what was found instead.
pub fn decode(ty: AttributeType, payload: &Payload) -> Result<Option<AttributeValue>, String> {
    match payload.metadata.get("encoding").map(Vec::as_slice) {
        Some(b"binary/null") => return Ok(None),
        Some(b"json/plain") => {}
        Some(other) => {
            return Err(format!(
                "a payload with encoding {}",
                String::from_utf8_lossy(other)
            ));
        }
        None => return Err("a payload without encoding".to_owned()),
    }
    let shown = || {
        String::from_utf8_lossy(&payload.data)
            .chars()
            .take(100)
            .collect::<String>()
    };
    let json: serde_json::Value = serde_json::from_slice(&payload.data).map_err(|_| shown())?;
    from_json(ty, &json).ok_or_else(shown)
}

/// The inner `Option` is `None` for an unset attribute, the outer for a value of another type.
fn from_json(ty: AttributeType, json: &serde_json::Value) -> Option<Option<AttributeValue>> {
    use serde_json::Value;
    match (ty, json) {
        (_, Value::Null) => Some(None),
        (_, Value::Array(items)) if items.is_empty() => Some(None),
        (AttributeType::KeywordList, Value::Array(items)) => {
            Some(Some(AttributeValue::KeywordList(strings(items)?)))
        }
        (AttributeType::KeywordList, _) => None,
        // Old SDKs wrap every value in a list.
        (_, Value::Array(items)) => match items.as_slice() {
            [single] => scalar(ty, single).map(Some),
            _ if ty == AttributeType::Keyword => {
                Some(Some(AttributeValue::KeywordList(strings(items)?)))
            }
            _ => None,
        },
        (_, value) => scalar(ty, value).map(Some),
    }
}

fn strings(items: &[serde_json::Value]) -> Option<Vec<String>> {
    items
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn scalar(ty: AttributeType, value: &serde_json::Value) -> Option<AttributeValue> {
    Some(match ty {
        AttributeType::Bool => AttributeValue::Bool(value.as_bool()?),
        AttributeType::Int => AttributeValue::Int(value.as_i64()?),
        AttributeType::Double => AttributeValue::Double(value.as_f64()?),
        AttributeType::Datetime => {
            let time: jiff::Timestamp = value.as_str()?.parse().ok()?;
            AttributeValue::Datetime(i64::try_from(time.as_nanosecond()).ok()?)
        }
        AttributeType::Keyword => AttributeValue::Keyword(value.as_str()?.to_owned()),
        AttributeType::Text => AttributeValue::Text(value.as_str()?.to_owned()),
        AttributeType::KeywordList => return None,
    })
}

/// The type of a name as flags write it, in any case.
pub fn type_named(name: &str) -> Option<AttributeType> {
    use AttributeType::{Bool, Datetime, Double, Int, Keyword, KeywordList, Text};
    let known = [Bool, Int, Double, Datetime, Keyword, KeywordList, Text];
    known
        .into_iter()
        .find(|ty| format!("{ty:?}").eq_ignore_ascii_case(name))
}

/// The protocol's number of a type.
pub fn to_proto(ty: AttributeType) -> IndexedValueType {
    match ty {
        AttributeType::Bool => IndexedValueType::Bool,
        AttributeType::Int => IndexedValueType::Int,
        AttributeType::Double => IndexedValueType::Double,
        AttributeType::Datetime => IndexedValueType::Datetime,
        AttributeType::Keyword => IndexedValueType::Keyword,
        AttributeType::KeywordList => IndexedValueType::KeywordList,
        AttributeType::Text => IndexedValueType::Text,
    }
}

/// The type of a protocol number; `None` for "unspecified".
pub fn from_proto(ty: IndexedValueType) -> Option<AttributeType> {
    Some(match ty {
        IndexedValueType::Unspecified => return None,
        IndexedValueType::Bool => AttributeType::Bool,
        IndexedValueType::Int => AttributeType::Int,
        IndexedValueType::Double => AttributeType::Double,
        IndexedValueType::Datetime => AttributeType::Datetime,
        IndexedValueType::Keyword => AttributeType::Keyword,
        IndexedValueType::KeywordList => AttributeType::KeywordList,
        IndexedValueType::Text => AttributeType::Text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Payload {
        Payload {
            metadata: HashMap::from([("encoding".into(), b"json/plain".to_vec())]),
            data: text.as_bytes().to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn payloads_decode_by_type() {
        use AttributeType as T;
        use AttributeValue as V;
        let list = |items: &[&str]| V::KeywordList(items.iter().map(|s| s.to_string()).collect());
        type Row = (T, &'static str, Result<Option<V>, ()>);
        let rows: Vec<Row> = vec![
            (T::Keyword, r#""a""#, Ok(Some(V::Keyword("a".into())))),
            (T::Keyword, r#"["a"]"#, Ok(Some(V::Keyword("a".into())))),
            (T::Keyword, r#"["a","b"]"#, Ok(Some(list(&["a", "b"])))),
            (T::Keyword, "5", Err(())),
            (T::Keyword, "[1,2]", Err(())),
            (
                T::Text,
                r#""many words""#,
                Ok(Some(V::Text("many words".into()))),
            ),
            (T::Text, r#"["a","b"]"#, Err(())),
            (T::Int, "5", Ok(Some(V::Int(5)))),
            (T::Int, "[5]", Ok(Some(V::Int(5)))),
            (T::Int, "5.5", Err(())),
            (T::Int, r#""5""#, Err(())),
            (T::Double, "5", Ok(Some(V::Double(5.0)))),
            (T::Bool, "true", Ok(Some(V::Bool(true)))),
            (T::Bool, "1", Err(())),
            (
                T::Datetime,
                r#""1970-01-01T00:00:01.5Z""#,
                Ok(Some(V::Datetime(1_500_000_000))),
            ),
            (
                T::Datetime,
                r#""1970-01-01T01:00:00+01:00""#,
                Ok(Some(V::Datetime(0))),
            ),
            (T::Datetime, r#""yesterday""#, Err(())),
            (T::KeywordList, r#"["a","b"]"#, Ok(Some(list(&["a", "b"])))),
            (T::KeywordList, r#"["a",null]"#, Err(())),
            (T::KeywordList, r#""a""#, Err(())),
            (T::Int, "null", Ok(None)),
            (T::Int, "[]", Ok(None)),
            (T::KeywordList, "[]", Ok(None)),
            (T::Keyword, "{broken", Err(())),
        ];
        for (ty, text, expected) in rows {
            assert_eq!(
                decode(ty, &json(text)).map_err(|_| ()),
                expected,
                "{ty:?} {text}"
            );
        }
    }

    #[test]
    fn names_that_can_be_added() {
        let keyword = IndexedValueType::Keyword as i32;
        for (name, ty, ok) in [
            ("Mine", keyword, true),
            ("", keyword, false),
            ("WorkflowId", keyword, false),
            ("BuildIds", keyword, false),
            ("Memo", keyword, false),
            ("TemporalAnything", keyword, false),
            ("Other", 0, false),
            ("Other", 99, false),
        ] {
            let mut custom = Custom::new();
            let result = add(&mut custom, &HashMap::from([(name.to_owned(), ty)]));
            assert_eq!(result.is_ok(), ok, "{name} {ty}");
            assert_eq!(custom.len(), usize::from(ok));
        }
        let mut custom = Custom::from([("Mine".to_owned(), AttributeType::Int)]);
        add(&mut custom, &HashMap::from([("Mine".to_owned(), keyword)])).unwrap();
        assert_eq!(custom["Mine"], AttributeType::Int);
        remove(&mut custom, &["Mine".to_owned(), "Unknown".to_owned()]).unwrap();
        assert!(custom.is_empty());
        assert!(remove(&mut custom, &["RunId".to_owned()]).is_err());
    }

    #[test]
    fn types_by_name() {
        for (name, expected) in [
            ("Keyword", Some(AttributeType::Keyword)),
            ("keywordlist", Some(AttributeType::KeywordList)),
            ("DATETIME", Some(AttributeType::Datetime)),
            ("String", None),
            ("", None),
        ] {
            assert_eq!(type_named(name), expected);
        }
    }
}
