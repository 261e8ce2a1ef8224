//! The records that the built-in stages agree on.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// A document as a source gives it. The id of its item is its `uri`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// A path relative to the folder that was loaded, or a URL; of a row also its key.
    pub uri: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What tells whether the document is as it was: SHA-256 of the raw bytes in lower-case
    /// hexadecimal. `vector.changed` puts one in its place over all that the vectors depend on.
    pub hash: String,
    /// Of the raw bytes; `text` of HTML is Markdown.
    pub media_type: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// A piece of a document's text. The id of its item is made by [`chunk_id`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// Item id of the document.
    pub document: String,
    pub uri: String,
    /// The document's.
    pub hash: String,
    /// Its place among the document's chunks, from 0.
    pub index: u32,
    pub text: String,
    /// Bytes of the document's text before it.
    pub start: usize,
    /// Byte offset of its end.
    pub end: usize,
    /// The headings that it stands under, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headings: Vec<String>,
    /// The document's, and its title.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// The same document, text and occurrence give the same id. `occurrence` tells equal texts in one
/// document apart, from 0. A position is no part of it: text that only moved keeps its id.
pub fn chunk_id(document: &str, text: &str, occurrence: u32) -> String {
    let mut hash = Sha256::new();
    // Lengths, so that no two triples look alike.
    hash.update((document.len() as u64).to_le_bytes());
    hash.update(document);
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
    hash.update(occurrence.to_le_bytes());
    hex(&hash.finalize()[..16])
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
