//! A stage whose items are run in one call with those of other runs.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tidemill_connect::limiter::Limiter;
use tidemill_device::{Device, batch, model};
use tokio_util::sync::CancellationToken;

use crate::{Context, Error};

/// A stage that works on batches. One value serves all tasks.
///
/// An item is one JSON value in, one out, whether it came alone or with a chunk. A batch may be run
/// again, whole or in halves, so it must leave the same behind when it runs twice.
#[async_trait]
pub trait Batched: Send + Sync {
    /// What a task with these parameters can be batched with, and by which limits.
    async fn plan(&self, with: &Value, cx: &Context) -> Result<Plan, Error>;

    /// What an item takes, in the unit of [`batch::Limits::cost`]; or why it can be no item.
    fn cost(&self, item: &Value, with: &Value) -> Result<u64, String> {
        let _ = (item, with);
        Ok(1)
    }

    /// Loads the model of a plan that names one.
    async fn load(&self, with: &Value, on: &Place) -> Result<Loaded, batch::Error> {
        let _ = (with, on);
        Ok(Loaded {
            model: Arc::new(()),
            bytes: None,
        })
    }

    /// Runs a batch: one result for each item, in their order.
    async fn run(
        &self,
        items: Vec<Value>,
        with: &Value,
        on: &Place,
    ) -> Result<Vec<Result<Value, batch::Error>>, batch::Error>;
}

/// What a stage wants for its tasks.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Items of equal key share calls: it names the stage type, the model and its revision, all
    /// parameters that change a result, and the class of the items' shapes.
    pub key: String,
    /// The model to be loaded; `None` when there is nothing to load, as behind an address.
    pub model: Option<Model>,
    /// Whether a batch takes a device of the worker; a server behind an address has its own.
    pub device: bool,
    /// Unless the pipeline says otherwise.
    pub limits: batch::Limits,
    /// Bytes of device memory that a batch of so many items takes beyond its model, if it is known:
    /// a fixed part and one for each unit of cost.
    pub memory: (u64, u64),
}

/// A model that a device holds.
#[derive(Clone, Debug)]
pub struct Model {
    pub key: model::Key,
    /// Bytes that it takes, as far as one can tell before it was loaded; 0 when one cannot.
    pub bytes: u64,
}

/// A model that was loaded.
pub struct Loaded {
    pub model: Arc<dyn Any + Send + Sync>,
    /// Bytes that it takes; `None` to have the device asked before and after.
    pub bytes: Option<u64>,
}

/// Where a batch runs.
pub struct Place {
    /// The devices that it holds: one unless more were asked for, none when the plan wants none.
    pub devices: Vec<Arc<dyn Device>>,
    /// What [`Batched::load`] gave; of the unit type before that, and without a model.
    pub model: Arc<dyn Any + Send + Sync>,
    /// Fires when nobody waits for the batch any more.
    pub cancelled: CancellationToken,
    /// The folder of models.
    pub data: std::path::PathBuf,
    /// See [`Context::limit`]: the tasks of a batch have the same.
    pub limit: Option<Arc<dyn Limiter>>,
}

/// The usual limits: 32 items, 10 ms, one batch at a time.
pub fn limits() -> batch::Limits {
    batch::Limits {
        items: 32,
        delay: Duration::from_millis(10),
        cost: None,
        padded: false,
        queue: 4096,
        lanes: 1,
    }
}
