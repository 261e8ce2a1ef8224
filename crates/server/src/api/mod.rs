//! The API: one method of [`Server`](crate::Server) for each RPC, in files by family.
//!
//! Requests arrive validated (ids, sizes, spans); what depends on a run's state is decided in the
//! engine. These methods carry requests to the shards and turn what comes back into responses.

mod activity_task;
mod describe;
mod history;
mod lifecycle;
mod maintenance;
mod multi_operation;
mod query;
mod reset;
mod signal;
mod start;
mod task_queue;
mod update;
mod visibility;
mod worker;
mod workflow_task;

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_engine::search_attribute::{Attribute, Schema};
use tidemill_proto::api::common::v1::{Link, WorkflowExecution, link};
use tidemill_proto::api::enums::v1::EventType;
use tokio::time::Instant;

use crate::namespaces::Namespace;
use crate::search_attributes;
use crate::shard::Target;

/// Before what was lost when its run was reloaded is asked again: the store that failed may go on failing, and
/// what is asked may be what makes it fail.
const RELOADED: Duration = Duration::from_millis(100);

/// What is known of a call beside its request.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// The `client-name` header: which SDK or tool calls.
    pub client_name: String,
}

impl Schema for Namespace {
    fn attribute(&self, name: &str) -> Option<Attribute> {
        let schema = self.search_attributes();
        let kind = search_attributes::to_proto(schema.stored_type(name)?);
        Some(Attribute {
            kind,
            settable: schema.is_settable(name),
        })
    }
}

/// The run that a request's execution names.
pub(crate) fn target(
    namespace: &Namespace,
    execution: &Option<WorkflowExecution>,
) -> Result<Target, Error> {
    let execution = execution
        .as_ref()
        .ok_or_else(|| Error::invalid("Execution is not set on request."))?;
    Target::new(namespace, &execution.workflow_id, &execution.run_id)
}

/// A link to an event of a run.
pub(crate) fn event_link(
    namespace: &Namespace,
    run: &tidemill_engine::RunId,
    event_id: i64,
    kind: EventType,
) -> Link {
    link_with(
        namespace,
        run,
        link::workflow_event::Reference::EventRef(link::workflow_event::EventReference {
            event_id,
            event_type: kind as i32,
        }),
    )
}

/// A link to the event that a request caused, wherever it stands.
pub(crate) fn request_link(
    namespace: &Namespace,
    run: &tidemill_engine::RunId,
    request_id: &str,
    kind: EventType,
) -> Link {
    link_with(
        namespace,
        run,
        link::workflow_event::Reference::RequestIdRef(link::workflow_event::RequestIdReference {
            request_id: request_id.to_owned(),
            event_type: kind as i32,
        }),
    )
}

fn link_with(
    namespace: &Namespace,
    run: &tidemill_engine::RunId,
    reference: link::workflow_event::Reference,
) -> Link {
    Link {
        variant: Some(link::Variant::WorkflowEvent(link::WorkflowEvent {
            namespace: namespace.name.clone(),
            workflow_id: run.workflow_id.to_string(),
            run_id: run.run_id.to_string(),
            reference: Some(reference),
        })),
    }
}
