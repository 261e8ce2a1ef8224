//! The bodies of the fuzz targets. Each takes any bytes and panics when something does not hold.
//!
//! `fuzz/` runs them under libFuzzer; `tests/corpora.rs` runs what libFuzzer has found so far, with the
//! compiler that everybody has.

#![expect(
    deprecated,
    reason = "clients still send fields that the protocol has deprecated"
)]

mod attributes;
mod cron;
mod engine;
mod filters;
mod input;
mod log;
mod requests;
mod stateful;
mod tokens;

pub use attributes::attributes;
pub use cron::cron;
pub use filters::filters;
pub use log::log;
pub use requests::{requests, samples};
pub use stateful::stateful;
pub use tokens::tokens;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("attributes", attributes),
    ("cron", cron),
    ("filters", filters),
    ("log", log),
    ("requests", requests),
    ("stateful", stateful),
    ("tokens", tokens),
];
