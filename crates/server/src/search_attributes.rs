//! Search attributes between the protocol, the engine and the store: registration, types, values
//! (engine contract 10.5). The engine decodes and checks what users set; which names mean what, and
//! queries over them, are the business of [`tidemill_store::visibility`].

use std::collections::{BTreeMap, HashMap};

use tidemill_engine::Error;
use tidemill_engine::search_attribute::Value;
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

/// A value as the store keeps it.
pub(crate) fn to_store(value: Value) -> AttributeValue {
    match value {
        Value::Bool(b) => AttributeValue::Bool(b),
        Value::Int(n) => AttributeValue::Int(n),
        Value::Double(n) => AttributeValue::Double(n),
        Value::Datetime(at) => AttributeValue::Datetime(at.0),
        Value::Keyword(word) => AttributeValue::Keyword(word),
        Value::KeywordList(words) => AttributeValue::KeywordList(words),
        Value::Text(text) => AttributeValue::Text(text),
    }
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
