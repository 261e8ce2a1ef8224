//! The activity worker: it takes tasks from the engine's queues, runs the stages that they name and
//! answers.
//!
//! A task on its way: [`core`](crate::core) polls it from the queue of a resource class →
//! [`task`] runs it on that class's threads, keeps its heartbeat going and hears of its
//! cancellation → [`run`] decodes it, reads what it refers to, calls the stage and lays down what
//! came out → `core` reports. Nothing but `core` knows the protocol.

mod batching;
mod cache;
mod class;
mod config;
mod core;
mod fan_out;
mod host;
pub mod http;
mod internal;
mod limit;
mod message;
mod metrics;
mod offer;
mod parts;
pub mod prelude;
mod program;
mod registry;
mod run;
mod serve;
mod slots;
mod store;
mod task;
#[cfg(test)]
mod testing;

pub use config::{ACCELERATOR, CPU, Config, Memory, cpu_slots};
pub use metrics::Metrics;
pub use offer::{DEVICE_SLOTS, Error as OfferError, Offer, OfferedDevice};
pub use program::Program;
pub use registry::Registry;
pub use serve::{Error, serve};
