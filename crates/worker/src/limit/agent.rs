//! One limit, as this worker knows it: a task that asks it now and then on behalf of all others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_connect::inference::{Error as CallError, ErrorKind as CallErrorKind};
use tidemill_connect::limiter::Outcome;
use tidemill_pipeline::limit::{self, Amount, Ask, Granted, Ledger, Outcomes, Slot};
use tidemill_stages::Error;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::rpc::{Failed, Updates};

/// Between two tries to reach the limit: from the first to the last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Tries after which a limit that is not found does not exist. It is not found for a moment when it
/// continues as new.
const NOT_FOUND_MAX: u32 = 3;
const NOT_FOUND_WAIT: Duration = Duration::from_millis(200);
/// Between asks when somebody should not wait.
const SOON: Duration = Duration::from_millis(50);
/// What the limit said of its concurrency holds for so long.
const CONCURRENCY_KNOWN: Duration = Duration::from_secs(10);
/// Longest wait to hear what the limit makes of a failure.
const VERDICT: Duration = Duration::from_secs(30);

pub(super) struct Agent {
    name: String,
    /// This process.
    worker: String,
    engine: watch::Receiver<Option<Arc<Updates>>>,
    inner: Mutex<Inner>,
    wake: Notify,
    /// The last ask that was answered.
    answered: watch::Sender<u64>,
    began: Instant,
}

#[derive(Default)]
struct Inner {
    ledger: Ledger,
    /// Requests that wait, in the order in which they came.
    waiting: VecDeque<Waiter>,
    slots: Vec<Held>,
    slots_made: u64,
    outcomes: Outcomes,
    seq: u64,
    last: Option<Last>,
    /// Something has happened that the limit should know soon.
    urgent: bool,
    /// Why nothing can be asked, for people.
    trouble: Option<String>,
}

struct Waiter {
    /// As estimated, and as expected then.
    tokens: u64,
    expected: u64,
    give: oneshot::Sender<Result<u64, CallError>>,
}

struct Held {
    id: u64,
    slot: Slot,
    standing: watch::Sender<Standing>,
}

/// How it stands with a task's slot.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    Waits,
    Runs { until: Instant },
    Lost,
    Refused(Error),
}

/// The last answer.
struct Last {
    asked: Instant,
    answered: Instant,
    granted: Granted,
}

impl Agent {
    pub(super) fn new(
        name: &str,
        worker: &str,
        engine: watch::Receiver<Option<Arc<Updates>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            worker: worker.to_owned(),
            engine,
            inner: Mutex::default(),
            wake: Notify::new(),
            answered: watch::Sender::new(0),
            began: Instant::now(),
        })
    }

    /// Waits for a request of about so many tokens to be let through.
    pub(super) async fn permit(&self, tokens: u64) -> Result<u64, CallError> {
        let given = {
            let mut inner = self.inner.lock();
            let expected = inner.ledger.expected(tokens);
            if inner.waiting.is_empty()
                && let Some(permit) = inner.ledger.take(tokens, expected, self.now_ms())
            {
                return Ok(permit);
            }
            let (give, given) = oneshot::channel();
            inner.waiting.push_back(Waiter {
                tokens,
                expected,
                give,
            });
            given
        };
        self.wake.notify_one();
        given
            .await
            .unwrap_or_else(|_| Err(CallError::new(CallErrorKind::Cancelled, "cancelled")))
    }

    /// See [`Limiter::ended`](tidemill_connect::limiter::Limiter::ended).
    pub(super) async fn ended(&self, permit: u64, outcome: Outcome) -> bool {
        let told = {
            let mut inner = self.inner.lock();
            let tokens = match outcome {
                Outcome::Answered(tokens) => tokens,
                Outcome::RateLimited(_) | Outcome::Unavailable => None,
            };
            inner.ledger.ended(permit, tokens, self.now_ms());
            let outcomes = &mut inner.outcomes;
            match outcome {
                Outcome::Answered(_) => {
                    outcomes.answered += 1;
                    outcomes.failed = 0;
                    // A trial that went well opens the way for all.
                    if inner.closed().is_none() {
                        return false;
                    }
                }
                Outcome::RateLimited(after) => {
                    outcomes.refused += 1;
                    outcomes.failed = 0;
                    let after = after.map(|after| after.as_millis() as u64);
                    outcomes.retry_after_ms = outcomes.retry_after_ms.max(after);
                    inner.ledger.give_back();
                }
                Outcome::Unavailable => outcomes.failed += 1,
            }
            inner.urgent = true;
            inner.seq + 1
        };
        self.wake.notify_one();
        match outcome {
            Outcome::Answered(_) => false,
            Outcome::RateLimited(_) => true,
            Outcome::Unavailable => {
                let mut answered = self.answered.subscribe();
                let verdict = answered.wait_for(|seq| *seq >= told);
                let heard = matches!(timeout(VERDICT, verdict).await, Ok(Ok(_)));
                heard && self.inner.lock().closed().is_some()
            }
        }
    }

    /// Why requests and tasks wait, for people.
    pub(super) fn why(&self) -> String {
        let inner = self.inner.lock();
        let because = inner.trouble.as_deref().or(inner.closed());
        match because {
            Some(because) => format!("waits for limit `{}`: {because}", self.name),
            None => format!("waits for limit `{}`", self.name),
        }
    }

    /// Whether the limit lets any number of tasks run, as far as it said so lately.
    pub(super) fn lets_all_run(&self) -> bool {
        let inner = self.inner.lock();
        inner.last.as_ref().is_some_and(|last| {
            last.granted.concurrent.is_none() && last.asked.elapsed() < CONCURRENCY_KNOWN
        })
    }

    /// Gets in line for a slot.
    pub(super) fn line_up(&self, slot: Slot) -> (u64, watch::Receiver<Standing>) {
        let (standing, watched) = watch::channel(Standing::Waits);
        let mut inner = self.inner.lock();
        inner.slots_made += 1;
        let id = inner.slots_made;
        inner.slots.push(Held { id, slot, standing });
        inner.urgent = true;
        drop(inner);
        self.wake.notify_one();
        (id, watched)
    }

    /// Gives a slot back, or gets out of the line.
    pub(super) fn leave(&self, id: u64) {
        let mut inner = self.inner.lock();
        inner.slots.retain(|held| held.id != id);
        inner.urgent |= inner
            .last
            .as_ref()
            .is_none_or(|last| last.granted.concurrent.is_some());
        drop(inner);
        self.wake.notify_one();
    }

    /// Asks whenever there is a reason to.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let due = self.inner.lock().due();
            match due {
                None => self.wake.notified().await,
                Some(due) if due <= Instant::now() => self.ask().await,
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.wake.notified() => {}
                },
            }
        }
    }

    async fn ask(&self) {
        let asked = Instant::now();
        let asked_ms = self.now_ms();
        let (ask, ids) = self.inner.lock().compose(&self.worker, asked_ms);
        let (workflow, id) = (
            limit::workflow_id(&self.name),
            format!("{}/{}", self.worker, ask.seq),
        );
        // Strings and numbers.
        let argument = serde_json::to_vec(&ask).unwrap_or_default();
        let mut engine = self.engine.clone();
        let (mut not_found, mut wait) = (0, AGAIN.0);
        let outcome = loop {
            let updates = match engine.wait_for(Option::is_some).await {
                Ok(updates) => updates.clone(),
                Err(_) => return,
            };
            let Some(updates) = updates else { return };
            let sent = updates.update(&workflow, limit::ASK_UPDATE, &id, argument.clone());
            match sent.await {
                Ok(json) => break read(&json),
                Err(Failed::Refused(reason)) => break Err(reason),
                Err(Failed::NotFound) => {
                    not_found += 1;
                    if not_found == NOT_FOUND_MAX {
                        break Err(limit::does_not_exist(&self.name));
                    }
                    sleep(NOT_FOUND_WAIT).await;
                }
                Err(Failed::NotNow(reason)) => {
                    warn!(limit = self.name, "the limit does not answer: {reason}");
                    self.inner.lock().trouble = Some(format!("it does not answer: {reason}"));
                    sleep(wait).await;
                    wait = (wait * 2).min(AGAIN.1);
                }
            }
        };
        let mut inner = self.inner.lock();
        inner.trouble = None;
        match outcome {
            Ok(granted) => {
                debug!(
                    limit = self.name,
                    wanted = ask.want.tokens,
                    granted = granted.amount.tokens,
                    requests = granted.amount.requests,
                    wait_ms = granted.wait_ms,
                    "asked"
                );
                inner.take_in(&ask, &ids, granted, asked, asked_ms);
                inner.serve(self.now_ms());
            }
            Err(reason) => inner.fail(&reason),
        }
        drop(inner);
        self.answered.send_replace(ask.seq);
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

fn read(json: &[u8]) -> Result<Granted, String> {
    serde_json::from_slice::<Option<Granted>>(json)
        .map_err(|error| error.to_string())
        .and_then(|granted| granted.ok_or_else(|| "it has no clock".to_owned()))
        .map_err(|error| {
            format!("the limit answers something that this version does not know: {error}")
        })
}

impl Inner {
    fn closed(&self) -> Option<&str> {
        self.last.as_ref()?.granted.closed.as_deref()
    }

    /// When to ask next.
    fn due(&self) -> Option<Instant> {
        let Some(last) = &self.last else {
            let idle = self.waiting.is_empty() && self.slots.is_empty() && !self.urgent;
            return (!idle).then(Instant::now);
        };
        let granted = &last.granted;
        let pace = Duration::from_millis(granted.pace_ms);
        let wait = match granted.wait_ms {
            0 => pace / 4,
            wait => Duration::from_millis(wait),
        };
        let mut due: Option<Instant> = None;
        let mut by = |at: Instant| due = Some(due.map_or(at, |due| due.min(at)));
        if self.urgent {
            by(last.answered + SOON);
        }
        let waits = |held: &Held| matches!(*held.standing.borrow(), Standing::Waits);
        if !self.waiting.is_empty() || self.slots.iter().any(waits) {
            by(last.answered + wait);
        }
        if !self.slots.is_empty() {
            by(last.asked + Duration::from_millis(granted.lease_ms / 3));
        }
        if self.ledger.has_news() || !self.outcomes.is_none() {
            by(last.answered + pace);
        }
        due
    }

    /// The next ask, and which slots are in it.
    fn compose(&mut self, worker: &str, now_ms: u64) -> (Ask, Vec<u64>) {
        self.seq += 1;
        self.urgent = false;
        self.waiting.retain(|waiter| !waiter.give.is_closed());
        let slot = |held: &Held| Slot {
            runs: matches!(*held.standing.borrow(), Standing::Runs { .. }),
            ..held.slot.clone()
        };
        let mut ask = Ask {
            worker: worker.to_owned(),
            seq: self.seq,
            outcomes: std::mem::take(&mut self.outcomes),
            slots: self.slots.iter().map(slot).collect(),
            ..Ask::default()
        };
        let mut wait = Amount::default();
        for waiter in &self.waiting {
            wait += Amount::new(1, waiter.expected);
        }
        let pace_ms = self
            .last
            .as_ref()
            .map_or(1_000, |last| last.granted.pace_ms);
        self.ledger.ask(&mut ask, wait, pace_ms, now_ms);
        if let Some(first) = self.waiting.front() {
            ask.least = first.expected.saturating_sub(self.ledger.unspent().tokens);
        }
        (ask, self.slots.iter().map(|held| held.id).collect())
    }

    fn take_in(&mut self, ask: &Ask, ids: &[u64], granted: Granted, asked: Instant, asked_ms: u64) {
        self.ledger.granted(&granted, asked_ms);
        if let Some(cap) = granted.too_large
            && let Some(first) = self.waiting.pop_front()
        {
            let error = CallError::new(
                CallErrorKind::Misconfigured,
                format!(
                    "a request takes about {} tokens and its limit lets {cap} through in its \
                     window: send less at a time, or allow more",
                    first.expected
                ),
            );
            let _ = first.give.send(Err(error));
        }
        let until = asked + Duration::from_millis(granted.lease_ms);
        for (slot, id) in ask.slots.iter().zip(ids) {
            let Some(held) = self.slots.iter().find(|held| held.id == *id) else {
                continue;
            };
            let standing = if granted.late {
                continue;
            } else if granted.running.contains(&slot.task) {
                Standing::Runs { until }
            } else if granted.too_heavy.contains(&slot.task) {
                Standing::Refused(Error::invalid(format!(
                    "its weight is {} and its limit lets {} run at a time: give it less weight, or \
                     allow more",
                    slot.weight,
                    granted.concurrent.unwrap_or_default()
                )))
            } else if slot.runs {
                Standing::Lost
            } else {
                continue;
            };
            held.standing.send_replace(standing);
        }
        self.last = Some(Last {
            asked,
            answered: Instant::now(),
            granted,
        });
    }

    /// Lets through what can be.
    fn serve(&mut self, now_ms: u64) {
        while let Some(first) = self.waiting.front() {
            if first.give.is_closed() {
                self.waiting.pop_front();
                continue;
            }
            let Some(permit) = self.ledger.take(first.tokens, first.expected, now_ms) else {
                return;
            };
            if let Some(first) = self.waiting.pop_front()
                && first.give.send(Ok(permit)).is_err()
            {
                self.ledger.untake(permit);
            }
        }
    }

    /// The limit cannot be asked at all.
    fn fail(&mut self, reason: &str) {
        warn!("{reason}");
        self.ledger.forget();
        self.last = None;
        for waiter in self.waiting.drain(..) {
            let error = CallError::new(CallErrorKind::Misconfigured, reason);
            let _ = waiter.give.send(Err(error));
        }
        // A task that runs goes on: what it ran under does not hold any more.
        for held in self.slots.drain(..) {
            held.standing.send_if_modified(|standing| {
                let waits = matches!(standing, Standing::Waits);
                if waits {
                    *standing = Standing::Refused(Error::invalid(reason));
                }
                waits
            });
        }
    }
}

#[cfg(test)]
mod tests;
