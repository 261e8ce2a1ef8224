//! NVIDIA's devices through their management library, which is loaded when one is asked for: the
//! binary is built and started without it.

use std::any::Any;
use std::ffi::OsStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::{Device, Error, Memory};

/// The name that the driver installs; the one without the number comes with the development files
/// and is missing in most containers.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// One of NVIDIA's devices, or a part of one (MIG).
pub struct Nvidia {
    name: String,
    uuid: String,
    nvml: Nvml,
}

impl Nvidia {
    /// Opens `nvml:NUMBER`, the number being that of `nvidia-smi`, or `nvml:UUID`.
    ///
    /// # Errors
    /// The driver or the device is missing; the reason says which, and what to do.
    pub fn open(name: &str) -> Result<Self, Error> {
        let which = name.strip_prefix("nvml:").unwrap_or(name);
        let index: Option<u32> = which.parse().ok();
        let is_uuid = which.starts_with("GPU-") || which.starts_with("MIG-");
        if index.is_none() && !is_uuid {
            return Err(Error::new(
                name,
                "expected nvml:NUMBER or nvml:UUID, as nvidia-smi -L lists them",
            ));
        }
        let nvml = load().map_err(|error| Error::new(name, no_driver(&error)))?;
        let found = match index {
            Some(index) => nvml.device_by_index(index),
            None => nvml.device_by_uuid(which),
        };
        let uuid = found
            .and_then(|device| device.uuid())
            .map_err(|error| match error {
                NvmlError::InvalidArg | NvmlError::NotFound => {
                    Error::new(name, not_found(nvml.device_count().unwrap_or(0)))
                }
                error => Error::new(name, error.to_string()),
            })?;
        Ok(Self {
            name: name.to_owned(),
            uuid,
            nvml,
        })
    }

    /// How many there are; parts (MIG) are not counted.
    ///
    /// # Errors
    /// The driver is missing.
    pub fn count() -> Result<u32, Error> {
        load()
            .and_then(|nvml| nvml.device_count())
            .map_err(|error| Error::new("nvml", no_driver(&error)))
    }

    /// What it is called whoever counts. To be used where CUDA is told which device to take
    /// (`CUDA_VISIBLE_DEVICES`), since CUDA does not number devices as the driver does.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(nvml_wrapper::Device<'_>) -> Result<T, NvmlError>,
    ) -> Result<T, Error> {
        self.nvml
            .device_by_uuid(self.uuid.as_str())
            .and_then(question)
            .map_err(|error| Error::new(&self.name, error.to_string()))
    }
}

impl Device for Nvidia {
    fn name(&self) -> &str {
        &self.name
    }

    fn memory(&self) -> Result<Memory, Error> {
        let info = self.ask(|device| device.memory_info())?;
        Ok(Memory {
            total: info.total,
            free: info.free,
        })
    }

    /// The share of the last sampling period (up to a second) in which any kernel ran, of any
    /// process; parts of devices do not tell.
    fn utilisation(&self) -> Option<f64> {
        let rates = self.ask(|device| device.utilization_rates()).ok()?;
        Some(f64::from(rates.gpu) / 100.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn load() -> Result<Nvml, NvmlError> {
    let with = |library: &str| Nvml::builder().lib_path(OsStr::new(library)).init();
    match with(LIBRARIES[0]) {
        Err(NvmlError::LibloadingError(first)) => {
            with(LIBRARIES[1]).map_err(|_| NvmlError::LibloadingError(first))
        }
        loaded => loaded,
    }
}

fn no_driver(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) => format!(
            "the NVIDIA driver's library {} is not on this machine; install the driver, or give the \
             container access to it (--gpus all), or offer another device: cpu, sim:0",
            LIBRARIES[0]
        ),
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed but not loaded; nvidia-smi \
             should list the device before it is offered"
            .to_owned(),
        error => format!("the NVIDIA driver does not answer: {error}"),
    }
}

fn not_found(count: u32) -> String {
    match count {
        0 => "the NVIDIA driver finds no device".to_owned(),
        1 => "there is no such device; this machine has one, nvml:0".to_owned(),
        count => format!(
            "there is no such device; this machine has {count}, nvml:0 to nvml:{}",
            count - 1
        ),
    }
}

#[cfg(test)]
mod tests {
    use nvml_wrapper::error::NvmlError;

    use super::{Nvidia, no_driver, not_found};
    use crate::Device;

    /// Whether or not the machine has one, the answer is a device or says what to do.
    #[test]
    fn the_first_device_is_there_or_its_absence_is_explained() {
        match Nvidia::open("nvml:0") {
            Ok(device) => {
                let memory = device.memory().unwrap();
                assert!(memory.total >= memory.free && memory.total > 0);
                assert!(!device.uuid().is_empty());
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("device nvml:0: "), "{error}");
                assert!(error.contains("NVIDIA driver"), "{error}");
            }
        }
    }

    #[test]
    fn a_missing_driver_or_device_is_told_with_what_to_do() {
        for (text, expected) in [
            (no_driver(&NvmlError::DriverNotLoaded), "nvidia-smi"),
            (no_driver(&NvmlError::GpuLost), "fell off the bus"),
            (not_found(0), "finds no device"),
            (not_found(1), "has one, nvml:0"),
            (not_found(4), "has 4, nvml:0 to nvml:3"),
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
