//! Parts of collections as bytes: one JSON object to a line.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tidemill_pipeline::data::{FailedItem, Item, Part};

use super::Error;

/// A line of either kind: an item has a value, what failed an error.
#[derive(Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    source: String,
    /// `Some(Value::Null)` for `null`, `None` if there is none.
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
    #[serde(default)]
    stage: String,
    error: Option<String>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The bytes of a part; equal parts have equal bytes.
pub fn encode_part(part: &Part) -> Bytes {
    let mut bytes = Vec::new();
    for item in &part.items {
        line(&mut bytes, item);
    }
    for failed in &part.failed {
        line(&mut bytes, failed);
    }
    bytes.into()
}

fn line(bytes: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Strings and values only: there is no map with other keys, and a vector takes all bytes.
    serde_json::to_writer(&mut *bytes, value).expect("an item is JSON");
    bytes.push(b'\n');
}

/// The part of these bytes. The error names the line.
pub fn decode_part(bytes: &[u8]) -> Result<Part, Error> {
    let mut part = Part::default();
    for (at, text) in bytes.split(|b| *b == b'\n').enumerate() {
        if text.is_empty() {
            continue;
        }
        let wrong = |what: String| Error::Invalid(format!("line {} of the part: {what}", at + 1));
        let line: Line = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        match line {
            Line {
                value: Some(value),
                error: None,
                id,
                source,
                ..
            } => {
                part.items.push(Item { id, source, value });
            }
            Line {
                value: None,
                error: Some(error),
                id,
                source,
                stage,
            } => {
                part.failed.push(FailedItem {
                    id,
                    source,
                    stage,
                    error,
                });
            }
            _ => return Err(wrong("an item has either `value` or `error`".to_owned())),
        }
    }
    Ok(part)
}
