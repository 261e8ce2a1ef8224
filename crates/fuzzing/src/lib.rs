//! The bodies of the fuzz targets. Each takes any bytes and panics when something does not hold.
//!
//! `fuzz/` runs them under libFuzzer; `tests/corpora.rs` runs what libFuzzer has found so far, with the
//! compiler that everybody has.

mod attributes;
mod cron;
mod filters;
mod input;
mod log;

pub use attributes::attributes;
pub use cron::cron;
pub use filters::filters;
pub use log::log;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("attributes", attributes),
    ("cron", cron),
    ("filters", filters),
    ("log", log),
];
