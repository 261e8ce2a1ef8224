//! What a limit knows, and how it answers: a function of that, the time, and what it is asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_pipeline::duration::show_ms;
use tidemill_pipeline::limit::{
    Amount, Ask, BreakerState, Config, Granted, State, TRANSIT_MS, Totals, VALID_MS,
};

use super::breaker::{Breaker, Gate};
use super::pace::Pace;
use super::slots::Slots;
use super::window::Window;

/// Into how many asks of a worker a window is divided.
const ASKS: u64 = 60;
/// After so long without a word, what a worker holds counts as sent.
const HELD_MS: u64 = VALID_MS + TRANSIT_MS + 1_000;
/// A worker that holds nothing is forgotten after so long.
const IDLE_MS: u64 = 10 * 60_000;
/// The longest wait between asks of a worker whose requests wait.
const WAIT_MS_MAX: u64 = 5_000;
/// Part of the tokens that is kept back: what a request takes is only known when it was answered.
const RESERVE: u64 = 100;

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) config: Config,
    window: Window,
    requests: Pace,
    tokens: Pace,
    workers: BTreeMap<String, Worker>,
    slots: Slots,
    breaker: Breaker,
    paused_until_ms: i64,
    asked_ms: i64,
    totals: Totals,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Worker {
    seq: u64,
    heard_ms: i64,
    held: Amount,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waits: Option<Waits>,
}

/// A worker whose first request was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Waits {
    since_ms: i64,
    /// By then it should have asked again.
    until_ms: i64,
    least: u64,
}

/// How much may be granted; `None` for any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    requests: Option<u64>,
    tokens: Option<u64>,
}

impl Limit {
    pub(super) fn set(&mut self, config: Config) {
        self.window.resize(self.config.window_ms, config.window_ms);
        if config.breaker.is_none() {
            self.breaker = Breaker::default();
        }
        if config.concurrent.is_none() {
            self.slots = Slots::default();
        }
        self.config = config;
    }

    pub(super) fn ask(&mut self, ask: &Ask, now_ms: i64) -> Granted {
        // Workflow time does not go back; should a clock do, nothing is forgotten for that.
        let now_ms = now_ms.max(self.asked_ms);
        self.asked_ms = now_ms;
        self.totals.asks += 1;
        self.expire(now_ms);
        let mut granted = Granted {
            now_ms,
            late: false,
            forgotten: false,
            amount: Amount::default(),
            wait_ms: 0,
            pace_ms: (self.config.window_ms / ASKS).max(50),
            closed: None,
            too_large: None,
            concurrent: self.config.concurrent,
            lease_ms: self.config.lease_ms,
            running: Vec::new(),
            too_heavy: Vec::new(),
            contended: false,
        };
        let known = self.workers.get(&ask.worker);
        if known.is_some_and(|worker| ask.seq <= worker.seq) {
            granted.late = true;
            return granted;
        }
        granted.forgotten = known.is_none() && !ask.held.is_zero();
        self.settle(ask, now_ms);
        self.note(ask, &granted, now_ms);
        self.rates(ask, &mut granted, now_ms);
        self.slots(ask, &mut granted, now_ms);
        granted
    }

    /// How it stood when it was last asked.
    pub(super) fn state(&self, name: &str) -> State {
        State {
            name: name.to_owned(),
            config: self.config.clone(),
            asked_ms: self.asked_ms,
            used: self.window.used(),
            held: self.held(),
            breaker: self.breaker.state(),
            paused_until_ms: if self.paused_until_ms > self.asked_ms {
                self.paused_until_ms
            } else {
                0
            },
            workers: self.workers.len() as u64,
            running: self.slots.running().to_vec(),
            waiting: self.slots.waiting().cloned().collect(),
            totals: self.totals,
        }
    }

    /// Takes back what is out of time.
    fn expire(&mut self, now_ms: i64) {
        let window_ms = self.config.window_ms;
        let (window, totals) = (&mut self.window, &mut self.totals);
        self.workers.retain(|_, worker| {
            let silent = u64::try_from(now_ms - worker.heard_ms).unwrap_or(0);
            if worker.held.is_zero() {
                return silent < IDLE_MS;
            }
            if silent < HELD_MS {
                return true;
            }
            // It may have sent all of it in its last moment.
            let at = worker.heard_ms.saturating_add_unsigned(HELD_MS);
            window.add(at, worker.held, window_ms);
            totals.sent += worker.held;
            false
        });
        self.window.forget(now_ms, window_ms);
        self.slots.expire(now_ms);
    }

    /// Books what a worker says has become of its grants.
    fn settle(&mut self, ask: &Ask, now_ms: i64) {
        let window_ms = self.config.window_ms;
        let known = self.workers.contains_key(&ask.worker);
        let worker = self.workers.entry(ask.worker.clone()).or_default();
        worker.seq = ask.seq;
        worker.heard_ms = now_ms;
        if known {
            let mut gone = worker.held.saturating_sub(ask.held);
            for charge in &ask.charged {
                let at = now_ms.saturating_sub_unsigned(charge.ago_ms);
                self.window.add(at, charge.amount, window_ms);
                self.totals.sent += charge.amount;
                gone = gone.saturating_sub(charge.amount);
            }
            worker.held = ask.held;
            let (requests, tokens) = self.config.cap();
            self.requests
                .give_back(gone.requests, requests.unwrap_or(0));
            self.tokens.give_back(gone.tokens, tokens.unwrap_or(0));
        }
        for correction in &ask.corrections {
            let tokens = correction.tokens.unsigned_abs();
            if correction.tokens < 0 {
                self.window.credit(correction.at_ms, tokens, window_ms);
                self.totals.sent.tokens = self.totals.sent.tokens.saturating_sub(tokens);
            } else {
                // The provider may count it only now.
                let more = Amount::new(0, tokens);
                self.window.add(now_ms, more, window_ms);
                self.totals.sent += more;
            }
        }
    }

    fn note(&mut self, ask: &Ask, granted: &Granted, now_ms: i64) {
        let outcomes = &ask.outcomes;
        self.totals.answered += outcomes.answered;
        self.totals.failed += outcomes.failed;
        self.totals.refused += outcomes.refused;
        if let Some(config) = &self.config.breaker
            && self.breaker.note(&ask.worker, outcomes, config, now_ms)
        {
            self.totals.opened += 1;
        }
        let unsaid = (outcomes.refused > 0).then_some(granted.pace_ms);
        if let Some(after) = outcomes.retry_after_ms.or(unsaid) {
            let until = now_ms.saturating_add_unsigned(after);
            self.paused_until_ms = self.paused_until_ms.max(until);
        }
    }

    fn rates(&mut self, ask: &Ask, granted: &mut Granted, now_ms: i64) {
        let want = Amount::new(ask.want.requests, ask.want.tokens.max(ask.least));
        let waited = self.workers.get(&ask.worker).and_then(|w| w.waits);
        granted.closed = self.closed(now_ms);
        if want.requests == 0 {
            self.wait(&ask.worker, None);
            return;
        }
        let (_, token_cap) = self.caps();
        if let Some(cap) = token_cap.filter(|cap| ask.least > *cap) {
            granted.too_large = Some(cap);
            self.wait(&ask.worker, None);
            return;
        }
        let mut want = want;
        let (mut tries, mut wait_ms) = (false, None);
        if now_ms < self.paused_until_ms {
            wait_ms = Some((self.paused_until_ms - now_ms) as u64);
        } else {
            match self.breaker.gate(&ask.worker, now_ms) {
                Gate::Pass => {}
                Gate::Try => {
                    want = Amount::new(1, ask.least);
                    tries = true;
                }
                Gate::Wait(wait) => wait_ms = Some(wait),
            }
        }
        let since_ms = waited.map_or(now_ms, |waits| waits.since_ms);
        let ahead = self.ahead(&ask.worker, since_ms, now_ms);
        if wait_ms.is_none() {
            let room = self.room(ahead, ask.least, now_ms);
            granted.amount = share(want, ask.least, room);
            self.requests.take(granted.amount.requests);
            self.tokens.take(granted.amount.tokens);
            if let Some(worker) = self.workers.get_mut(&ask.worker) {
                worker.held += granted.amount;
            }
            if granted.amount.is_zero() && tries {
                self.breaker.untried();
            }
        }
        let nothing = granted.amount.is_zero();
        if nothing || granted.amount != want {
            let wait = wait_ms.unwrap_or_else(|| {
                if nothing {
                    self.wait_ms(ahead, ask.least, now_ms)
                } else {
                    0
                }
            });
            granted.wait_ms = wait.max(granted.pace_ms).min(WAIT_MS_MAX);
        }
        let waits = nothing.then(|| Waits {
            since_ms,
            until_ms: now_ms.saturating_add_unsigned(granted.wait_ms + TRANSIT_MS),
            least: ask.least,
        });
        self.wait(&ask.worker, waits);
    }

    /// Why nothing, or one request only, may be sent now, for people.
    fn closed(&self, now_ms: i64) -> Option<String> {
        if now_ms < self.paused_until_ms {
            let wait = show_ms((self.paused_until_ms - now_ms) as u64);
            return Some(format!("the provider wants nothing for {wait}"));
        }
        match self.breaker.state() {
            BreakerState::Closed => None,
            BreakerState::Open { until_ms } if now_ms < until_ms => {
                let wait = show_ms((until_ms - now_ms) as u64);
                Some(format!(
                    "the provider does not answer, and is left alone for {wait}"
                ))
            }
            BreakerState::Open { .. } | BreakerState::HalfOpen => {
                Some("one request tries whether the provider answers again".to_owned())
            }
        }
    }

    fn slots(&mut self, ask: &Ask, granted: &mut Granted, now_ms: i64) {
        let Some(concurrent) = self.config.concurrent else {
            granted.running = ask.slots.iter().map(|slot| slot.task.clone()).collect();
            return;
        };
        if ask.slots.is_empty() && self.slots.is_empty() {
            return;
        }
        let lease_ms = self.config.lease_ms;
        let told = self
            .slots
            .ask(&ask.worker, &ask.slots, concurrent, lease_ms, now_ms);
        granted.running = told.running;
        granted.too_heavy = told.too_heavy;
        let waiting = self.slots.waiting_workers() as u64;
        granted.contended = waiting > 0;
        if told.waits {
            let wait = (waiting * 50).clamp(200, 1_000);
            granted.wait_ms = match granted.wait_ms {
                0 => wait,
                other => other.min(wait),
            };
        }
    }

    fn wait(&mut self, worker: &str, waits: Option<Waits>) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.waits = waits;
        }
    }

    /// What has to be left for the first requests of workers that have waited longer.
    fn ahead(&self, worker: &str, since_ms: i64, now_ms: i64) -> Amount {
        let mut sum = Amount::default();
        for (name, other) in &self.workers {
            if let Some(waits) = &other.waits
                && name != worker
                && waits.since_ms < since_ms
                && now_ms < waits.until_ms
            {
                sum += Amount::new(1, waits.least);
            }
        }
        sum
    }

    /// Of a window; the tokens without the reserve.
    fn caps(&self) -> (Option<u64>, Option<u64>) {
        let (requests, tokens) = self.config.cap();
        (requests, tokens.map(|cap| cap - cap / RESERVE))
    }

    fn held(&self) -> Amount {
        let mut sum = Amount::default();
        for worker in self.workers.values() {
            sum += worker.held;
        }
        sum
    }

    /// What counts against the cap: what arrived, and what may arrive at any moment.
    fn taken(&self) -> Amount {
        let mut taken = self.window.used();
        taken += self.held();
        taken
    }

    fn room(&mut self, ahead: Amount, least: u64, now_ms: i64) -> Room {
        let (requests, tokens) = self.caps();
        let window_ms = self.config.window_ms;
        let taken = self.taken();
        if let Some(cap) = requests {
            let least = ahead.requests + 1;
            self.requests.fill(now_ms, cap, window_ms, least);
        }
        if let Some(cap) = tokens {
            let least = ahead.tokens + least;
            self.tokens.fill(now_ms, cap, window_ms, least);
        }
        let left = |cap: u64, taken: u64, ahead: u64, level: u64| {
            cap.saturating_sub(taken).min(level).saturating_sub(ahead)
        };
        Room {
            requests: requests
                .map(|cap| left(cap, taken.requests, ahead.requests, self.requests.level())),
            tokens: tokens.map(|cap| left(cap, taken.tokens, ahead.tokens, self.tokens.level())),
        }
    }

    /// Until there should be room for a first request of so many tokens.
    fn wait_ms(&self, ahead: Amount, least: u64, now_ms: i64) -> u64 {
        let (requests, tokens) = self.caps();
        let window_ms = self.config.window_ms;
        let mut needed = ahead;
        needed += Amount::new(1, least);
        let mut taken = self.taken();
        taken += needed;
        let excess = taken.saturating_sub(Amount::new(
            requests.unwrap_or(u64::MAX),
            tokens.unwrap_or(u64::MAX),
        ));
        let window = self.window.wait_ms(excess, now_ms, window_ms);
        let pace = |pace: &Pace, cap: Option<u64>, needed| {
            cap.map_or(0, |cap| pace.wait_ms(needed, cap, window_ms))
        };
        window
            .max(pace(&self.requests, requests, needed.requests))
            .max(pace(&self.tokens, tokens, needed.tokens))
    }
}

/// As much of what is wanted as there is room for, in proportion, and no tokens that are too few for
/// the first request.
fn share(want: Amount, least: u64, room: Room) -> Amount {
    let requests = want.requests.min(room.requests.unwrap_or(u64::MAX));
    let tokens = want.tokens.min(room.tokens.unwrap_or(u64::MAX));
    if requests == 0 || tokens < least {
        return Amount::default();
    }
    let part = |of: u64, given: u64, wanted: u64| {
        let part = u128::from(of) * u128::from(given) / u128::from(wanted.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    Amount {
        requests: match want.tokens {
            0 => requests,
            wanted => requests.min(part(want.requests, tokens, wanted) + 1),
        },
        tokens: tokens
            .min(part(want.tokens, requests, want.requests))
            .max(least),
    }
}

#[cfg(test)]
mod tests;
