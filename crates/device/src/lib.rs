//! Devices and what has to be known to keep them busy: who holds them, which models they hold, and
//! how items of many runs become one call.
//!
//! It speaks to devices and to nothing else: no protocol, no store, and of pipelines only the way in
//! which sizes are written. Everything in it runs on a [simulated](simulated::Simulated) device as
//! on a real one.
//!
//! One call on its way: tasks [submit](batch::Batcher::submit) their items → the batcher gathers
//! those of one key, and asks to be [admitted](batch::Execute::admit) → the model is
//! [resident](model) on a device and that is [leased](lease), [both at once](Admission::admit) →
//! the batch is executed and each item gets its own result.

mod admit;
pub mod batch;
mod cpu;
mod device;
pub mod lease;
pub mod ledger;
pub mod model;
mod nvml;
pub mod simulated;

pub use admit::{Admission, AdmitError, Admitted};
pub use cpu::Cpu;
pub use device::{Device, Error, Memory, list, open};
pub use nvml::Nvidia;
