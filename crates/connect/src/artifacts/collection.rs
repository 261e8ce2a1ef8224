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

    /// A chunk: one part, or the `size` items from `index * size` on, counted over all parts. What
    /// failed in a part then goes with the part's first item, so that each failure is in one chunk.
    pub async fn chunk(&self, chunk: &Chunk) -> Result<Part, Error> {
        let manifest = self.get_manifest(&chunk.collection.manifest).await?;
        let beyond = |chunks: u64| {
            Error::Invalid(format!(
                "chunk {} of collection {} does not exist: it has {chunks}",
                chunk.index, chunk.collection.manifest
            ))
        };
        if chunk.size == 0 {
            let entry = manifest.parts.get(chunk.index as usize);
            let entry = entry.ok_or_else(|| beyond(manifest.parts.len() as u64))?;
            return self.get_part(&entry.digest).await;
        }
        let (size, index) = (u64::from(chunk.size), u64::from(chunk.index));
        let total: u64 = manifest.parts.iter().map(|entry| entry.count).sum();
        let last = total.saturating_sub(1) / size;
        if index > last {
            return Err(beyond(last + 1));
        }
        let (from, to) = (index * size, (index + 1) * size);
        let mut made = Part::default();
        let mut first = 0;
        for entry in &manifest.parts {
            let end = first + entry.count;
            // Parts without items after the last one belong to the last chunk.
            let begins_here = (first / size).min(last) == index;
            if begins_here || (first < to && end > from) {
                let part = self.get_part(&entry.digest).await?;
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
