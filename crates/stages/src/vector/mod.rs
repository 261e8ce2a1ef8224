//! Stages over vector indexes. A document counts as processed once all its vectors are in the
//! index, which happens in one transaction, so a pipeline that stops anywhere can begin again.

mod changed;
mod delete;
mod prune;
mod search;
mod upsert;

pub use changed::Changed;
pub use delete::Delete;
pub use prune::Prune;
pub use search::Search;
pub use upsert::Upsert;

use std::sync::Arc;

use serde_json::Value;
use tidemill_connect::vector::{self, VectorStore};

use crate::{Context, Error, ErrorKind};

/// Opens the index that a stage's parameters name.
async fn open(stage: &str, index: &Value, cx: &Context) -> Result<Arc<dyn VectorStore>, Error> {
    vector::open(index, &cx.data)
        .await
        .map_err(|e| error(stage, e))
}

fn error(stage: &str, error: vector::Error) -> Error {
    let kind = match &error {
        vector::Error::Unavailable { .. } => ErrorKind::Unavailable,
        vector::Error::Mismatch { .. } | vector::Error::Invalid(_) => ErrorKind::Invalid,
    };
    Error::new(kind, format!("{stage}: {error}"))
}
