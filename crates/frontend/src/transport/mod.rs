//! The wire: HTTP/2 connections, which service a request is for, what is measured of it, and the
//! metrics' own HTTP endpoint.
//!
//! Connections are served on hyper directly and not by tonic's server. Its answer to a missed
//! deadline is CANCELLED, which clients take for their own doing, and its router, boxes and timers
//! cost as much as a small RPC.

mod connections;
mod dispatch;
mod metrics_http;
mod oversize_message;
mod reflection;

pub use connections::{Options, serve};
pub use metrics_http::serve_metrics;
