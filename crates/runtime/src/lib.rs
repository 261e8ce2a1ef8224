//! The interpreter: one workflow that runs any plan, the worker that serves it, and the client
//! that starts and follows runs.
//!
//! [`Interpreter`] walks a plan's nodes, schedules a task for each stage and keeps the run's state,
//! which it answers queries with. It reaches the engine only through Temporal's protocol and does
//! no work itself: stages run as activities on the queues of their resource classes.
//!
//! [`limit`] is another workflow beside it: what providers allow, shared by all workers.
//!
//! Everything in the workflow has to do the same again when its history is replayed: state is
//! kept in ordered maps, futures are polled in a fixed order ([`in_flight`]), and time is the
//! workflow's.

mod affinity;
mod carry;
pub mod client;
mod context;
mod evaluate;
mod in_flight;
mod interpreter;
pub mod limit;
mod nodes;
pub mod pending;
mod placement;
mod task;
mod walk;
pub mod worker;

pub use interpreter::Interpreter;
