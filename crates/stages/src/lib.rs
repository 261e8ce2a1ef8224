//! The built-in stages, and the trait that a stage implements.
//!
//! A stage is a function from JSON, or from the items of a chunk, to the same. What surrounds it
//! is the worker's: reading chunks and artifacts, writing results, heartbeats, the cache.

pub mod ai;
pub mod batched;
mod builtin;
mod context;
pub mod data;
pub mod documents;
mod error;
pub mod http;
pub mod params;
pub mod records;
pub mod shell;
pub mod simulate;
mod stage;
pub mod text;
pub mod vector;

pub use batched::Batched;
pub use builtin::{Settings, builtin, builtin_with, catalog};
pub use context::Context;
pub use error::{Error, ErrorKind};
pub use stage::{Sink, Stage};
