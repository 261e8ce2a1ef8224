//! Markers: facts that a workflow records for its own replay.

use prost::Message as _;
use tidemill_proto::api::command::v1::RecordMarkerCommandAttributes;
use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use tidemill_proto::api::history::v1::MarkerRecordedEventAttributes;

use crate::command::{CommandContext, Refused};
use crate::tx::Tx;

pub(crate) fn record(tx: &mut Tx<'_>, a: RecordMarkerCommandAttributes, command: &CommandContext) -> Result<(), Refused> {
    let bad = |m: String| Refused::new(Cause::BadRecordMarkerAttributes, m);
    if a.marker_name.is_empty() {
        return Err(bad("MarkerName is not set on RecordMarkerCommand.".into()));
    }
    if a.marker_name.len() > tx.limits().id_length {
        return Err(bad(format!("MarkerName on RecordMarkerCommand exceeds length limit of {} bytes.", tx.limits().id_length)));
    }
    let size: usize = a.details.iter().map(|(k, v)| k.len() + v.encoded_len()).sum();
    if size > tx.limits().blob_size {
        return Err(Refused::terminate(
            Cause::BadRecordMarkerAttributes,
            format!("RecordMarker details exceed size limit: {size} bytes, at most {} are allowed", tx.limits().blob_size),
        ));
    }
    tx.push_event(command.event(MarkerRecordedEventAttributes {
        marker_name: a.marker_name,
        details: a.details,
        workflow_task_completed_event_id: command.completed_id,
        header: a.header,
        failure: a.failure,
    }));
    Ok(())
}
