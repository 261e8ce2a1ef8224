//! The activity worker: it takes tasks from the engine's queues, runs the stages that they name and
//! answers.
//!
//! A task on its way: [`core`](crate::core) polls it from the queue of a resource class →
//! [`task`] runs it on that class's threads, keeps its heartbeat going and hears of its
//! cancellation → [`run`] decodes it, reads what it refers to, calls the stage and lays down what
//! came out → `core` reports. Nothing but `core` knows the protocol.

mod cache;
mod config;
mod core;
mod fan_out;
mod internal;
mod message;
mod parts;
pub mod prelude;
mod program;
mod registry;
mod run;
mod serve;
mod store;
mod task;
#[cfg(test)]
mod testing;

pub use config::{ACCELERATOR, CPU, Config, Memory, Offer, cpu_slots};
pub use program::Program;
pub use registry::Registry;
pub use serve::{Error, serve};
