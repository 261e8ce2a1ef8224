//! A limit that all workers share: what a provider allows per key, and how much may run at a time.
//!
//! One workflow keeps a limit; workers ask it by updates. An [`Ask`] says what a worker holds rather
//! than what it did since the last one, so that one which is lost or comes twice does no harm.

mod ledger;

use serde::{Deserialize, Serialize};

use crate::duration;

pub use ledger::Ledger;

/// The workflow type of limits, served on the interpreters' [`TASK_QUEUE`](crate::run::TASK_QUEUE).
pub const WORKFLOW: &str = "tidemill.limit";
/// Update: [`Config`] → null. Sent with a start: it makes the limit if there is none.
pub const SET_UPDATE: &str = "set";
/// Update: [`Ask`] → [`Granted`].
pub const ASK_UPDATE: &str = "ask";
/// Update: null → null. The limit ends.
pub const REMOVE_UPDATE: &str = "remove";
/// Query: no argument → [`State`].
pub const STATE_QUERY: &str = "state";

/// What the workflow ids of limits begin with.
const ID_PREFIX: &str = "tidemill-limit/";
/// Bytes of a name at most: it is part of a workflow id.
const NAME_BYTES: usize = 100;

/// How long a worker may send requests on what it was granted, from when it asked.
pub const VALID_MS: u64 = 10_000;
/// The longest that a request is on the way: after so long it has arrived at the provider.
pub const TRANSIT_MS: u64 = 2_000;

/// The workflow that keeps a limit.
pub fn workflow_id(name: &str) -> String {
    format!("{ID_PREFIX}{name}")
}

/// The limit that a workflow keeps.
pub fn name_of(workflow_id: &str) -> Option<&str> {
    workflow_id.strip_prefix(ID_PREFIX)
}

/// # Errors
/// What is wrong with the name of a limit, and what would be right.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(plain) {
        return Err(format!(
            "`{name}` is no name of a limit: use 1 to {NAME_BYTES} letters, digits and -_./:"
        ));
    }
    Ok(())
}

/// What is said when a limit is named that was never set.
pub fn does_not_exist(name: &str) -> String {
    format!(
        "limit `{name}` does not exist: make it with `tidemill limit set {name} \
         --requests-per-minute N`, or see `tidemill limit set --help`"
    )
}

/// What a limit allows. What is absent is not limited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Over how long the provider counts: in any span of this length no more than its share of a
    /// minute's requests and tokens arrives there.
    #[serde(default = "minute")]
    pub window_ms: u64,
    /// The sum of the weights of tasks that run at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// How long a task keeps its slot without a word from its worker.
    #[serde(default = "minute")]
    pub lease_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
}

fn minute() -> u64 {
    60_000
}

impl Default for Config {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            tokens_per_minute: None,
            window_ms: minute(),
            concurrent: None,
            lease_ms: minute(),
            breaker: None,
        }
    }
}

/// When requests are held back because the provider does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Requests in a row that failed: unreachable, timed out, or answered by 5xx.
    pub failures: u32,
    /// How long nothing is sent then, before one request tries whether it passed.
    pub open_ms: u64,
}

impl Config {
    /// Requests and tokens of one window.
    pub fn cap(&self) -> (Option<u64>, Option<u64>) {
        let share = |per_minute: u64| {
            let share = u128::from(per_minute) * u128::from(self.window_ms) / 60_000;
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        (
            self.requests_per_minute.map(share),
            self.tokens_per_minute.map(share),
        )
    }

    /// # Errors
    /// What cannot be, and what to do.
    pub fn check(&self) -> Result<(), String> {
        let span = |ms| duration::show_ms(ms);
        if self.requests_per_minute.is_none()
            && self.tokens_per_minute.is_none()
            && self.concurrent.is_none()
            && self.breaker.is_none()
        {
            return Err(
                "it limits nothing: give requests or tokens per minute, how much may run at a \
                 time, or a breaker"
                    .to_owned(),
            );
        }
        if !(1_000..=24 * 3_600_000).contains(&self.window_ms) {
            return Err(format!(
                "its window is {}, and can be from 1s to 24h",
                span(self.window_ms)
            ));
        }
        let (requests, tokens) = self.cap();
        for (cap, what) in [(requests, "request"), (tokens, "token")] {
            if cap == Some(0) {
                return Err(format!(
                    "not one {what} may be sent in a window of {}: allow more, or count over a \
                     longer window",
                    span(self.window_ms)
                ));
            }
        }
        if self.concurrent == Some(0) {
            return Err("nothing may run at a time: allow 1 at least".to_owned());
        }
        if !(1_000..=24 * 3_600_000).contains(&self.lease_ms) {
            return Err(format!(
                "its lease is {}, and can be from 1s to 24h",
                span(self.lease_ms)
            ));
        }
        match self.breaker {
            Some(Breaker { failures: 0, .. }) => {
                Err("its breaker opens after 0 failures: give 1 at least".to_owned())
            }
            Some(Breaker { open_ms, .. }) if !(100..=3_600_000).contains(&open_ms) => Err(format!(
                "its breaker is open for {}, and can be from 100ms to 1h",
                span(open_ms)
            )),
            _ => Ok(()),
        }
    }
}

/// Requests, and tokens in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tokens: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Amount {
    pub fn new(requests: u64, tokens: u64) -> Self {
        Self { requests, tokens }
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// What a worker tells a limit and wants of it. One is under way at a time for each worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// The worker: one process, not the next one of the same name.
    pub worker: String,
    /// Counts up; an ask that arrives after a later one changes nothing.
    pub seq: u64,
    /// Granted before, and either not spent yet or on the way to the provider.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub held: Amount,
    /// What has arrived at the provider since the last ask. What was granted and is neither here nor
    /// in `held` is given back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charged: Vec<Charge>,
    /// What turned out to be more or fewer tokens than were charged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrections: Vec<Correction>,
    /// For requests that wait, and those that are expected soon.
    #[serde(default, skip_serializing_if = "Amount::is_zero")]
    pub want: Amount,
    /// Tokens without which the first request cannot be sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub least: u64,
    #[serde(default, skip_serializing_if = "Outcomes::is_none")]
    pub outcomes: Outcomes,
    /// All tasks that run under the limit or wait to, in the order in which they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Slot>,
}

/// What arrived at the provider so long before the ask, at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    pub ago_ms: u64,
    #[serde(flatten)]
    pub amount: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The limit's time of the charge: that of its ask, less [`Charge::ago_ms`].
    pub at_ms: i64,
    /// Added to the charge.
    pub tokens: i64,
}

/// How requests went since the last ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Answered, whatever the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub answered: u64,
    /// Not answered, or by 5xx, since the last that was answered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Refused because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// For how long from now the provider wants nothing, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Outcomes {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A task that runs under a limit, or waits to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub task: String,
    /// A later attempt takes the slot of an earlier one.
    pub attempt: u32,
    pub weight: u32,
    /// The worker was told that the task may run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub runs: bool,
}

/// What a worker gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// The limit's time, in milliseconds since 1970.
    pub now_ms: i64,
    /// A later ask had arrived before: nothing was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// The limit did not hear of the worker for too long and counted what it held as sent: it holds
    /// nothing but what it gets now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
    /// To be sent within [`VALID_MS`] from when it was asked for.
    pub amount: Amount,
    /// When to ask again for what was not granted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wait_ms: u64,
    /// The usual time between asks.
    pub pace_ms: u64,
    /// Why nothing may be sent at the moment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Tokens of a window, when the first request needs more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_large: Option<u64>,
    /// What may run at a time; without it tasks need no slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    pub lease_ms: u64,
    /// Tasks of the ask that may run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<String>,
    /// Tasks whose weight is above `concurrent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub too_heavy: Vec<String>,
    /// Somebody waits for a slot: free one at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contended: bool,
}

/// How a limit stands, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub config: Config,
    /// When the limit was last asked; everything here is as of then. Milliseconds since 1970.
    pub asked_ms: i64,
    /// What arrived at the provider within the window.
    pub used: Amount,
    /// What workers may still send, or have under way.
    pub held: Amount,
    pub breaker: BreakerState,
    /// Until then the provider wants nothing; 0 when it wants.
    pub paused_until_ms: i64,
    /// Workers that asked lately.
    pub workers: u64,
    pub running: Vec<SlotState>,
    pub waiting: Vec<SlotState>,
    pub totals: Totals,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum BreakerState {
    /// Requests pass.
    #[default]
    Closed,
    /// Nothing is sent.
    Open { until_ms: i64 },
    /// One request is sent to see whether it passed.
    HalfOpen,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    #[serde(flatten)]
    pub slot: Slot,
    pub worker: String,
    /// When the slot is taken back unless the worker says more.
    pub until_ms: i64,
}

/// Since the limit was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub asks: u64,
    /// What arrived at the provider.
    pub sent: Amount,
    pub answered: u64,
    pub failed: u64,
    /// Answers that there were too many requests.
    pub refused: u64,
    /// How often the breaker opened.
    pub opened: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["openai", "a/b-c_d.e:f", "7"] {
            check_name(good).unwrap();
            assert_eq!(name_of(&workflow_id(good)), Some(good));
        }
        for bad in ["", "a b", "ä", "x\n", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(name_of("run-1"), None);
    }

    #[test]
    fn what_no_limit_can_be_is_told() {
        let base = Config {
            requests_per_minute: Some(600),
            ..Config::default()
        };
        base.check().unwrap();
        let refused = |change: fn(&mut Config), part: &str| {
            let mut config = base.clone();
            change(&mut config);
            let error = config.check().unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refused(|c| c.requests_per_minute = None, "limits nothing");
        refused(|c| c.requests_per_minute = Some(0), "not one request");
        refused(
            |c| {
                c.tokens_per_minute = Some(50);
                c.window_ms = 1_000;
            },
            "not one token",
        );
        refused(|c| c.window_ms = 0, "from 1s to 24h");
        refused(|c| c.concurrent = Some(0), "allow 1 at least");
        refused(|c| c.lease_ms = 10, "its lease is 10ms");
        refused(
            |c| {
                c.breaker = Some(Breaker {
                    failures: 0,
                    open_ms: 1_000,
                })
            },
            "0 failures",
        );
        refused(
            |c| {
                c.breaker = Some(Breaker {
                    failures: 1,
                    open_ms: 0,
                })
            },
            "from 100ms to 1h",
        );
    }

    #[test]
    fn a_window_has_its_share_of_a_minute() {
        let config = Config {
            requests_per_minute: Some(90),
            tokens_per_minute: Some(u64::MAX),
            window_ms: 10_000,
            ..Config::default()
        };
        assert_eq!(config.cap(), (Some(15), Some(u64::MAX / 6)));
    }
}
