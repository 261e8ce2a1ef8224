//! What a stage is to the worker.

use async_trait::async_trait;
use serde_json::Value;
use tidemill_pipeline::data::{Item, Part};
use tidemill_pipeline::stage::StageType;

use crate::{Batched, Context, Error};

/// A stage type that a worker can run. One value serves all tasks, also at the same time.
///
/// A task may be run again after a crash, so a stage must leave the same behind when it runs twice.
/// It should end soon after [`Context::cancelled`]; a future that is dropped is fine too.
#[async_trait]
pub trait Stage: Send + Sync + 'static {
    fn describe(&self) -> StageType;

    /// Runs a stage of kind [`Call`](tidemill_pipeline::stage::Kind::Call). `input` has no
    /// artifacts in it; a collection comes as a reference, for [`Context::artifacts`] to read.
    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let _ = (input, with, cx);
        Err(Error::wrong_kind(&self.describe()))
    }

    /// Runs a stage of kind [`Source`](tidemill_pipeline::stage::Kind::Source): gives items to
    /// `sink`, which lays them into parts.
    async fn source(
        &self,
        input: Value,
        with: Value,
        sink: &mut dyn Sink,
        cx: &Context,
    ) -> Result<(), Error> {
        let _ = (input, with, sink, cx);
        Err(Error::wrong_kind(&self.describe()))
    }

    /// Runs a stage of kind [`Items`](tidemill_pipeline::stage::Kind::Items) on a chunk. Items that
    /// it cannot process it returns as failed, and an error only if none can be processed now.
    /// The chunk's earlier failures are there to be looked at; the worker carries them on.
    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let _ = (chunk, with, cx);
        Err(Error::wrong_kind(&self.describe()))
    }

    /// Its other form, if its items can be run in one call with those of other runs. The worker then
    /// calls that instead of [`call`](Self::call) and [`items`](Self::items).
    fn batched(&self) -> Option<&dyn Batched> {
        None
    }

    /// What a result depends on besides the input, the parameters and the stage's own version, such
    /// as the revision of a model. Cached results are used again only under the same one.
    async fn revision(&self, with: &Value, cx: &Context) -> Result<Option<String>, Error> {
        let _ = (with, cx);
        Ok(None)
    }
}

/// Where a source puts its items.
#[async_trait]
pub trait Sink: Send {
    /// Takes an item. `bytes` is about its size in the artifact store: parts end at a number of
    /// items or of bytes.
    async fn item(&mut self, item: Item, bytes: usize) -> Result<(), Error>;

    /// Something that should have become an item could not be read: counted and kept by name.
    async fn failed(&mut self, id: &str, error: &str) -> Result<(), Error>;
}
