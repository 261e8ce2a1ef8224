//! Running a server: what is listened on, what is kept where, and how it ends.

mod dynamic_config;
pub(crate) mod engine;
pub(crate) mod listen;
mod platform;
pub(crate) mod run;
pub(crate) mod start_dev;
pub(crate) mod up;
