//! Pipelines as data: what an author wrote becomes a checked plan, and the messages in which the
//! interpreter and the workers speak of it. Pure: no I/O, no clock, no engine.
//!
//! One pipeline on its way: YAML text → [`plan::Plan`] (checked against the stage types that exist,
//! normalised, hashed) → [`run::RunInput`], the interpreter workflow's input → for each stage a
//! [`task::TaskInput`] to a worker of its resource class and a [`task::TaskOutput`] back.

pub mod check;
pub mod data;
pub mod device;
pub mod diagnostic;
pub mod duration;
pub mod graph;
pub mod inputs;
pub mod limit;
pub mod plan;
pub mod resource;
pub mod run;
pub mod schema;
pub mod size;
pub mod stage;
pub mod task;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod parse;
mod spec;
mod suggest;
mod yaml;
