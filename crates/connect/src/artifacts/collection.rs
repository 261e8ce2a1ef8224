//! Collections: manifests, parts, and their items one after another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tidemill_pipeline::data::{Artifact, Collection, Item, Manifest, Part};
use tidemill_pipeline::task::Chunk;

use super::{Artifacts, Error, JSON_LINES, decode_part, encode_part};

/// Manifests kept in memory: the tasks of a fan-out all read the same one.
const MANIFESTS_MAX: usize = 8;

/// The manifests that were read last, the latest first.
#[derive(Default)]
pub(super) struct Manifests {
    recent: Mutex<VecDeque<(String, Arc<Manifest>)>>,
}

impl Manifests {
    fn get(&self, digest: &str) -> Option<Arc<Manifest>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent.iter().position(|(key, _)| key == digest)?;
        let found = recent.remove(at)?;
        let manifest = found.1.clone();
        recent.push_front(found);
        Some(manifest)
    }

    fn insert(&self, digest: &str, manifest: Arc<Manifest>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(key, _)| key != digest);
        recent.push_front((digest.to_owned(), manifest));
        recent.truncate(MANIFESTS_MAX);
    }
}

impl Artifacts {
    pub async fn put_part(&self, part: &Part) -> Result<Artifact, Error> {
        self.put(encode_part(part), JSON_LINES).await
    }

    pub async fn get_part(&self, digest: &str) -> Result<Part, Error> {
        let bytes = self.get(digest).await?;
        decode_part(&bytes).map_err(|error| match error {
            Error::Invalid(what) => Error::Invalid(format!("artifact {digest}: {what}")),
            other => other,
        })
    }

    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<Artifact, Error> {
        self.put_json(manifest).await
    }

    /// A manifest, from memory if it was read lately.
    pub async fn get_manifest(&self, digest: &str) -> Result<Arc<Manifest>, Error> {
        if let Some(manifest) = self.inner.manifests.get(digest) {
            return Ok(manifest);
        }
        let manifest: Arc<Manifest> = Arc::new(self.get_json(digest).await?);
        self.inner.manifests.insert(digest, manifest.clone());
        Ok(manifest)
    }

    /// Stores a manifest and returns the collection that it makes of its parts.
    pub async fn put_collection(&self, manifest: Manifest) -> Result<Collection, Error> {
        let parts = u32::try_from(manifest.parts.len()).map_err(|_| {
            Error::Invalid("a collection cannot have more than 4,294,967,295 parts".to_owned())
        })?;
        let artifact = self.put_manifest(&manifest).await?;
        Ok(Collection {
            manifest: artifact.digest,
            count: manifest.parts.iter().map(|entry| entry.count).sum(),
            parts,
            item: manifest.item,
        })
    }

    /// The items of a chunk: those of a part, or the `size` items from `index * size` on.
    pub async fn items_of_chunk(&self, chunk: &Chunk) -> Result<Vec<Item>, Error> {
        let manifest = self.get_manifest(&chunk.collection.manifest).await?;
        let beyond = || {
            Error::Invalid(format!(
                "chunk {} of collection {} does not exist",
                chunk.index, chunk.collection.manifest
            ))
        };
        if chunk.size == 0 {
            let entry = manifest
                .parts
                .get(chunk.index as usize)
                .ok_or_else(beyond)?;
            return Ok(self.get_part(&entry.digest).await?.items);
        }
        let size = u64::from(chunk.size);
        let (from, to) = (
            u64::from(chunk.index) * size,
            (u64::from(chunk.index) + 1) * size,
        );
        let mut items = Vec::new();
        let mut first = 0;
        for entry in &manifest.parts {
            let end = first + entry.count;
            if first < to && end > from {
                let part = self.get_part(&entry.digest).await?;
                let skip = from.saturating_sub(first) as usize;
                let take = (to.min(end) - from.max(first)) as usize;
                items.extend(part.items.into_iter().skip(skip).take(take));
            }
            first = end;
        }
        if items.is_empty() && chunk.index > 0 {
            return Err(beyond());
        }
        Ok(items)
    }

    /// The parts of a collection in order, each read when it is asked for.
    pub fn parts(&self, collection: &Collection) -> BoxStream<'static, Result<Part, Error>> {
        let (artifacts, digest) = (self.clone(), collection.manifest.clone());
        let parts = async move {
            let manifest = artifacts.get_manifest(&digest).await?;
            Ok(stream::try_unfold(0, move |at| {
                let (artifacts, manifest) = (artifacts.clone(), manifest.clone());
                async move {
                    let Some(entry) = manifest.parts.get(at) else {
                        return Ok(None);
                    };
                    let part = artifacts.get_part(&entry.digest).await?;
                    Ok(Some((part, at + 1)))
                }
            }))
        };
        stream::once(parts).try_flatten().boxed()
    }

    /// The items of a collection in order, without what failed.
    pub fn items(&self, collection: &Collection) -> BoxStream<'static, Result<Item, Error>> {
        self.parts(collection)
            .map_ok(|part| stream::iter(part.items.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }
}
