//! `http.request`: one HTTP request.

pub(crate) mod client;
mod request;

pub use request::Request;
