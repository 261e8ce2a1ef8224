//! The filter of `ListWorkers` and `CountWorkers` (contract 8.6), from text to a condition on one
//! worker. It is not the list filter of runs, which the store compiles to SQL: other fields, other
//! operators, and nothing here reaches a database.
//!
//! ```text
//! condition = term { (AND | OR) term }          AND binds tighter
//! term      = "(" condition ")"
//!           | field ("=" | "!=" | "<>" | [NOT] STARTS_WITH) text
//!           | time  ("=" | "!=" | "<>" | "<" | "<=" | ">" | ">=") point
//!           | time  [NOT] BETWEEN point AND point
//!           | (field | time) IS [NOT] NULL
//! ```
//!
//! A point is an RFC 3339 time between quotes, or a whole number of nanoseconds since the Unix
//! epoch. Keywords may be in any case, names of fields may not. A text field that the worker left
//! out is the empty text, so it is `NULL` and differs from every value; a time that it left out
//! meets no comparison.

mod tokens;

use tidemill_engine::{Error, Time};
use tidemill_proto::api::enums::v1::WorkerStatus;
use tidemill_proto::api::worker::v1::WorkerHeartbeat;

use self::tokens::{Token, error_at, shorten, tokens};
use super::Worker;

/// A longer query is refused before any work is done on it.
const QUERY_BYTES_MAX: usize = 16 * 1024;
/// Parentheses in parentheses. Bounds the recursion of the parser and of what it makes.
const DEPTH_MAX: usize = 64;

/// Which workers are meant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query(Condition);

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Text(TextField, TextTest, bool),
    Time(TimeField, TimeTest, bool),
}

/// Tests are turned round by the `bool` that stands beside them in [`Condition`].
#[derive(Clone, Debug, PartialEq)]
enum TextTest {
    Equals(String),
    StartsWith(String),
    IsNull,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TimeTest {
    Equals(Time),
    Below(Time),
    Above(Time),
    /// Both ends included.
    Between(Time, Time),
    IsNull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextField {
    InstanceKey,
    Identity,
    HostName,
    TaskQueue,
    DeploymentName,
    BuildId,
    SdkName,
    SdkVersion,
    Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeField {
    Start,
    Heartbeat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Text(TextField),
    Time(TimeField),
}

const FIELDS: &[(&str, Field)] = &[
    ("WorkerInstanceKey", Field::Text(TextField::InstanceKey)),
    ("WorkerIdentity", Field::Text(TextField::Identity)),
    ("HostName", Field::Text(TextField::HostName)),
    ("TaskQueue", Field::Text(TextField::TaskQueue)),
    ("DeploymentName", Field::Text(TextField::DeploymentName)),
    ("BuildId", Field::Text(TextField::BuildId)),
    ("SdkName", Field::Text(TextField::SdkName)),
    ("SdkVersion", Field::Text(TextField::SdkVersion)),
    ("WorkerStatus", Field::Text(TextField::Status)),
    ("StartTime", Field::Time(TimeField::Start)),
    ("HeartbeatTime", Field::Time(TimeField::Heartbeat)),
    // The protocol's own comment calls it so; Temporal's server takes it in lower case too.
    ("Status", Field::Text(TextField::Status)),
    ("status", Field::Text(TextField::Status)),
];

/// Statuses as queries and Temporal's tools write them.
const STATUSES: &[(WorkerStatus, &str)] = &[
    (WorkerStatus::Unspecified, "Unspecified"),
    (WorkerStatus::Running, "Running"),
    (WorkerStatus::ShuttingDown, "ShuttingDown"),
    (WorkerStatus::Shutdown, "Shutdown"),
];

impl Query {
    /// Reads a query; an empty one means all workers. What it does not understand is
    /// `InvalidArgument`, with the place.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > QUERY_BYTES_MAX {
            let size = text.len();
            return Err(Error::InvalidArgument(format!(
                "query of {size} bytes is too long, at most {QUERY_BYTES_MAX} are allowed"
            )));
        }
        let mut parser = Parser {
            text,
            tokens: tokens(text)?,
            at: 0,
            depth: 0,
        };
        if *parser.peek() == Token::End {
            return Ok(Self(Condition::All(Vec::new())));
        }
        let condition = parser.any()?;
        match parser.peek() {
            Token::End => Ok(Self(condition)),
            other => Err(parser.expected("AND, OR or the end", &other.clone())),
        }
    }

    pub(crate) fn matches(&self, worker: &Worker) -> bool {
        self.0.holds(worker)
    }
}

impl Condition {
    fn holds(&self, worker: &Worker) -> bool {
        match self {
            Condition::All(parts) => parts.iter().all(|part| part.holds(worker)),
            Condition::Any(parts) => parts.iter().any(|part| part.holds(worker)),
            Condition::Text(field, test, negated) => {
                let value = field.of(worker);
                let holds = match test {
                    TextTest::Equals(wanted) => value == wanted,
                    TextTest::StartsWith(prefix) => value.starts_with(prefix),
                    TextTest::IsNull => value.is_empty(),
                };
                holds != *negated
            }
            Condition::Time(field, test, negated) => {
                let Some(value) = field.of(&worker.heartbeat) else {
                    return *test == TimeTest::IsNull && !negated;
                };
                let holds = match *test {
                    TimeTest::Equals(wanted) => value == wanted,
                    TimeTest::Below(limit) => value < limit,
                    TimeTest::Above(limit) => value > limit,
                    TimeTest::Between(first, last) => (first..=last).contains(&value),
                    TimeTest::IsNull => false,
                };
                holds != *negated
            }
        }
    }
}

impl TextField {
    fn of(self, worker: &Worker) -> &str {
        let beat = &*worker.heartbeat;
        let version = beat.deployment_version.as_ref();
        match self {
            TextField::InstanceKey => &beat.worker_instance_key,
            TextField::Identity => &beat.worker_identity,
            TextField::HostName => beat.host_info.as_ref().map_or("", |host| &host.host_name),
            TextField::TaskQueue => &beat.task_queue,
            TextField::DeploymentName => version.map_or("", |v| &v.deployment_name),
            TextField::BuildId => version.map_or("", |v| &v.build_id),
            TextField::SdkName => &beat.sdk_name,
            TextField::SdkVersion => &beat.sdk_version,
            TextField::Status => {
                let named = STATUSES.iter().find(|(status, _)| *status == worker.status);
                named.map_or("", |(_, name)| name)
            }
        }
    }
}

impl TimeField {
    fn of(self, beat: &WorkerHeartbeat) -> Option<Time> {
        let time = match self {
            TimeField::Start => &beat.start_time,
            TimeField::Heartbeat => &beat.heartbeat_time,
        };
        time.as_ref().map(Time::from_proto)
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token is the end, and nothing goes past it.
        &self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    /// Takes a keyword if it is the next token.
    fn keyword(&mut self, keyword: &str) -> bool {
        let there = matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(there);
        there
    }

    fn any(&mut self) -> Result<Condition, Error> {
        let mut parts = vec![self.all()?];
        while self.keyword("OR") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Condition::Any))
    }

    fn all(&mut self) -> Result<Condition, Error> {
        let mut parts = vec![self.term()?];
        while self.keyword("AND") {
            parts.push(self.term()?);
        }
        Ok(one_or(parts, Condition::All))
    }

    fn term(&mut self) -> Result<Condition, Error> {
        if *self.peek() == Token::Symbol("(") {
            if self.depth == DEPTH_MAX {
                return Err(self.error(format_args!(
                    "parentheses are nested deeper than {DEPTH_MAX}"
                )));
            }
            self.at += 1;
            self.depth += 1;
            let inside = self.any()?;
            self.depth -= 1;
            return match self.next() {
                Token::Symbol(")") => Ok(inside),
                other => Err(self.expected_before("AND, OR or )", &other)),
            };
        }
        match self.field()? {
            Field::Text(field) => {
                let (test, negated) = self.text_test(field)?;
                Ok(Condition::Text(field, test, negated))
            }
            Field::Time(field) => {
                let (test, negated) = self.time_test()?;
                Ok(Condition::Time(field, test, negated))
            }
        }
    }

    fn field(&mut self) -> Result<Field, Error> {
        let name = match self.next() {
            Token::Word(name) if name.eq_ignore_ascii_case("NOT") => {
                return Err(
                    self.error_before("NOT may stand only before STARTS_WITH, BETWEEN and NULL")
                );
            }
            Token::Word(name) | Token::Name(name) => name,
            other => return Err(self.expected_before("a field", &other)),
        };
        match FIELDS.iter().find(|(known, _)| *known == name) {
            Some((_, field)) => Ok(*field),
            None => {
                let known = FIELDS
                    .iter()
                    .map(|(name, _)| *name)
                    .filter(|name| *name != "status");
                let known = known.collect::<Vec<_>>().join(", ");
                Err(self.error_before(format_args!(
                    "unknown field {}; the fields are {known}",
                    shorten(&name)
                )))
            }
        }
    }

    fn text_test(&mut self, field: TextField) -> Result<(TextTest, bool), Error> {
        if let Some(negated) = self.is_null()? {
            return Ok((TextTest::IsNull, negated));
        }
        if self.keyword("NOT") {
            return match self.keyword("STARTS_WITH") {
                true => Ok((TextTest::StartsWith(self.value(field)?), true)),
                false => Err(self.expected("STARTS_WITH", &self.peek().clone())),
            };
        }
        if self.keyword("STARTS_WITH") {
            return Ok((TextTest::StartsWith(self.value(field)?), false));
        }
        match self.next() {
            Token::Symbol("=") => Ok((TextTest::Equals(self.value(field)?), false)),
            Token::Symbol("!=" | "<>") => Ok((TextTest::Equals(self.value(field)?), true)),
            other => {
                Err(self.expected_before("=, !=, STARTS_WITH or IS, for a text field,", &other))
            }
        }
    }

    fn time_test(&mut self) -> Result<(TimeTest, bool), Error> {
        if let Some(negated) = self.is_null()? {
            return Ok((TimeTest::IsNull, negated));
        }
        let negated = self.keyword("NOT");
        if self.keyword("BETWEEN") {
            let first = self.point()?;
            if !self.keyword("AND") {
                return Err(self.expected("AND", &self.peek().clone()));
            }
            return Ok((TimeTest::Between(first, self.point()?), negated));
        }
        if negated {
            return Err(self.expected("BETWEEN", &self.peek().clone()));
        }
        match self.next() {
            Token::Symbol("=") => Ok((TimeTest::Equals(self.point()?), false)),
            Token::Symbol("!=" | "<>") => Ok((TimeTest::Equals(self.point()?), true)),
            Token::Symbol("<") => Ok((TimeTest::Below(self.point()?), false)),
            Token::Symbol("<=") => Ok((TimeTest::Above(self.point()?), true)),
            Token::Symbol(">") => Ok((TimeTest::Above(self.point()?), false)),
            Token::Symbol(">=") => Ok((TimeTest::Below(self.point()?), true)),
            other => Err(self.expected_before("a comparison, BETWEEN or IS, for a time,", &other)),
        }
    }

    /// `IS NULL` is `Some(false)`, `IS NOT NULL` is `Some(true)`.
    fn is_null(&mut self) -> Result<Option<bool>, Error> {
        if !self.keyword("IS") {
            return Ok(None);
        }
        let negated = self.keyword("NOT");
        match self.keyword("NULL") {
            true => Ok(Some(negated)),
            false => Err(self.expected("NULL", &self.peek().clone())),
        }
    }

    fn value(&mut self, field: TextField) -> Result<String, Error> {
        match self.next() {
            Token::Text(value) if value.is_empty() => {
                Err(self.error_before("the value is empty; use IS NULL"))
            }
            Token::Text(value) if field == TextField::Status => Ok(status_name(value)),
            Token::Text(value) => Ok(value),
            other => Err(self.expected_before("a text between quotes", &other)),
        }
    }

    fn point(&mut self) -> Result<Time, Error> {
        let time = match self.next() {
            Token::Text(text) => Time::parse(&text),
            Token::Number(number) => number.parse::<i128>().ok().map(nearest),
            other => return Err(self.expected_before("a time", &other)),
        };
        time.ok_or_else(|| {
            self.error_before(
                "a time is written like '2026-01-31T12:00:00Z', or as nanoseconds since 1970",
            )
        })
    }

    /// An error at the next token.
    fn error(&self, message: impl std::fmt::Display) -> Error {
        error_at(
            self.text,
            self.tokens[self.at.min(self.tokens.len() - 1)].0,
            message,
        )
    }

    /// An error at the token that was taken last.
    fn error_before(&self, message: impl std::fmt::Display) -> Error {
        error_at(
            self.text,
            self.tokens[self.at.clamp(1, self.tokens.len()) - 1].0,
            message,
        )
    }

    fn expected(&self, what: &str, found: &Token) -> Error {
        self.error(format_args!(
            "expected {what} but found {}",
            found.describe()
        ))
    }

    fn expected_before(&self, what: &str, found: &Token) -> Error {
        self.error_before(format_args!(
            "expected {what} but found {}",
            found.describe()
        ))
    }
}

/// What 64 bits cannot hold becomes the first or last time that they can.
fn nearest(nanos: i128) -> Time {
    let kept = nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    Time(kept as i64)
}

fn one_or(mut parts: Vec<Condition>, join: impl FnOnce(Vec<Condition>) -> Condition) -> Condition {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => join(parts),
    }
}

/// The name that statuses are compared by, from that or the protocol's.
fn status_name(value: String) -> String {
    let named = STATUSES
        .iter()
        .find(|(status, _)| status.as_str_name() == value);
    named.map_or(value, |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests;
