//! Stages that use models: `embed.text`, `infer` and `llm.generate`.

mod answer;
mod attempts;
mod embed_batch;
mod embed_text;
mod infer;
mod llm_generate;
#[cfg(test)]
mod tests;

use serde_json::Value;
use tidemill_connect::inference;
use tidemill_device::batch;

pub use embed_text::EmbedText;
pub(crate) use embed_text::model_of;
pub use infer::Infer;
pub use llm_generate::LlmGenerate;

use crate::{Error, ErrorKind};

impl From<inference::Error> for Error {
    fn from(error: inference::Error) -> Self {
        use inference::ErrorKind as Told;
        let kind = match error.kind {
            Told::Invalid
            | Told::TooLong
            | Told::BatchTooLarge
            | Told::Misconfigured
            | Told::Auth => ErrorKind::Invalid,
            Told::OutOfMemory => ErrorKind::OutOfMemory,
            Told::RateLimited => ErrorKind::RateLimited,
            Told::Unavailable => ErrorKind::Unavailable,
            Told::Failed => ErrorKind::Failed,
            Told::Cancelled => ErrorKind::Cancelled,
        };
        Error {
            message: error.message,
            kind,
            retry_after: error.retry_after,
        }
    }
}

/// What becomes of a batch of so many items when its call gave `error`: each may have its own failure,
/// or all of them go back to be tried in halves, later, or elsewhere.
fn failed_batch(
    error: inference::Error,
    items: usize,
) -> Result<Vec<Result<Value, batch::Error>>, batch::Error> {
    use inference::ErrorKind as Told;
    let alone = items <= 1;
    let kind = match error.kind {
        // Nothing of this kind can succeed, however it is cut.
        Told::Misconfigured | Told::Auth => batch::Kind::Invalid,
        Told::Invalid | Told::TooLong | Told::BatchTooLarge if alone => batch::Kind::Invalid,
        Told::Invalid | Told::TooLong | Told::Failed => batch::Kind::Failed,
        Told::OutOfMemory if alone => batch::Kind::OutOfMemory,
        Told::OutOfMemory | Told::BatchTooLarge => batch::Kind::BatchTooLarge,
        Told::RateLimited => batch::Kind::RateLimited,
        Told::Unavailable => batch::Kind::Unavailable,
        Told::Cancelled => batch::Kind::Cancelled,
    };
    let error = batch::Error {
        kind,
        message: error.message,
        retry_after: error.retry_after,
    };
    match kind {
        batch::Kind::Invalid => Ok(vec![Err(error); items]),
        _ => Err(error),
    }
}

/// An item that is wrong by itself.
fn wrong_item(reason: String) -> batch::Error {
    batch::Error {
        kind: batch::Kind::Invalid,
        message: reason,
        retry_after: None,
    }
}
