//! Running a server: what is listened on, what is kept where, and how it ends.

mod dynamic_config;
pub mod engine;
mod listen;
mod run;
pub mod start_dev;
