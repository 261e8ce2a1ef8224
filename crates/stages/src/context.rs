//! What a stage may use besides its input.

use std::path::PathBuf;
use std::sync::Arc;

use tidemill_connect::artifacts::Artifacts;
use tidemill_connect::limiter::Limiter;
use tidemill_connect::stream::Streams;
use tidemill_device::Device;
use tidemill_pipeline::task::RunRef;
use tokio_util::sync::CancellationToken;

/// The surroundings of one task.
#[derive(Clone)]
pub struct Context {
    pub run: RunRef,
    /// The stage's id in its pipeline.
    pub stage: String,
    pub artifacts: Artifacts,
    /// Where embedded vector indexes and models lie unless the pipeline names a path.
    pub data: PathBuf,
    /// Fires when the run is cancelled, the attempt has timed out or the worker stops.
    pub cancelled: CancellationToken,
    /// Called with a line for people, such as `120 of 256 embedded`; also a sign of life.
    pub progress: Arc<dyn Fn(String) + Send + Sync>,
    /// The devices that this task holds for itself; none unless its class has devices.
    pub devices: Vec<Arc<dyn Device>>,
    /// The item that a call is for, when a fan-out makes one for each; empty otherwise.
    pub item: String,
    /// Where a stage says what it has so far, for those who watch.
    pub streams: Streams,
    /// What the provider of the stage's `limit` allows; none when the stage has no limit. Requests to
    /// that provider go through it.
    pub limit: Option<Arc<dyn Limiter>>,
}

impl Context {
    /// The name of the stream of this stage: `run/stage`, or `run/stage/item`.
    pub fn stream(&self) -> String {
        match self.item.is_empty() {
            true => format!("{}/{}", self.run.id, self.stage),
            false => format!("{}/{}/{}", self.run.id, self.stage, self.item),
        }
    }
}
