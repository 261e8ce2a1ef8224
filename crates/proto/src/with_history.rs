//! Answers that carry a history which is encoded already.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint, key_len};
use prost::encoding::{encoded_len_varint, message};
use prost::{DecodeError, Message};

use crate::api::history::v1::History;
use crate::api::workflowservice::v1 as api;

/// An answer of which the field `TAG`, its history, is given in bytes: it goes to the wire as it came
/// from the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WithHistory<M, const TAG: u32> {
    /// Everything else; its history is not set.
    pub answer: M,
    /// Encoded `History` messages, which together are the history.
    pub history: Option<Vec<Bytes>>,
}

pub type PollWorkflowTaskQueueResponse = WithHistory<api::PollWorkflowTaskQueueResponse, 8>;
pub type GetWorkflowExecutionHistoryResponse =
    WithHistory<api::GetWorkflowExecutionHistoryResponse, 1>;

impl<M: Message + Default, const TAG: u32> WithHistory<M, TAG> {
    pub fn new(answer: M, history: Vec<Bytes>) -> Self {
        Self {
            answer,
            history: Some(history),
        }
    }

    /// The whole answer as its message.
    pub fn decoded(self) -> Result<M, DecodeError> {
        let Some(history) = &self.history else {
            return Ok(self.answer);
        };
        let mut field = Vec::new();
        encode_history(TAG, history, &mut field);
        let mut answer = self.answer;
        answer.merge(&*field)?;
        Ok(answer)
    }
}

/// The parts of a message that are a message each, which are the message when put together.
fn encode_history(tag: u32, parts: &[Bytes], buf: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, buf);
    encode_varint(length(parts), buf);
    for part in parts {
        buf.put_slice(part);
    }
}

fn length(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

impl<M: Message + Default, const TAG: u32> Message for WithHistory<M, TAG> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.answer.encode_raw(buf);
        if let Some(parts) = &self.history {
            encode_history(TAG, parts, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != TAG {
            return self.answer.merge_field(tag, wire_type, buf, ctx);
        }
        let mut history = History::default();
        message::merge(wire_type, &mut history, buf, ctx)?;
        let parts = self.history.get_or_insert_default();
        parts.push(history.encode_to_vec().into());
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        let history = self.history.as_ref().map_or(0, |parts| {
            let length = length(parts);
            key_len(TAG) + encoded_len_varint(length) + length as usize
        });
        self.answer.encoded_len() + history
    }

    fn clear(&mut self) {
        self.answer.clear();
        self.history = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::history::v1::HistoryEvent;

    fn event(event_id: i64) -> HistoryEvent {
        HistoryEvent {
            event_id,
            task_id: event_id << 20,
            ..Default::default()
        }
    }

    #[test]
    fn a_history_in_parts_is_sent_as_one_field() {
        let parts: [&[i64]; 4] = [&[], &[1, 2], &[3], &[200, 201]];
        for count in 0..=parts.len() {
            let ids = parts[..count].concat();
            let events: Vec<_> = ids.into_iter().map(event).collect();
            let whole = api::PollWorkflowTaskQueueResponse {
                task_token: b"token".to_vec(),
                attempt: 3,
                next_page_token: b"next".to_vec(),
                ..Default::default()
            };
            let history = parts[..count].iter().map(|ids| {
                let events = ids.iter().copied().map(event).collect();
                History { events }.encode_to_vec().into()
            });
            let sent = PollWorkflowTaskQueueResponse::new(whole.clone(), history.collect());
            let bytes = sent.encode_to_vec();
            assert_eq!(bytes.len(), sent.encoded_len());
            let whole = api::PollWorkflowTaskQueueResponse {
                history: Some(History { events }),
                ..whole
            };
            // As long as the message itself: the field is there once.
            assert_eq!(bytes.len(), whole.encoded_len());
            let read = api::PollWorkflowTaskQueueResponse::decode(&*bytes).unwrap();
            assert_eq!(read, whole);
            let again = PollWorkflowTaskQueueResponse::decode(&*bytes).unwrap();
            assert_eq!(again.decoded().unwrap(), whole);
            assert_eq!(sent.decoded().unwrap(), whole);
        }
    }

    #[test]
    fn without_a_history_there_is_no_field() {
        let none = GetWorkflowExecutionHistoryResponse::default();
        assert_eq!((none.encoded_len(), none.encode_to_vec()), (0, Vec::new()));
        assert_eq!(none.decoded().unwrap().history, None);
    }
}
