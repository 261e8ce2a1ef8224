//! Markers: facts that a workflow records for its own replay.

use prost::Message as _;
use tidemill_proto::api::command::v1::RecordMarkerCommandAttributes;
use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use tidemill_proto::api::history::v1::MarkerRecordedEventAttributes;

use crate::command::{CommandContext, Refused};
use crate::tx::Tx;

pub(crate) fn record(
    tx: &mut Tx<'_>,
    a: RecordMarkerCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    let bad = |m: String| Refused::new(Cause::BadRecordMarkerAttributes, m);
    if a.marker_name.is_empty() {
        return Err(bad("MarkerName is not set on RecordMarkerCommand.".into()));
    }
    if a.marker_name.len() > tx.limits().id_length {
        return Err(bad(format!(
            "MarkerName on RecordMarkerCommand exceeds length limit of {} bytes.",
            tx.limits().id_length
        )));
    }
    let size: usize = a
        .details
        .iter()
        .map(|(k, v)| k.len() + v.encoded_len())
        .sum();
    if size > tx.limits().blob_size {
        return Err(Refused::terminate(
            Cause::BadRecordMarkerAttributes,
            format!(
                "RecordMarker details exceed size limit: {size} bytes, at most {} are allowed",
                tx.limits().blob_size
            ),
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

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::EventType as E;
    use tidemill_proto::api::history::v1::history_event::Attributes as A;

    use super::*;
    use crate::fixture::{failure, payloads};
    use crate::testing::{Rig, command};

    #[test]
    fn the_event_says_all() {
        let mut rig = Rig::new();
        let marker = RecordMarkerCommandAttributes {
            marker_name: "m".into(),
            details: [("k".to_owned(), payloads("v"))].into(),
            failure: Some(failure("F")),
            ..Default::default()
        };
        let metadata = tidemill_proto::api::sdk::v1::UserMetadata {
            summary: Some(Default::default()),
            details: None,
        };
        let mut command = command(marker.into());
        command.user_metadata = Some(metadata.clone());
        rig.task(vec![command]);
        let event = rig.last(E::MarkerRecorded);
        assert_eq!(event.user_metadata, Some(metadata));
        let Some(A::MarkerRecordedEventAttributes(a)) = event.attributes else {
            panic!()
        };
        assert_eq!(
            (a.marker_name.as_str(), &a.details["k"], a.failure),
            ("m", &payloads("v"), Some(failure("F")))
        );
        assert_eq!(
            (a.workflow_task_completed_event_id, rig.state().as_str()),
            (4, "none")
        );
    }
}
