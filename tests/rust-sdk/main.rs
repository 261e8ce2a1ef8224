//! The official Rust SDK against the real binary: one file for each feature, one engine process for
//! each test. Every history that a test ends with is replayed by the SDK's replayer.

mod activities;
mod cancellation;
mod children;
mod continue_as_new;
mod messages;
mod restart;
mod session;
mod timers;
mod two_languages;
