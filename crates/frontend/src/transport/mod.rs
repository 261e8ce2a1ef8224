//! The wire: HTTP/2 connections, which service a request is for, what is measured of it, and the
//! metrics' own HTTP endpoint.
//!
//! Connections are served on hyper directly and not by tonic's server. Its answer to a missed
//! deadline is CANCELLED, which clients take for their own doing, and its router, boxes, buffers
//! and timers cost as much as a small RPC. What is no unary RPC of Temporal's is left to tonic.

mod connections;
mod dispatch;
mod metrics_http;
mod reflection;
mod socket;
mod streams;
pub(crate) mod unary;

pub use connections::{Options, serve, serve_connection};
pub use metrics_http::serve_metrics;
