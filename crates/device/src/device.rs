//! What is asked of a device, whatever it is.

use std::any::Any;
use std::sync::Arc;

use crate::simulated::{Settings, Simulated};
use crate::{Cpu, Nvidia};

/// A device as a worker sees it.
pub trait Device: Send + Sync + 'static {
    /// As it was asked for: `cpu`, `nvml:0`, `sim:0`. People read it in reasons for waiting.
    fn name(&self) -> &str;

    /// What it says of its memory at this moment; what other processes hold is not free.
    ///
    /// # Errors
    /// The device does not answer: it was lost, or the driver was unloaded.
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {device}: {reason}")]
pub struct Error {
    pub device: String,
    pub reason: String,
}

impl Error {
    pub(crate) fn new(device: &str, reason: impl Into<String>) -> Self {
        Self {
            device: device.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Opens the device that `name` names: `cpu`; a number, `nvml:NUMBER` or `nvml:UUID` for one of
/// NVIDIA's; `sim`, `sim:NUMBER` or `sim:NUMBER:SIZE` for a simulated one, with
/// [further settings](Settings::parse) such as `sim:0:80GiB,latency=20ms`.
///
/// Each call opens a simulated device of its own, also under the same name.
///
/// # Errors
/// There is no such device on this machine, or its settings are wrong; the reason says what there
/// is, or what was expected.
pub fn open(name: &str) -> Result<Arc<dyn Device>, Error> {
    let kind = name.split_once(':').map_or(name, |(kind, _)| kind);
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    match kind {
        "cpu" if name == "cpu" => Ok(Arc::new(Cpu::open()?)),
        "nvml" => Ok(Arc::new(Nvidia::open(name)?)),
        _ if is_number => Ok(Arc::new(Nvidia::open(&format!("nvml:{name}"))?)),
        "sim" => match Settings::parse(name) {
            Ok(settings) => Ok(Arc::new(Simulated::new(settings))),
            Err(reason) => Err(Error::new(name, reason)),
        },
        _ => Err(Error::new(
            name,
            format!(
                "there is no such device; this machine has {}, and simulated ones can be had as sim:0:80GiB",
                list().join(", ")
            ),
        )),
    }
}

/// Names of the devices that this machine has, as [`open`] takes them: `cpu`, and `nvml:NUMBER` for
/// each of NVIDIA's.
pub fn list() -> Vec<String> {
    let nvidia = (0..Nvidia::count().unwrap_or(0)).map(|index| format!("nvml:{index}"));
    std::iter::once("cpu".to_owned()).chain(nvidia).collect()
}

#[cfg(test)]
mod tests {
    use super::open;

    fn reason(name: &str) -> String {
        match open(name) {
            Ok(device) => panic!("{name} was opened as {}", device.name()),
            Err(error) => {
                assert_eq!(error.device, name);
                error.reason
            }
        }
    }

    #[test]
    fn simulated_devices_are_opened_by_name() {
        for (name, short, total) in [
            ("sim", "sim:0", 80_u64 << 30),
            ("sim:3", "sim:3", 80 << 30),
            ("sim:1:2GiB", "sim:1", 2 << 30),
            ("sim:0:80GiB,latency=20ms,per_item=1ms", "sim:0", 80 << 30),
        ] {
            let device = open(name).unwrap();
            assert_eq!(device.name(), short);
            assert_eq!(device.memory().unwrap().total, total);
        }
    }

    #[test]
    fn names_of_nothing_are_told_what_there_is() {
        for name in ["", "tpu:0", "cpu:1", "-1", "gpu", "0x1", "nvlm:0"] {
            let reason = reason(name);
            assert!(reason.contains("has cpu"), "{name}: {reason}");
            assert!(reason.contains("sim:0:80GiB"), "{name}: {reason}");
        }
    }

    #[test]
    fn wrong_settings_are_told_what_was_expected() {
        for (name, expected) in [
            ("sim:x", "number"),
            ("sim:0:80", "size"),
            (
                "sim:0:80GiB,colour=red",
                "latency, per_item, item_memory, load, stall",
            ),
            ("sim:0,latency=fast", "20ms"),
            ("sim:0,latency", "NAME=VALUE"),
            ("sim:0,item_memory=1", "size"),
            ("sim:0,stall=", "file"),
            ("sim:0,latency=1ms,latency=2ms", "twice"),
            ("nvml:x", "nvml:NUMBER"),
            ("nvml:", "nvml:NUMBER"),
        ] {
            let reason = reason(name);
            assert!(reason.contains(expected), "{name}: {reason}");
        }
    }
}
