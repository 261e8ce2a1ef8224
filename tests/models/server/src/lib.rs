//! Models of the server's hand-overs: its own sources of matching and of long polls, over shuttle, and
//! what has to hold of them whatever the order of steps.
//!
//! The models are functions: this library is no test, so that the tests beside those sources, which
//! know nothing of shuttle, stay out of it.

#![expect(dead_code, reason = "the sources have more than is modelled")]
#![expect(unused_imports, reason = "the sources have more than is modelled")]

#[path = "../../explore.rs"]
mod explore;
mod sync;

#[path = "../../../../crates/server/src/matching/mod.rs"]
pub mod matching;
#[path = "../../../../crates/server/src/waiters.rs"]
mod waiters;

pub mod polls;
pub mod waits;
