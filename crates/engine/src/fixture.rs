//! Inputs for tests: identifiers, a beginning of time, values of the protocol. Runs to try them on are
//! in [`crate::testing`].

use std::cell::Cell;

use tidemill_proto::api::common::v1::{Payload, Payloads};
use tidemill_proto::api::failure::v1::failure::FailureInfo;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use tidemill_proto::wkt;

use crate::search_attribute::{Attribute, Schema};
use crate::{Ids, Time};

#[derive(Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    /// Counts on from `first`.
    pub(crate) fn from(first: u64) -> Self {
        Self(Cell::new(first))
    }

    fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

impl Ids for Counter {
    fn random(&self) -> [u8; 16] {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&(self.next() * 1_000_003).to_le_bytes());
        bytes
    }
    fn task_seq(&self) -> i64 {
        self.next() as i64
    }
    fn run_no(&self) -> i64 {
        self.next() as i64 + 100
    }
}

/// A namespace without search attributes of its own.
pub(crate) struct NoAttributes;

impl Schema for NoAttributes {
    fn attribute(&self, _: &str) -> Option<Attribute> {
        None
    }
}

pub(crate) const BEGIN: Time = Time(1_700_000_000_000_000_000);

pub(crate) fn seconds(s: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration {
        seconds: s,
        nanos: 0,
    })
}

pub(crate) fn payloads(text: &str) -> Payloads {
    Payloads {
        payloads: vec![Payload {
            data: text.into(),
            ..Default::default()
        }],
    }
}

pub(crate) fn failure(kind: &str) -> Failure {
    Failure {
        message: "failed".into(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                r#type: kind.into(),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}
