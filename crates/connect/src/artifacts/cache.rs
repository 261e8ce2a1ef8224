//! Results that may be used again.
//!
//! An entry names the objects that its output needs, so that a collection of garbage need not read
//! them to know, and a run that uses the entry can mark them as its own.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Artifacts, Error, PREFIX, encode_name, is_hex, object_path, parse_digest, refs_folder,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) stored_ms: u64,
    pub(super) ttl_ms: u64,
    pub(super) output: Value,
    /// Hashes of the objects that `output` needs, in hexadecimal.
    pub(super) objects: BTreeSet<String>,
}

impl Entry {
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        self.stored_ms.saturating_add(self.ttl_ms) <= now_ms
    }
}

impl Artifacts {
    /// The result that was stored under a key, not longer ago than it was stored for, nor than
    /// `ttl`. Its objects are the run's from now on. An entry whose objects are gone is none.
    pub async fn cached(&self, key: &str, ttl: Duration) -> Result<Option<Value>, Error> {
        let Some(bytes) = self.inner.blobs.read(&path(key)?).await? else {
            return Ok(None);
        };
        // Entries are not flushed to disk: after a power failure one may be half there.
        let Ok(entry) = serde_json::from_slice::<Entry>(&bytes) else {
            return Ok(None);
        };
        let now_ms = now_ms();
        let age_ms = now_ms.saturating_sub(entry.stored_ms);
        if entry.is_expired(now_ms) || u128::from(age_ms) >= ttl.as_millis() {
            return Ok(None);
        }
        if let Some(run) = &self.run
            && !entry.objects.is_empty()
        {
            let marks: Vec<String> = entry.objects.iter().cloned().collect();
            self.inner.blobs.mark(&refs_folder(run)?, &marks).await?;
        }
        // After the marks: what is still there now stays.
        for hex in &entry.objects {
            if !self.inner.blobs.refresh(&object_path(hex)).await? {
                return Ok(None);
            }
        }
        Ok(Some(entry.output))
    }

    /// Stores a result under a key. It needs the objects that are named in it by digest, those in
    /// `needs`, and what is named in them: they stay until the entry expires.
    pub async fn put_cached(
        &self,
        key: &str,
        output: Value,
        ttl: Duration,
        needs: Vec<String>,
    ) -> Result<(), Error> {
        let path = path(key)?;
        let mut named = BTreeSet::new();
        digests_in(output.to_string().as_bytes(), &mut named);
        for digest in &needs {
            named.insert(parse_digest(digest)?.to_owned());
        }
        let entry = Entry {
            stored_ms: now_ms(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            output,
            objects: self.reachable(named).await?,
        };
        let bytes = serde_json::to_vec(&entry)
            .map_err(|error| Error::Invalid(format!("a cached result is not JSON: {error}")))?;
        self.inner.blobs.write(&path, bytes.into()).await
    }

    /// The objects among these, and those that their bytes name, and so on. A digest may name
    /// something outside the store; it is left out.
    async fn reachable(&self, named: BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
        let mut seen = named.clone();
        let mut next: Vec<String> = named.into_iter().collect();
        let mut objects = BTreeSet::new();
        while let Some(hex) = next.pop() {
            let Some(bytes) = self.inner.blobs.read(&object_path(&hex)).await? else {
                continue;
            };
            objects.insert(hex);
            let mut found = BTreeSet::new();
            digests_in(&bytes, &mut found);
            next.extend(found.into_iter().filter(|hex| seen.insert(hex.clone())));
        }
        Ok(objects)
    }
}

/// The hashes of all digests that stand in these bytes.
fn digests_in(bytes: &[u8], found: &mut BTreeSet<String>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|b| *b == PREFIX.as_bytes()[0]) {
        rest = &rest[at..];
        let hex = rest
            .strip_prefix(PREFIX.as_bytes())
            .and_then(|tail| tail.get(..64))
            .filter(|hex| is_hex(hex))
            .and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(hex) = hex {
            found.insert(hex.to_owned());
        }
        rest = &rest[1..];
    }
}

fn path(key: &str) -> Result<String, Error> {
    Ok(format!("cache/{}", encode_name(key)?))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
