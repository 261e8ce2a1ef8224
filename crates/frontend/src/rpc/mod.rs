//! The RPCs, a file per family. A handler finds the namespace, checks the request and calls the
//! server; what the call does is decided behind that.

pub(crate) mod activity_control;
pub(crate) mod activity_task;
pub(crate) mod lifecycle;
pub(crate) mod maintenance;
pub(crate) mod namespace;
pub(crate) mod nexus_task;
pub(crate) mod operator;
pub(crate) mod query;
pub(crate) mod read;
pub(crate) mod refused;
pub(crate) mod search_attributes;
pub(crate) mod start;
pub(crate) mod system;
pub(crate) mod task_queue;
pub(crate) mod update;
pub(crate) mod visibility;
pub(crate) mod worker;
pub(crate) mod workflow_task;
