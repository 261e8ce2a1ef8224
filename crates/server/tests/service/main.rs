//! The server in one process over a real store, driven by its API as a client and a worker do:
//! what is durable when, what survives a failing store and a restart, and what is left behind by
//! those who go away.

mod faulty;
mod rig;

mod failures;
mod queue_configs;
mod restart;
mod retention;
mod shutdown;
mod stalls;
mod sync_match;
mod waits;
