//! The artifact store as tasks use it: values, parts and collections instead of bytes, and errors
//! that say whether to wait for the store.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidemill_connect::artifacts::{Artifacts, Error as StoreError, JSON};
use tidemill_pipeline::data::{CLAIM_CHECK_BYTES, Collection, Manifest, Part};
use tidemill_pipeline::task::{Chunk, Input};
use tidemill_stages::{Error, ErrorKind};

use crate::run::json;

/// A store seen from a run: what is put through it is kept as long as the run is.
#[derive(Clone)]
pub(crate) struct Store {
    artifacts: Artifacts,
}

impl Store {
    pub(crate) fn new(artifacts: Artifacts) -> Self {
        Self { artifacts }
    }

    pub(crate) fn for_run(&self, run: &str) -> Self {
        Self::new(self.artifacts.for_run(run))
    }

    pub(crate) fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// The value with the JSON that its references stand for in their place. References to
    /// collections stay, and those to artifacts that are not JSON.
    pub(crate) async fn resolve(&self, value: Value) -> Result<Value, Error> {
        self.artifacts.resolve(value).await.map_err(failed)
    }

    /// A value as it travels: itself, or a reference if it is large.
    pub(crate) async fn claim_check(&self, value: Value) -> Result<Value, Error> {
        let bytes = serde_json::to_vec(&value).map_err(crate::run::not_json)?;
        if bytes.len() <= CLAIM_CHECK_BYTES {
            return Ok(value);
        }
        let put = self.artifacts.put(bytes, JSON).await;
        json(&put.map_err(failed)?)
    }

    pub(crate) async fn part(&self, digest: &str) -> Result<Part, Error> {
        self.artifacts.get_part(digest).await.map_err(failed)
    }

    pub(crate) async fn put_part(&self, part: &Part) -> Result<String, Error> {
        let artifact = self.artifacts.put_part(part).await.map_err(failed)?;
        Ok(artifact.digest)
    }

    pub(crate) async fn manifest(&self, digest: &str) -> Result<Arc<Manifest>, Error> {
        self.artifacts.get_manifest(digest).await.map_err(failed)
    }

    pub(crate) async fn put_collection(&self, manifest: Manifest) -> Result<Collection, Error> {
        self.artifacts
            .put_collection(manifest)
            .await
            .map_err(failed)
    }

    /// What one chunk of a fan-out consists of.
    pub(crate) async fn chunk(&self, input: &Input) -> Result<Part, Error> {
        match input {
            Input::Part(digest) => self.part(digest).await,
            Input::Chunk(chunk) if chunk.size == 0 => {
                let manifest = self.manifest(&chunk.collection.manifest).await?;
                match manifest.parts.get(chunk.index as usize) {
                    Some(entry) => self.part(&entry.digest).await,
                    None => Err(beyond(chunk, manifest.parts.len() as u64)),
                }
            }
            Input::Chunk(chunk) => self.counted(chunk).await,
            Input::Value(_) => Err(Error::invalid("its input is no chunk of a collection")),
        }
    }

    /// Items counted over all parts. What failed in a part goes with the part's first item, so that
    /// each failure is in one chunk.
    async fn counted(&self, chunk: &Chunk) -> Result<Part, Error> {
        let manifest = self.manifest(&chunk.collection.manifest).await?;
        let total: u64 = manifest.parts.iter().map(|entry| entry.count).sum();
        let size = u64::from(chunk.size);
        let last = total.saturating_sub(1) / size;
        let index = u64::from(chunk.index);
        if index > last {
            return Err(beyond(chunk, last + 1));
        }
        let (from, to) = (index * size, (index + 1) * size);
        let mut made = Part::default();
        let mut first = 0;
        for entry in &manifest.parts {
            let end = first + entry.count;
            // Parts without items after the last one belong to the last chunk.
            let begins_here = (first / size).min(last) == index;
            if begins_here || (first < to && end > from) {
                let part = self.part(&entry.digest).await?;
                let skip = from.saturating_sub(first) as usize;
                let take = to.min(end).saturating_sub(from.max(first)) as usize;
                made.items
                    .extend(part.items.into_iter().skip(skip).take(take));
                if begins_here {
                    made.failed.extend(part.failed);
                }
            }
            first = end;
        }
        Ok(made)
    }

    pub(crate) async fn cached(&self, key: &str, ttl: Duration) -> Result<Option<Value>, Error> {
        self.artifacts.cached(key, ttl).await.map_err(failed)
    }

    pub(crate) async fn put_cached(
        &self,
        key: &str,
        value: Value,
        ttl: Duration,
    ) -> Result<(), Error> {
        // What it needs is named in it.
        let put = self.artifacts.put_cached(key, value, ttl, Vec::new());
        put.await.map_err(failed)
    }
}

fn beyond(chunk: &Chunk, chunks: u64) -> Error {
    Error::invalid(format!(
        "chunk {} of collection {} does not exist: it has {chunks}",
        chunk.index, chunk.collection.manifest
    ))
}

fn failed(error: StoreError) -> Error {
    let kind = match &error {
        StoreError::Unavailable(_) => ErrorKind::ArtifactStoreUnavailable,
        // Perhaps another machine has it.
        StoreError::Missing(_) | StoreError::Corrupt(_) => ErrorKind::Failed,
        StoreError::Invalid(_) => ErrorKind::Invalid,
    };
    Error::new(kind, error.to_string())
}
