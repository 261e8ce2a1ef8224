//! What a stage of one's own is written with: `use tidemill_worker::prelude::*`.

pub use async_trait::async_trait;
pub use serde_json::{Value, json};
pub use tidemill_pipeline::data::{Collection, FailedItem, Item, Part};
pub use tidemill_pipeline::stage::{Kind, StageType, Type};
pub use tidemill_stages::{Context, Error, ErrorKind, Sink, Stage, params};

pub use crate::Program;
