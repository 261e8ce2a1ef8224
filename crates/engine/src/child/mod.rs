//! Child workflows, as their parent sees them (contract 5.7).
//!
//! ```text
//! ── command ──▶ initiated ── child created, told ──▶ started ── child closed ──▶ (gone)
//!                    │                                   │
//!                    └── could not be created ──▶ (gone) └─ outbox: release the child
//! ```
//! Parent and child are two runs, written one after the other: the command leaves an entry in the
//! outbox; the server creates the child from it ([`start_request`]), which waits; the parent
//! records that ([`started`]) and leaves another entry; the server lets the child go
//! ([`release`]). Each step may be repeated after a crash: the child is known by the request id in
//! the parent's record, everything else by that record's state.

mod begin;
mod closed;
pub mod command;

#[cfg(test)]
mod tests;

pub use begin::{Link, reconnects, release, start_failed, start_request, started};
pub(crate) use begin::{record_start_failed, record_started};
pub(crate) use closed::record_closed;
pub use closed::{CloseFacts, How, closed};
