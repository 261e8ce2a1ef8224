//! Models of the store's concurrent parts: its own sources over the locks and threads of shuttle, and
//! what has to hold whatever the order of steps.

mod committer;
#[path = "../../../explore.rs"]
mod explore;
mod logged;
mod toy;
