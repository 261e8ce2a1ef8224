//! Updates in a worker's hands: each is rejected, or accepted and completed, at once or with the task that
//! comes then.

use std::collections::BTreeSet;

use prost::Message as _;
use tidemill_proto::api::command::v1::ProtocolMessageCommandAttributes;
use tidemill_proto::api::command::v1::command::Attributes as C;
use tidemill_proto::api::failure::v1::Failure;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes as E;
use tidemill_proto::api::protocol::v1::Message;
use tidemill_proto::api::protocol::v1::message::SequencingId;
use tidemill_proto::api::update::v1::outcome::Value;
use tidemill_proto::api::update::v1::{Acceptance, Meta, Outcome, Rejection, Request, Response};
use tidemill_proto::api::workflowservice::v1::PollWorkflowTaskQueueResponse;
use tidemill_proto::wkt;

use crate::clients::text;
use crate::life::Link;
use crate::oracle;

/// What a completion says about updates.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) messages: Vec<Message>,
    pub(super) commands: Vec<C>,
}

/// `closes`: there is no later task.
pub(super) fn answer(
    link: &Link,
    task: &PollWorkflowTaskQueueResponse,
    events: &[HistoryEvent],
    mark: &str,
    closes: bool,
) -> Answers {
    let mut answers = Answers::default();
    for id in unfinished(events) {
        answers.complete(&id, mark);
    }
    for asked in &task.messages {
        let Some(request) = request(asked) else {
            link.world.find(format!("{asked:?} is no update"));
            continue;
        };
        // What was accepted before a reset is not refused after it.
        let is_new = !events.iter().any(|event| {
            oracle::update::known(event).as_ref() == Some(&asked.protocol_instance_id)
        });
        if is_new && link.world.one_in(8) {
            answers.reject(asked, request);
            continue;
        }
        answers.accept(asked, request);
        if closes || !link.world.one_in(3) {
            answers.complete(&asked.protocol_instance_id, mark);
        }
    }
    answers
}

fn request(message: &Message) -> Option<Request> {
    Request::decode(&*message.body.as_ref()?.value).ok()
}

/// The ids of updates that were accepted and not completed.
fn unfinished(events: &[HistoryEvent]) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    for event in events {
        match &event.attributes {
            Some(E::WorkflowExecutionUpdateAcceptedEventAttributes(a)) => {
                open.insert(a.protocol_instance_id.clone());
            }
            Some(E::WorkflowExecutionUpdateCompletedEventAttributes(a)) => {
                open.remove(&a.meta.clone().unwrap_or_default().update_id);
            }
            _ => {}
        }
    }
    open
}

impl Answers {
    fn say(&mut self, update: &str, kind: &str, value: Vec<u8>) -> String {
        let id = format!("{update}/{kind}");
        self.messages.push(Message {
            id: id.clone(),
            protocol_instance_id: update.to_owned(),
            body: Some(wkt::Any {
                type_url: format!("type.googleapis.com/temporal.api.update.v1.{kind}"),
                value,
            }),
            ..Default::default()
        });
        id
    }

    fn command(&mut self, message_id: String) {
        self.commands.push(C::ProtocolMessageCommandAttributes(
            ProtocolMessageCommandAttributes { message_id },
        ));
    }

    fn accept(&mut self, asked: &Message, request: Request) {
        let acceptance = Acceptance {
            accepted_request_message_id: asked.id.clone(),
            accepted_request_sequencing_event_id: match asked.sequencing_id {
                Some(SequencingId::EventId(id)) => id,
                _ => 0,
            },
            accepted_request: Some(request),
        };
        let update = &asked.protocol_instance_id;
        let id = self.say(update, "Acceptance", acceptance.encode_to_vec());
        self.command(id);
    }

    fn reject(&mut self, asked: &Message, request: Request) {
        let rejection = Rejection {
            rejected_request_message_id: asked.id.clone(),
            rejected_request: Some(request),
            failure: Some(Failure {
                message: "not now".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let update = &asked.protocol_instance_id;
        self.say(update, "Rejection", rejection.encode_to_vec());
    }

    /// The result tells completions of the same update apart.
    fn complete(&mut self, update: &str, mark: &str) {
        let response = Response {
            meta: Some(Meta {
                update_id: update.to_owned(),
                ..Default::default()
            }),
            outcome: Some(Outcome {
                value: text(format!("{update} by {mark}")).map(Value::Success),
            }),
        };
        let id = self.say(update, "Response", response.encode_to_vec());
        self.command(id);
    }
}
