//! Signals and cancel requests to other workflows (contract 5.8).
//!
//! ```text
//! ── command ──▶ initiated ── the server delivers it ──▶ signaled / cancel requested
//!                    └──────── it cannot be delivered ──▶ failed, with the cause
//! ```
//! The command leaves an entry in the outbox. The server asks what is to be done with it
//! ([`deliver`]), does it under the record's request id, so that a repeat after a crash changes
//! nothing, and records the result ([`result`]). A run that closes before that is not interested
//! any more: an entry that was not carried out by then is dropped.

pub mod command;
pub mod deliver;
pub mod result;

#[cfg(test)]
mod tests;

pub use deliver::{Step, forget_signal, is_child_of};
pub use result::{cancel_failed, cancel_requested, signal_failed, signaled};
