//! Stages that use models: `embed.text` and `llm.generate`.

mod answer;
mod attempts;
mod embed_text;
mod llm_generate;
#[cfg(test)]
mod tests;

use tidemill_connect::inference;

pub use embed_text::EmbedText;
pub(crate) use embed_text::model_of;
pub use llm_generate::LlmGenerate;

use crate::{Error, ErrorKind};

impl From<inference::Error> for Error {
    fn from(error: inference::Error) -> Self {
        let kind = match error.kind {
            inference::ErrorKind::Invalid | inference::ErrorKind::Misconfigured => {
                ErrorKind::Invalid
            }
            inference::ErrorKind::RateLimited => ErrorKind::RateLimited,
            inference::ErrorKind::Unavailable => ErrorKind::Unavailable,
            inference::ErrorKind::Failed => ErrorKind::Failed,
            inference::ErrorKind::Cancelled => ErrorKind::Cancelled,
        };
        Error {
            message: error.message,
            kind,
            retry_after: error.retry_after,
        }
    }
}
