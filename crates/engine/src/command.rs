//! How a workflow's command can fail.

use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;

/// A command that cannot be carried out: it fails its workflow task, or ends the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    pub cause: Cause,
    pub message: String,
    /// A size limit was broken: the run is terminated, since a retry would break it again.
    pub terminate: bool,
}

impl Refused {
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            terminate: false,
        }
    }

    pub fn terminate(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            terminate: true,
        }
    }
}

/// What a command carries beside its attributes, and where it stands.
pub struct CommandContext {
    /// Event id of the workflow task completed event.
    pub completed_id: i64,
    pub metadata: Option<tidemill_proto::api::sdk::v1::UserMetadata>,
    /// Identity of the worker that sent the commands.
    pub identity: String,
    /// Markers of the command's event group, copied to its event.
    pub group_markers: Vec<tidemill_proto::api::sdk::v1::EventGroupMarker>,
}

impl CommandContext {
    /// An event of this command: its attributes with the command's metadata.
    pub fn event(
        &self,
        attributes: impl Into<tidemill_proto::api::history::v1::history_event::Attributes>,
    ) -> tidemill_proto::api::history::v1::HistoryEvent {
        tidemill_proto::api::history::v1::HistoryEvent {
            attributes: Some(attributes.into()),
            user_metadata: self.metadata.clone(),
            event_group_markers: self.group_markers.clone(),
            ..Default::default()
        }
    }
}
