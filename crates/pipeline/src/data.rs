//! Values between stages: JSON, artifacts that stand for large JSON, and collections of items.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of JSON above which a value is kept as an artifact and passed by reference.
pub const CLAIM_CHECK_BYTES: usize = 64 * 1024;

/// A content-addressed object in the artifact store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `sha256:` and the hash of its bytes in lower-case hexadecimal.
    #[serde(rename = "$artifact")]
    pub digest: String,
    pub bytes: u64,
    /// What the bytes are, such as `application/json`.
    pub media_type: String,
}

/// Items of one type, too many to travel in messages. They lie in parts; the manifest, itself an
/// artifact, lists the parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// Digest of the [`Manifest`].
    #[serde(rename = "$collection")]
    pub manifest: String,
    /// The type of an item, such as `document`.
    pub item: String,
    /// Items in all parts.
    pub count: u64,
    pub parts: u32,
}

/// The parts of a collection, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub item: String,
    pub parts: Vec<PartEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// Digest of the [`Part`].
    pub digest: String,
    /// Items in it.
    pub count: u64,
}

/// What one chunk of a fan-out reads or writes: one JSON object to a line, items first as
/// `{"id": …, "value": …}`, then what failed before as `{"id": …, "source": …, "error": …}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub items: Vec<Item>,
    pub failed: Vec<FailedItem>,
}

/// One element of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Stable: made from content, unique in its collection.
    pub id: String,
    /// The id of the item of the fan-out's own collection that this one came from: the document
    /// of a text chunk. Empty for such an item itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub value: Value,
}

impl Item {
    /// The id of the item of the fan-out's own collection.
    pub fn source_id(&self) -> &str {
        if self.source.is_empty() {
            &self.id
        } else {
            &self.source
        }
    }

    /// What becomes of the item when a stage cannot process it. The worker fills in which stage.
    pub fn failed(self, error: impl ToString) -> FailedItem {
        FailedItem {
            id: self.id,
            source: self.source,
            stage: String::new(),
            error: error.to_string(),
        }
    }
}

/// An item that a stage could not process. It stays with its part, so that later stages know that
/// its source is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedItem {
    pub id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The stage at which it failed.
    pub stage: String,
    pub error: String,
}
