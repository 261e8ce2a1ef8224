//! What is asked of a device, whatever it is.

use std::any::Any;
use std::sync::Arc;

/// A device as a worker sees it.
pub trait Device: Send + Sync + 'static {
    /// As it was asked for: `cpu`, `nvml:0`, `sim:0`. People read it in reasons for waiting.
    fn name(&self) -> &str;

    /// What it says of its memory at this moment; what other processes hold is not free.
    fn memory(&self) -> Result<Memory, Error>;

    /// Share of the time in which it computed, 0 to 1, as it says itself; `None` when it does not.
    fn utilisation(&self) -> Option<f64>;

    /// For stages that know a kind of device and do something with it.
    fn as_any(&self) -> &dyn Any;
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
}

/// A device that is not there, or does not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("device {device}: {reason}")]
pub struct Error {
    pub device: String,
    pub reason: String,
}

/// Opens the device that `name` names: `cpu`; a number or `nvml:NUMBER` for one of NVIDIA's; `sim`,
/// `sim:NUMBER` or `sim:NUMBER:SIZE` (such as `sim:0:80GiB`) for a simulated one.
pub fn open(name: &str) -> Result<Arc<dyn Device>, Error> {
    Err(Error {
        device: name.to_owned(),
        reason: "there is no such kind of device".to_owned(),
    })
}
