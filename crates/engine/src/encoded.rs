//! Histories in the form in which they are stored and sent: encoded `History` messages.
//!
//! An event is encoded once, when it is appended. Such a message is nothing but its events one
//! after another, so that stretches of histories can be cut and joined without decoding them.

use std::ops::Range;

use bytes::Bytes;
use prost::{DecodeError, Message};
use tidemill_proto::api::history::v1::{History, HistoryEvent};

/// The tag before each event: field 1, length-delimited.
const EVENT: u8 = 0x0a;
/// The tag of an event's id: field 1, a varint. What is encoded here begins with it.
const EVENT_ID: u8 = 0x08;

/// Events that were written together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub first_event_id: i64,
    pub last_event_id: i64,
    /// An encoded `temporal.api.history.v1.History`.
    pub bytes: Bytes,
}

impl Batch {
    pub fn decode(&self) -> Result<DecodedBatch, DecodeError> {
        Ok(DecodedBatch {
            first_event_id: self.first_event_id,
            last_event_id: self.last_event_id,
            events: History::decode(self.bytes.clone())?.events,
            bytes: self.bytes.clone(),
        })
    }
}

/// A batch with its events to look at: several times the size.
#[derive(Debug, PartialEq)]
pub struct DecodedBatch {
    pub first_event_id: i64,
    pub last_event_id: i64,
    pub events: Vec<HistoryEvent>,
    pub bytes: Bytes,
}

/// Room for an event's tag and length, and for small events after a large one, so that it is not moved for
/// them.
const ROOM: usize = 256;

/// Adds an event to an encoded history.
pub fn append(history: &mut Vec<u8>, event: &HistoryEvent) {
    let length = event.encoded_len();
    history.reserve(length + ROOM);
    history.push(EVENT);
    prost::encode_length_delimiter(length, history)
        .and_then(|()| event.encode(history))
        .expect("a vector grows as it must");
}

/// Where an event stands in an encoded history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub event_id: i64,
    /// The event with its tag and length: a history of one event.
    pub whole: Range<usize>,
    /// The encoded event.
    pub event: Range<usize>,
}

/// What should be an encoded history is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a history at byte {0}")]
pub struct Malformed(usize);

/// The places of an encoded history's events. What is in an event beside its id is not looked at.
pub fn places(history: &[u8]) -> impl Iterator<Item = Result<Place, Malformed>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < history.len()).then(|| {
            let place = place(history, at).ok_or(Malformed(at));
            // Nothing can be told of what follows a broken event.
            at = place.as_ref().map_or(history.len(), |p| p.whole.end);
            place
        })
    })
}

fn place(history: &[u8], at: usize) -> Option<Place> {
    let rest = history.get(at..)?.strip_prefix(&[EVENT])?;
    let (length, body) = varint(rest)?;
    let begin = history.len() - body.len();
    let end = begin.checked_add(usize::try_from(length).ok()?)?;
    let event = history.get(begin..end)?.strip_prefix(&[EVENT_ID])?;
    Some(Place {
        event_id: i64::try_from(varint(event)?.0).ok()?,
        whole: at..end,
        event: begin..end,
    })
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

/// The batch that events are appended to.
#[derive(Debug, Default)]
pub(crate) struct OpenBatch {
    first_event_id: i64,
    last_event_id: i64,
    /// `temporal.api.enums.v1.EventType` of the last event.
    last_type: i32,
    bytes: Vec<u8>,
}

impl OpenBatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn first_event_id(&self) -> i64 {
        self.first_event_id
    }

    pub(crate) fn last_type(&self) -> i32 {
        self.last_type
    }

    pub(crate) fn append(&mut self, event: &HistoryEvent) {
        if self.bytes.is_empty() {
            self.first_event_id = event.event_id;
        }
        self.last_event_id = event.event_id;
        self.last_type = event.event_type;
        append(&mut self.bytes, event);
    }

    pub(crate) fn close(self) -> Batch {
        Batch {
            first_event_id: self.first_event_id,
            last_event_id: self.last_event_id,
            // It is kept for long: without the room to grow.
            bytes: self.bytes.into_boxed_slice().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> (History, Vec<u8>) {
        let event = |event_id, size| HistoryEvent {
            event_id,
            task_id: 1 << 40,
            principal: Some(tidemill_proto::api::common::v1::Principal {
                name: "p".repeat(size),
                ..Default::default()
            }),
            ..Default::default()
        };
        let events = vec![event(7, 0), event(8, 300), event(i64::MAX, 1), event(10, 0)];
        let mut bytes = Vec::new();
        for event in &events {
            append(&mut bytes, event);
        }
        (History { events }, bytes)
    }

    #[test]
    fn events_one_after_another_are_a_history() {
        let (history, bytes) = history();
        assert_eq!(bytes, history.encode_to_vec());
        let found: Vec<_> = places(&bytes).map(Result::unwrap).collect();
        assert_eq!(found.len(), history.events.len());
        for (place, event) in found.iter().zip(&history.events) {
            assert_eq!(place.event_id, event.event_id);
            let alone = HistoryEvent::decode(&bytes[place.event.clone()]).unwrap();
            assert_eq!(&alone, event);
            let whole = History::decode(&bytes[place.whole.clone()]).unwrap();
            assert_eq!(whole.events, [alone]);
        }
        // Together they are all of it.
        assert_eq!(found[0].whole.start, 0);
        assert!(found.windows(2).all(|w| w[0].whole.end == w[1].whole.start));
        assert_eq!(found[3].whole.end, bytes.len());
    }

    #[test]
    fn what_is_no_history_is_said_to_be_none() {
        let (_, bytes) = history();
        let ends: Vec<_> = places(&bytes).map(|p| p.unwrap().whole.end).collect();
        for cut in 1..bytes.len() {
            let broken = places(&bytes[..cut]).filter(Result::is_err).count();
            assert_eq!(broken, usize::from(!ends.contains(&cut)), "{cut}");
        }
        for broken in [
            &b"\x0a\x00"[..],
            b"\x0a\x02\x10\x01",
            b"\x08\x01",
            b"\x0a\xff",
        ] {
            let all: Vec<_> = places(broken).collect();
            assert_eq!(all, [Err(Malformed(0))], "{broken:?}");
        }
    }
}
