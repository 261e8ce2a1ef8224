//! Lays the items of a source into parts as they come, so that a collection of any size takes the
//! memory of one part.

use async_trait::async_trait;
use serde_json::Value;
use tidemill_pipeline::data::{Collection, FailedItem, Item, Manifest, Part, PartEntry};
use tidemill_stages::{Error, Sink};

use crate::message;
use crate::store::Store;

/// When a part is full: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            items: 64,
            bytes: 256 * 1024,
        }
    }
}

impl Limits {
    /// Those of the parameter `part: {items, bytes}`, where it is given.
    pub(crate) fn of(with: &Value) -> Result<Self, Error> {
        let mut limits = Self::default();
        let Some(part) = with.get("part").filter(|part| !part.is_null()) else {
            return Ok(limits);
        };
        for (name, limit) in [("items", &mut limits.items), ("bytes", &mut limits.bytes)] {
            if let Some(value) = part.get(name).filter(|value| !value.is_null()) {
                *limit = message::field(&format!("with.part.{name}"), value.clone())?;
                if *limit == 0 {
                    return Err(Error::invalid(format!(
                        "parameter part.{name} is 0: a part has at least 1"
                    )));
                }
            }
        }
        Ok(limits)
    }
}

pub(crate) struct PartSink<'a> {
    store: &'a Store,
    stage: String,
    limits: Limits,
    open: Part,
    bytes: usize,
    entries: Vec<PartEntry>,
}

impl<'a> PartSink<'a> {
    /// `stage` is the id of the stage whose failures it takes.
    pub(crate) fn new(store: &'a Store, stage: &str, limits: Limits) -> Self {
        Self {
            store,
            stage: stage.to_owned(),
            limits,
            open: Part::default(),
            bytes: 0,
            entries: Vec::new(),
        }
    }

    /// Writes what is left, then the manifest.
    pub(crate) async fn finish(mut self, item: &str) -> Result<Collection, Error> {
        if !self.open.items.is_empty() || !self.open.failed.is_empty() {
            self.close().await?;
        }
        let manifest = Manifest {
            item: item.to_owned(),
            parts: self.entries,
        };
        self.store.put_collection(manifest).await
    }

    async fn close(&mut self) -> Result<(), Error> {
        let part = std::mem::take(&mut self.open);
        self.bytes = 0;
        let digest = self.store.put_part(&part).await?;
        self.entries.push(PartEntry {
            digest,
            count: part.items.len() as u64,
        });
        Ok(())
    }

    async fn grown(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes;
        let items = self.open.items.len() + self.open.failed.len();
        if items >= self.limits.items || self.bytes >= self.limits.bytes {
            self.close().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for PartSink<'_> {
    async fn item(&mut self, item: Item, bytes: usize) -> Result<(), Error> {
        self.open.items.push(item);
        self.grown(bytes).await
    }

    async fn failed(&mut self, id: &str, error: &str) -> Result<(), Error> {
        self.open.failed.push(FailedItem {
            id: id.to_owned(),
            source: String::new(),
            stage: self.stage.clone(),
            error: error.to_owned(),
        });
        self.grown(error.len()).await
    }
}
