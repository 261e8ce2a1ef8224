//! Messages as JSON, in protobuf's canonical mapping.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value};

use crate::exit::Failure;
use crate::output;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(tidemill_proto::FILE_DESCRIPTOR_SET)
        .expect("the descriptors were made by the build")
});

/// A message as JSON, payloads as they are: what SDKs' replayers read.
pub(super) fn exact<M: Message + Name>(message: &M) -> Result<Value, Failure> {
    serde_json::to_value(&dynamic(&M::full_name(), message)?).map_err(Failure::general)
}

/// A message of [`tidemill_proto::maintenance`], by its name, as JSON for scripts: fields are named as in
/// the `.proto` file, all are there, and numbers are numbers.
pub(crate) fn plain<M: Message>(name: &str, message: &M) -> Result<Value, Failure> {
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    dynamic(&format!("tidemill.operator.v1.{name}"), message)?
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(Failure::general)
}

fn dynamic<M: Message>(name: &str, message: &M) -> Result<DynamicMessage, Failure> {
    let descriptor = POOL
        .get_message_by_name(name)
        .ok_or_else(|| Failure::general(format!("no descriptor of {name}")))?;
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(Failure::general)
}

/// A message as JSON for reading: payloads that hold JSON are shown as the value they hold.
pub(super) fn readable<M: Message + Name>(message: &M) -> Result<Value, Failure> {
    exact(message).map(shortened)
}

/// Prints JSON on several lines.
pub(crate) fn print(value: &Value) {
    output::write(&format!("{value:#}\n"));
}

fn shortened(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        Value::Object(fields) => match payload(&fields) {
            Some(value) => value,
            None => payloads(fields),
        },
        other => other,
    }
}

/// A list of payloads is shown as a list of values.
fn payloads(mut fields: Map<String, Value>) -> Value {
    let only_payloads = fields.len() == 1
        && fields.get("payloads").is_some_and(|items| {
            items
                .as_array()
                .is_some_and(|items| items.iter().all(is_payload))
        });
    match only_payloads.then(|| fields.remove("payloads")).flatten() {
        Some(items) => shortened(items),
        None => Value::Object(fields.into_iter().map(|(k, v)| (k, shortened(v))).collect()),
    }
}

fn is_payload(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| {
        fields
            .keys()
            .all(|key| matches!(key.as_str(), "metadata" | "data" | "externalPayloads"))
    })
}

/// The value in a payload that holds JSON or nothing.
fn payload(fields: &Map<String, Value>) -> Option<Value> {
    if fields
        .keys()
        .any(|key| !matches!(key.as_str(), "metadata" | "data"))
    {
        return None;
    }
    let encoding = BASE64_STANDARD.decode(fields.get("metadata")?.get("encoding")?.as_str()?);
    match encoding.ok()?.as_slice() {
        b"binary/null" => Some(Value::Null),
        b"json/plain" | b"json/protobuf" => {
            let data = BASE64_STANDARD.decode(fields.get("data")?.as_str()?).ok()?;
            serde_json::from_slice(&data).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::payload::{from_json, text};
    use tidemill_proto::api::common::v1::{Payload, Payloads};
    use tidemill_proto::api::history::v1::{
        History, HistoryEvent, WorkflowExecutionSignaledEventAttributes, history_event,
    };

    fn history(input: Option<Payloads>) -> History {
        let signaled = WorkflowExecutionSignaledEventAttributes {
            signal_name: "go".into(),
            input,
            ..Default::default()
        };
        let event = HistoryEvent {
            event_id: 3,
            event_type: 26,
            attributes: Some(
                history_event::Attributes::WorkflowExecutionSignaledEventAttributes(signaled),
            ),
            ..Default::default()
        };
        History {
            events: vec![event],
        }
    }

    #[test]
    fn histories_in_both_forms() {
        let history = history(Some(
            from_json(&["{\"a\":1}".into(), "null".into()]).unwrap(),
        ));
        let exact = exact(&history).unwrap();
        let event = &exact["events"][0];
        assert_eq!(event["eventType"], "EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED");
        assert_eq!(event["eventId"], "3");
        let input = &event["workflowExecutionSignaledEventAttributes"]["input"]["payloads"][0];
        assert_eq!(input["metadata"]["encoding"], "anNvbi9wbGFpbg==");
        let readable = readable(&history).unwrap();
        let input = &readable["events"][0]["workflowExecutionSignaledEventAttributes"]["input"];
        assert_eq!(input, &serde_json::json!([{"a": 1}, null]));
    }

    #[test]
    fn what_is_not_json_stays_a_payload() {
        let binary = Payload {
            data: vec![0xff],
            ..Default::default()
        };
        let payloads = Payloads {
            payloads: vec![binary],
        };
        let readable = readable(&payloads).unwrap();
        assert_eq!(readable, serde_json::json!([{"data": "/w=="}]));
        assert_eq!(text(&payloads.payloads[0]), "<1 bytes>");
    }
}
