//! Payloads that the server looks into: search attributes, by their metadata and their JSON.
//!
//! Nobody else decodes a payload by its metadata: the engine passes on what it does not look into, and the
//! platform's tasks are JSON whatever their metadata say.

use std::collections::HashMap;

use prost::Message;
use tidemill_engine::search_attribute::{self, Attribute, Schema, Value};
use tidemill_proto::api::common::v1::{Payload, SearchAttributes};
use tidemill_proto::api::enums::v1::IndexedValueType;

use crate::input::Input;

struct Only(IndexedValueType);

impl Schema for Only {
    fn attribute(&self, name: &str) -> Option<Attribute> {
        (name == "A").then_some(Attribute {
            kind: self.0,
            settable: true,
        })
    }
}

/// The first byte chooses the type, the second the encoding, the rest is the value; or all of the payload as
/// it is on the wire.
pub fn attributes(data: &[u8]) {
    let mut input = Input(data);
    let kind = IndexedValueType::try_from(input.below(8) as i32).unwrap_or_default();
    if let Some(payload) = payload(&mut input) {
        check(payload, kind);
    }
}

fn payload(input: &mut Input) -> Option<Payload> {
    let mut metadata = HashMap::new();
    let encoding: Option<&[u8]> = match input.below(8) {
        0 => None,
        1 => Some(b"binary/null"),
        2 => Some(b"binary/plain"),
        3 => {
            let len = input.below(24);
            Some(input.take(len))
        }
        4 => return Payload::decode(input.0).ok(),
        _ => Some(b"json/plain"),
    };
    if let Some(encoding) = encoding {
        metadata.insert("encoding".to_owned(), encoding.to_vec());
    }
    Some(Payload {
        metadata,
        data: input.0.to_vec(),
        ..Default::default()
    })
}

fn check(payload: Payload, kind: IndexedValueType) {
    let decoded = search_attribute::decode(&payload, kind);
    if search_attribute::is_unset(&payload) {
        assert!(!matches!(decoded, Ok(Some(_))), "{payload:?} is unset");
    }
    if let Ok(Some(value)) = &decoded {
        let fits = matches!(
            (value, kind),
            (Value::Bool(_), IndexedValueType::Bool)
                | (Value::Int(_), IndexedValueType::Int)
                | (Value::Double(_), IndexedValueType::Double)
                | (Value::Datetime(_), IndexedValueType::Datetime)
                | (Value::Keyword(_), IndexedValueType::Keyword)
                | (Value::KeywordList(_), IndexedValueType::KeywordList)
                | (Value::Text(_), IndexedValueType::Text)
        );
        assert!(fits, "{value:?} of {kind:?}");
        assert!(!matches!(value, Value::Double(number) if !number.is_finite()));
    }

    let attributes = SearchAttributes {
        indexed_fields: HashMap::from([("A".to_owned(), payload)]),
    };
    let valid = search_attribute::validate(&attributes, &Only(kind), &Default::default());
    assert!(valid.is_err() || decoded.is_ok(), "valid, but {decoded:?}");
    let shown = search_attribute::typed(Some(&attributes), &Only(kind)).unwrap_or_default();
    let shown = &shown.indexed_fields["A"];
    assert_eq!(
        search_attribute::decode(shown, kind),
        decoded,
        "as it is shown"
    );
    let mut merged = attributes.clone();
    search_attribute::merge(&mut merged, &attributes);
    let unset = search_attribute::is_unset(&attributes.indexed_fields["A"]);
    assert_eq!(merged.indexed_fields.is_empty(), unset);
}
