//! The artifact store: immutable objects named by the hash of their bytes, and who needs them.
//!
//! Values too large for messages and the parts of collections lie here; messages carry references.
//! An object is checked against its name whenever it is read, so a damaged one is an error and never
//! a value. What no run and no cached result needs any more is collected by [`Artifacts::gc`].
//!
//! Layout, the same in a folder and under a bucket's prefix:
//!
//! - `objects/<first two hex digits>/<sha256>`: the objects.
//! - `refs/<run>/<sha256>`: an empty mark says that the run needs the object; `refs/<run>/run=<run>`
//!   that it needs whatever an earlier run needed. One mark for each object and run: a log of marks
//!   would save files, but object stores cannot append and its writers would have to be told apart.
//! - `cache/<key>`: results that may be used again.
//!
//! A put marks first and stores after, so that there is no moment at which a collection could take
//! the object away.

mod blobs;
mod cache;
mod collection;
mod error;
mod folder;
mod gc;
mod objects;
mod part;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tidemill_pipeline::data::Artifact;

use self::blobs::Blobs;
use self::collection::Manifests;
pub use self::error::Error;
pub use self::gc::Report;
pub use self::part::{decode_part, encode_part};

/// The media type of JSON values and manifests.
pub const JSON: &str = "application/json";
/// The media type of parts: one JSON object to a line.
pub const JSON_LINES: &str = "application/jsonl";

/// Bytes that are hashed where they are; more of them go to a thread that may block.
const HASH_INLINE_BYTES_MAX: usize = 64 * 1024;
const PREFIX: &str = "sha256:";

/// A handle to the store. Clones share it.
#[derive(Clone)]
pub struct Artifacts {
    inner: Arc<Inner>,
    /// The run for which this handle puts.
    run: Option<Arc<str>>,
}

struct Inner {
    blobs: Box<dyn Blobs>,
    manifests: Manifests,
}

impl fmt::Debug for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifacts")
            .field("store", &self.inner.blobs.name())
            .field("run", &self.run)
            .finish()
    }
}

impl Artifacts {
    /// Opens a store: a folder (a path or a `file://` URL, made if it does not exist), `memory:` or
    /// `s3://bucket/prefix`, whose region, endpoint and credentials come from the usual `AWS_…`
    /// variables. A folder that holds something else, or that a newer version wrote, is refused.
    pub fn open(url: &str) -> Result<Self, Error> {
        if url == "memory:" || url == "memory://" {
            return Ok(Self::memory());
        }
        if let Some(path) = url.strip_prefix("file://") {
            let path = decode_name(path)
                .ok_or_else(|| Error::Invalid(format!("{url} is not a valid file:// URL")))?;
            return Self::folder(path);
        }
        if let Some(rest) = url.strip_prefix("s3://") {
            return Ok(Self::new(Box::new(objects::s3(rest)?)));
        }
        if url.contains("://") {
            return Err(Error::Invalid(format!(
                "artifact store {url}: use a folder, file://, s3:// or memory:"
            )));
        }
        Self::folder(url)
    }

    /// Opens a store in a folder, which is made if it does not exist.
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder::Folder::open(path.into())?;
        Ok(Self::new(Box::new(folder)))
    }

    /// A store that lives and dies with its handles.
    pub fn memory() -> Self {
        Self::new(Box::new(objects::memory()))
    }

    fn new(blobs: Box<dyn Blobs>) -> Self {
        Self {
            inner: Arc::new(Inner {
                blobs,
                manifests: Manifests::default(),
            }),
            run: None,
        }
    }

    /// A handle through which everything is put for this run: the objects stay for as long as the
    /// run is there. What is put through a handle without a run stays for the grace only.
    pub fn for_run(&self, run_id: &str) -> Self {
        Self {
            inner: self.inner.clone(),
            run: Some(run_id.into()),
        }
    }

    /// Keeps all that an earlier run needs for as long as this handle's run is there: for a run that
    /// uses results of the earlier one again.
    pub async fn keep_run(&self, earlier_run_id: &str) -> Result<(), Error> {
        let run = self
            .run
            .as_deref()
            .ok_or_else(|| Error::Invalid("keep_run needs a handle made by for_run".to_owned()))?;
        let mark = format!("{}{}", gc::RUN_MARK, encode_name(earlier_run_id)?);
        self.inner.blobs.mark(&refs_folder(run)?, &[mark]).await
    }

    /// Stores bytes and returns when they are durable. Bytes that are there already are not written
    /// again.
    pub async fn put(&self, bytes: impl Into<Bytes>, media_type: &str) -> Result<Artifact, Error> {
        let bytes = bytes.into();
        let hex = hash(&bytes).await;
        if let Some(run) = &self.run {
            self.inner
                .blobs
                .mark(&refs_folder(run)?, std::slice::from_ref(&hex))
                .await?;
        }
        let artifact = Artifact {
            digest: format!("{PREFIX}{hex}"),
            bytes: bytes.len() as u64,
            media_type: media_type.to_owned(),
        };
        self.inner
            .blobs
            .write_once(&object_path(&hex), bytes)
            .await?;
        Ok(artifact)
    }

    /// The bytes of an object, which have been checked against the digest.
    pub async fn get(&self, digest: &str) -> Result<Bytes, Error> {
        let hex = parse_digest(digest)?;
        let Some(bytes) = self.inner.blobs.read(&object_path(hex)).await? else {
            return Err(Error::Missing(digest.to_owned()));
        };
        if hash(&bytes).await != hex {
            return Err(Error::Corrupt(digest.to_owned()));
        }
        Ok(bytes)
    }

    pub async fn put_json(&self, value: &(impl Serialize + ?Sized)) -> Result<Artifact, Error> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::Invalid(format!("a value is not JSON: {error}")))?;
        self.put(bytes, JSON).await
    }

    pub async fn get_json<T: DeserializeOwned>(&self, digest: &str) -> Result<T, Error> {
        let bytes = self.get(digest).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::Invalid(format!(
                "artifact {digest} is not the JSON that is wanted: {error}"
            ))
        })
    }
}

/// The hash in a digest, in hexadecimal.
fn parse_digest(digest: &str) -> Result<&str, Error> {
    digest
        .strip_prefix(PREFIX)
        .filter(|hex| is_hex(hex.as_bytes()))
        .ok_or_else(|| {
            Error::Invalid(format!(
                "`{digest}` is not a digest: it should be `sha256:` and 64 lower-case hexadecimal digits"
            ))
        })
}

fn is_hex(text: &[u8]) -> bool {
    text.len() == 64 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// SHA-256 in lower-case hexadecimal.
async fn hash(bytes: &Bytes) -> String {
    if bytes.len() <= HASH_INLINE_BYTES_MAX {
        return hex(&Sha256::digest(bytes));
    }
    let shared = bytes.clone();
    match tokio::task::spawn_blocking(move || hex(&Sha256::digest(&shared))).await {
        Ok(hash) => hash,
        // The runtime is going down; nobody waits for speed now.
        Err(_) => hex(&Sha256::digest(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn object_path(hex: &str) -> String {
    format!("objects/{}/{hex}", &hex[..2])
}

fn refs_folder(run_id: &str) -> Result<String, Error> {
    Ok(format!("refs/{}", encode_name(run_id)?))
}

/// Any text as a file name: everything but letters, digits, `-`, `_` and inner dots is `%xx`.
fn encode_name(text: &str) -> Result<String, Error> {
    let mut name = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if at > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    // File systems end at 255 bytes; marks have four more.
    if name.is_empty() || name.len() > 240 {
        return Err(Error::Invalid(format!(
            "`{text}` cannot name a run or a cached result: it must have 1 to 240 bytes"
        )));
    }
    Ok(name)
}

/// The text that [`encode_name`] was given; `None` for what it never returns.
fn decode_name(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let (code, tail) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}
