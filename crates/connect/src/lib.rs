//! What pipelines connect to: artifact stores, vector stores and inference.

pub mod artifacts;
pub mod embed;
pub mod http;
pub mod inference;
pub mod limiter;
pub mod stream;
pub mod vector;
