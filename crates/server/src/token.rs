//! Tokens that clients hand back: task tokens and page tokens. They are protobuf messages of our
//! own; clients treat them as opaque bytes.

use prost::Message;
use tidemill_engine::Error;
use tidemill_engine::Time;
use tidemill_engine::workflow_task::TaskRef;

use crate::namespaces::Namespace;
use crate::shard::Target;

/// Names a task that was handed to a worker.
#[derive(Clone, PartialEq, Message)]
pub struct TaskToken {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) namespace: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) workflow_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) run: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(crate) scheduled_id: i64,
    /// Workflow tasks only.
    #[prost(int64, tag = "5")]
    pub(crate) started_id: i64,
    #[prost(int32, tag = "6")]
    pub(crate) attempt: i32,
    #[prost(int64, tag = "7")]
    pub(crate) started_time: i64,
    /// Query tasks only: the query's id, 16 bytes.
    #[prost(bytes = "vec", tag = "8")]
    pub(crate) query: Vec<u8>,
    #[prost(enumeration = "TokenKind", tag = "9")]
    pub(crate) kind: i32,
    /// Activities only.
    #[prost(string, tag = "10")]
    pub(crate) activity_id: String,
    /// Activities only: tells attempts apart that have the same number (after a reset).
    #[prost(int64, tag = "11")]
    pub(crate) stamp: i64,
}

/// The part of a [`TaskToken`] that says whose it is.
#[derive(Clone, PartialEq, Message)]
struct Owner {
    #[prost(bytes = "vec", tag = "1")]
    namespace: Vec<u8>,
}

fn invalid() -> Error {
    Error::invalid("Invalid TaskToken.")
}

fn unset() -> Error {
    Error::invalid("Task token not set on request.")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum TokenKind {
    Unspecified = 0,
    Workflow = 1,
    Activity = 2,
    Query = 3,
}

impl TaskToken {
    pub(crate) fn workflow(
        namespace: &Namespace,
        run: &tidemill_engine::RunId,
        task: &TaskRef,
    ) -> Self {
        Self {
            scheduled_id: task.scheduled_id,
            started_id: task.started_id,
            attempt: task.attempt,
            started_time: task.started_time.0,
            ..Self::of(TokenKind::Workflow, namespace, run)
        }
    }

    pub(crate) fn query(namespace: &Namespace, run: &tidemill_engine::RunId, id: u128) -> Self {
        Self {
            query: id.to_be_bytes().to_vec(),
            ..Self::of(TokenKind::Query, namespace, run)
        }
    }

    pub(crate) fn of(kind: TokenKind, namespace: &Namespace, run: &tidemill_engine::RunId) -> Self {
        Self {
            namespace: namespace.id.to_vec(),
            workflow_id: run.workflow_id.to_string(),
            run: tidemill_engine::ids::parse_uuid(&run.run_id)
                .unwrap_or_default()
                .to_vec(),
            kind: kind as i32,
            ..Default::default()
        }
    }

    /// Reads a token. Garbage is `InvalidArgument`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Err(unset());
        }
        let token = <Self as Message>::decode(bytes).map_err(|_| invalid())?;
        let known = token.namespace.len() == 16
            && token.run.len() == 16
            && token.kind() != TokenKind::Unspecified;
        known.then_some(token).ok_or_else(invalid)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The namespace of the task that an encoded token names. The rest is read by whoever works on the
    /// task.
    pub fn namespace_of(bytes: &[u8]) -> Result<[u8; 16], Error> {
        if bytes.is_empty() {
            return Err(unset());
        }
        let owner = Owner::decode(bytes).map_err(|_| invalid())?;
        owner.namespace.as_slice().try_into().map_err(|_| invalid())
    }

    pub(crate) fn run_id(&self) -> [u8; 16] {
        self.run.as_slice().try_into().unwrap_or_default()
    }

    pub(crate) fn query_id(&self) -> u128 {
        self.query
            .as_slice()
            .try_into()
            .map_or(0, u128::from_be_bytes)
    }

    /// Checks the kind of task that the token names.
    pub(crate) fn expect(self, kind: TokenKind) -> Result<Self, Error> {
        if self.kind() == kind {
            Ok(self)
        } else {
            Err(invalid())
        }
    }

    pub(crate) fn target(&self, namespace: &Namespace) -> Target {
        Target {
            namespace: namespace.clone(),
            workflow_id: self.workflow_id.as_str().into(),
            run_id: Some(self.run_id()),
        }
    }

    pub(crate) fn task(&self) -> TaskRef {
        TaskRef {
            scheduled_id: self.scheduled_id,
            started_id: self.started_id,
            attempt: self.attempt,
            started_time: Time(self.started_time),
        }
    }
}

/// Where a reader of history goes on. The protocol lets a token of a workflow task's answer be
/// used in `GetWorkflowExecutionHistory`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HistoryToken {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) run: Vec<u8>,
    /// The next event to read.
    #[prost(int64, tag = "2")]
    pub(crate) next_event_id: i64,
    /// Read no further than this event; 0 for as far as there is.
    #[prost(int64, tag = "3")]
    pub(crate) last_event_id: i64,
    /// A workflow task's events that are not in history follow the last page.
    #[prost(bool, tag = "4")]
    pub(crate) with_tail: bool,
    /// Of `GetWorkflowExecutionHistoryReverse`.
    #[prost(bool, tag = "5")]
    pub(crate) reverse: bool,
}

impl HistoryToken {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let invalid = || Error::invalid("Invalid NextPageToken.");
        let token = Self::decode(bytes).map_err(|_| invalid())?;
        (token.run.len() == 16 && token.next_event_id > 0)
            .then_some(token)
            .ok_or_else(invalid)
    }

    pub(crate) fn run_id(&self) -> [u8; 16] {
        self.run.as_slice().try_into().unwrap_or_default()
    }
}
