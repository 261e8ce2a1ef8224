//! Tidemill's engine: the state machines of durable execution, as functions.
//!
//! An operation takes a [`Run`], a request and the inputs [`Cx`] (time, identifiers, limits) and
//! returns an [`Outcome`]: the next state, events, rows, tasks and effects as data. There is no I/O
//! here, no clock, no randomness and no hash-map order; carrying things out is the server's work.
//! Behaviour is Temporal's, as its SDKs observe it.

#![expect(
    deprecated,
    reason = "clients still send and read fields that the protocol has deprecated"
)]

pub mod activity;
mod buffer;
pub mod cancel;
pub mod child;
pub mod close;
pub mod command;
pub mod complete;
pub mod continuation;
pub mod cron;
pub mod deadline;
pub mod describe;
pub mod encoded;
pub mod error;
pub mod external;
#[cfg(test)]
mod fixture;
pub mod id_policy;
pub mod ids;
pub mod limits;
mod map;
pub mod marker;
pub mod model;
pub mod options;
pub mod progress;
pub mod query;
pub mod reset;
mod reset_point;
pub mod retry;
pub mod run;
pub mod run_options;
pub mod search_attribute;
pub mod signal;
pub mod start;
mod start_facts;
#[cfg(test)]
mod testing;
pub mod time;
pub mod timer;
pub mod transition;
pub mod tx;
pub mod update;
pub mod upsert;
pub mod workflow_task;

pub use encoded::{Batch, DecodedBatch};
pub use error::Error;
pub use ids::Ids;
pub use limits::Limits;
pub use run::{BUFFERED_ID, Run, RunId};
pub use start_facts::StartFacts;
pub use time::Time;
pub use transition::{
    Effect, NewTask, OutboxEntry, OutboxItem, Outcome, TaskKind, Transition, UpdateEvent,
};
pub use tx::{Cx, Tx};
