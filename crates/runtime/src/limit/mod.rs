//! Limits that all workers share: one workflow for each, which workers ask by updates.
//!
//! An ask on its way: [`workflow`] takes the update → [`state`] books what the worker has spent in the
//! provider's [`window`], looks at the [`breaker`], grants what the [`pace`] allows, and gives out
//! [`slots`]. All of that but the workflow is functions of a state and a time.

mod breaker;
pub mod client;
mod pace;
mod slots;
mod state;
mod window;
mod workflow;

pub use workflow::LimitWorkflow;
