//! The gRPC face of the engine: Temporal's services, errors and limits on the wire.
//!
//! A request goes from [`transport`](serve) to a handler in `rpc`, which finds the namespace,
//! checks what was sent ([`validate`]) and calls the server; `error` turns what comes back into a
//! status. This crate and `tidemill-proto` are the only ones that know tonic.

mod call;
mod error;
mod handler;
mod rpc;
mod services;
mod transport;
pub mod validate;

pub use rpc::system::TEMPORAL_VERSION;
pub use transport::{Options, serve, serve_connection, serve_metrics};
