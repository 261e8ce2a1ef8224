//! Who holds which device, and what those who wait are waiting for.

use std::sync::Arc;

use crate::Device;

/// What a task or a batch asks for. All of it is granted at once or nothing is.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Devices at the same time; at least 1.
    pub devices: u32,
    /// Share of each device, above 0 and up to 1, which is the whole of it.
    pub share: f64,
    /// Bytes of each device's memory that must be free beyond what others were promised; 0 when
    /// nothing is known.
    pub memory: u64,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            devices: 1,
            share: 1.0,
            memory: 0,
        }
    }
}

/// On whose behalf a lease is held: an attempt of a task, or a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// For people: `run/stage`, or the batch's key.
    pub name: String,
    /// Tells one attempt from the next of the same task.
    pub attempt: u32,
}

/// Why these devices can never satisfy a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Never(pub String);

/// The devices of one worker.
pub struct Leases {
    devices: Vec<Arc<dyn Device>>,
}
