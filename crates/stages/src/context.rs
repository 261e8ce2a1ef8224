//! What a stage may use besides its input.

use std::path::PathBuf;
use std::sync::Arc;

use tidemill_connect::artifacts::Artifacts;
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
}
