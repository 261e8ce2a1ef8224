//! What a worker knows of its grants: what is unspent, what is on the way, what it has to report.
//!
//! Times are milliseconds of any clock that does not go back, the same for all calls.

use std::collections::BTreeMap;

use super::{Amount, Ask, Charge, Correction, Granted, TRANSIT_MS, VALID_MS};

/// Charges are told apart no further than this.
const FINEST_MS: u64 = 50;
/// A request whose end nobody tells is forgotten after so long.
const ANSWER_MS: u64 = 60 * 60_000;
/// Asked for beside what waits: so many times what was spent since the last ask.
const AHEAD: f64 = 1.5;
/// Actual tokens for each estimated one are followed up at once and down slowly: an estimate that is
/// too high is given back, one that is too low has been sent.
const LEARN: (f64, f64) = (0.5, 0.05);
const RATIO: (f64, f64) = (0.05, 20.0);

/// One limit's grants.
#[derive(Clone, Debug)]
pub struct Ledger {
    unspent: Vec<Allotment>,
    sent: BTreeMap<u64, Sent>,
    /// When it arrived at the latest, and what; not reported yet.
    arrived: Vec<(u64, Amount)>,
    corrections: Vec<Correction>,
    next: u64,
    spent: Amount,
    began_ms: u64,
    ratio: f64,
}

#[derive(Clone, Copy, Debug)]
struct Allotment {
    until_ms: u64,
    left: Amount,
}

/// A request.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at_ms: u64,
    /// Until when it may be sent.
    until_ms: u64,
    /// As estimated by the caller, and as charged.
    estimate: u64,
    tokens: u64,
    charged: Charged,
    /// What it really took, if that was told after it was charged.
    actual: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Charged {
    No,
    /// In the next ask.
    Ready,
    /// In the ask under way, so long before it.
    Asking(u64),
    /// At that time of the limit.
    At(i64),
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            unspent: Vec::new(),
            sent: BTreeMap::new(),
            arrived: Vec::new(),
            corrections: Vec::new(),
            next: 1,
            spent: Amount::default(),
            began_ms: 0,
            ratio: 1.0,
        }
    }
}

impl Ledger {
    /// Tokens that a request will probably take for which the caller estimates so many.
    pub fn expected(&self, estimate: u64) -> u64 {
        (estimate as f64 * self.ratio).ceil() as u64
    }

    /// Takes a request out of what is unspent, for which the caller estimates and
    /// [expects](Self::expected) so many tokens, and sends it at once. Gives its number.
    pub fn take(&mut self, estimate: u64, tokens: u64, now_ms: u64) -> Option<u64> {
        self.lapse(now_ms);
        let have = self.unspent();
        if have.requests < 1 || have.tokens < tokens {
            return None;
        }
        let mut need = Amount::new(1, tokens);
        let mut until_ms = u64::MAX;
        for allotment in &mut self.unspent {
            if need.is_zero() {
                break;
            }
            until_ms = until_ms.min(allotment.until_ms);
            let part = Amount {
                requests: need.requests.min(allotment.left.requests),
                tokens: need.tokens.min(allotment.left.tokens),
            };
            allotment.left = allotment.left.saturating_sub(part);
            need = need.saturating_sub(part);
        }
        self.unspent.retain(|allotment| !allotment.left.is_zero());
        self.spent += Amount::new(1, tokens);
        let number = self.next;
        self.next += 1;
        self.sent.insert(
            number,
            Sent {
                at_ms: now_ms,
                until_ms,
                estimate,
                tokens,
                charged: Charged::No,
                actual: None,
            },
        );
        Some(number)
    }

    /// A request was not sent after all.
    pub fn untake(&mut self, number: u64) {
        let taken = self.sent.get(&number).copied();
        if let Some(sent) = taken.filter(|sent| sent.charged == Charged::No) {
            self.sent.remove(&number);
            self.unspent.push(Allotment {
                until_ms: sent.until_ms,
                left: Amount::new(1, sent.tokens),
            });
        }
    }

    /// A request has ended, and took so many tokens if that is known.
    pub fn ended(&mut self, number: u64, tokens: Option<u64>, now_ms: u64) {
        let Some(sent) = self.sent.get_mut(&number) else {
            return;
        };
        let actual = tokens.unwrap_or(sent.tokens);
        if let Some(actual) = tokens
            && sent.estimate > 0
        {
            let seen = (actual as f64 / sent.estimate as f64).clamp(RATIO.0, RATIO.1);
            let (up, down) = LEARN;
            let weight = if seen > self.ratio { up } else { down };
            self.ratio += (seen - self.ratio) * weight;
        }
        match sent.charged {
            Charged::No => {
                self.arrived.push((now_ms, Amount::new(1, actual)));
                self.sent.remove(&number);
            }
            Charged::At(at_ms) => {
                let tokens = difference(sent.tokens, actual);
                self.sent.remove(&number);
                self.correct(at_ms, tokens);
            }
            // Where it is charged is known when the ask is answered.
            Charged::Ready | Charged::Asking(_) => sent.actual = Some(actual),
        }
    }

    /// Gives back what is unspent with the next ask.
    pub fn give_back(&mut self) {
        self.unspent.clear();
    }

    /// Whether there is something that the limit should hear of.
    pub fn has_news(&self) -> bool {
        !(self.unspent.is_empty() && self.arrived.is_empty() && self.corrections.is_empty())
            || self.sent.values().any(|sent| sent.charged == Charged::No)
    }

    /// Writes into an ask what the limit has to know and what is wanted, when the requests that
    /// `wait` need so much.
    pub fn ask(&mut self, ask: &mut Ask, wait: Amount, pace_ms: u64, now_ms: u64) {
        self.lapse(now_ms);
        for sent in self.sent.values_mut() {
            if sent.charged == Charged::No && now_ms >= sent.at_ms + TRANSIT_MS {
                sent.charged = Charged::Ready;
                let at = sent.at_ms + TRANSIT_MS;
                self.arrived.push((at, Amount::new(1, sent.tokens)));
            }
        }
        self.sent.retain(|_, sent| now_ms < sent.at_ms + ANSWER_MS);
        let mut charged: BTreeMap<u64, Amount> = BTreeMap::new();
        for (at, amount) in self.arrived.drain(..) {
            *charged.entry(ago(at, now_ms)).or_default() += amount;
        }
        for sent in self.sent.values_mut() {
            if sent.charged == Charged::Ready {
                sent.charged = Charged::Asking(ago(sent.at_ms + TRANSIT_MS, now_ms));
            }
        }
        let charge = |(ago_ms, amount)| Charge { ago_ms, amount };
        ask.charged = charged.into_iter().map(charge).collect();
        ask.corrections = std::mem::take(&mut self.corrections);

        let since = now_ms.saturating_sub(self.began_ms).max(1);
        let part = AHEAD * (pace_ms as f64 / since as f64).min(1.0);
        let soon = |spent: u64| (spent as f64 * part) as u64;
        let mut need = wait;
        need += Amount::new(soon(self.spent.requests), soon(self.spent.tokens));
        self.spent = Amount::default();
        self.began_ms = now_ms;
        self.keep(need);
        let unspent = self.unspent();
        ask.want = need.saturating_sub(unspent);
        // A request without tokens, or tokens without a request, would be of no use.
        if !wait.is_zero() && !ask.want.is_zero() {
            ask.want.requests = ask.want.requests.max(1);
        } else if ask.want.requests == 0 {
            ask.want = Amount::default();
        }
        ask.held = unspent;
        for sent in self.sent.values() {
            if sent.charged == Charged::No {
                ask.held += Amount::new(1, sent.tokens);
            }
        }
    }

    /// Takes in the answer to what was asked then.
    pub fn granted(&mut self, granted: &Granted, asked_ms: u64) {
        let mut known = Vec::new();
        for (number, sent) in &mut self.sent {
            if let Charged::Asking(ago) = sent.charged {
                let at = granted.now_ms.saturating_sub_unsigned(ago);
                sent.charged = Charged::At(at);
                if let Some(actual) = sent.actual {
                    known.push((*number, at, difference(sent.tokens, actual)));
                }
            }
        }
        for (number, at, tokens) in known {
            self.sent.remove(&number);
            self.correct(at, tokens);
        }
        if granted.forgotten {
            // All of it was counted as sent: there is nothing to spend and nothing to correct.
            self.forget();
        }
        if granted.closed.is_some() && granted.amount.is_zero() {
            self.give_back();
        }
        if !granted.amount.is_zero() {
            self.unspent.push(Allotment {
                until_ms: asked_ms + VALID_MS,
                left: granted.amount,
            });
        }
    }

    /// The limit is another, or knows nothing of this worker.
    pub fn forget(&mut self) {
        *self = Self {
            next: self.next,
            ratio: self.ratio,
            ..Self::default()
        };
    }

    pub fn unspent(&self) -> Amount {
        let mut sum = Amount::default();
        for allotment in &self.unspent {
            sum += allotment.left;
        }
        sum
    }

    fn correct(&mut self, at_ms: i64, tokens: i64) {
        if tokens != 0 {
            self.corrections.push(Correction { at_ms, tokens });
        }
    }

    fn lapse(&mut self, now_ms: u64) {
        self.unspent.retain(|allotment| now_ms < allotment.until_ms);
    }

    /// Gives back what is beyond the need.
    fn keep(&mut self, need: Amount) {
        let mut left = need;
        for allotment in &mut self.unspent {
            allotment.left = Amount {
                requests: allotment.left.requests.min(left.requests),
                tokens: allotment.left.tokens.min(left.tokens),
            };
            left = left.saturating_sub(allotment.left);
        }
        self.unspent.retain(|allotment| !allotment.left.is_zero());
    }
}

/// Rounded down: it counts as later than it was.
fn ago(at_ms: u64, now_ms: u64) -> u64 {
    let ago = now_ms.saturating_sub(at_ms);
    ago - ago % FINEST_MS
}

fn difference(charged: u64, actual: u64) -> i64 {
    let signed = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
    signed(actual) - signed(charged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(requests: u64, tokens: u64) -> Granted {
        Granted {
            now_ms: 1_000_000,
            late: false,
            forgotten: false,
            amount: Amount::new(requests, tokens),
            wait_ms: 0,
            pace_ms: 1_000,
            closed: None,
            too_large: None,
            concurrent: None,
            lease_ms: 60_000,
            running: Vec::new(),
            too_heavy: Vec::new(),
            contended: false,
        }
    }

    fn ask(ledger: &mut Ledger, wait: Amount, now: u64) -> Ask {
        let mut ask = Ask::default();
        ledger.ask(&mut ask, wait, 1_000, now);
        ask
    }

    #[test]
    fn what_is_granted_is_spent_and_reported_when_it_arrived() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.take(10, 10, 0), None);
        let first = ask(&mut ledger, Amount::new(2, 20), 0);
        assert_eq!(first.want, Amount::new(2, 20));
        ledger.granted(&grant(2, 20), 0);
        let one = ledger.take(10, 10, 100).unwrap();
        let two = ledger.take(10, 10, 200).unwrap();
        assert_eq!(ledger.take(1, 1, 200), None);
        ledger.ended(one, Some(10), 300);
        let second = ask(&mut ledger, Amount::default(), 500);
        let charge = Charge {
            ago_ms: 200,
            amount: Amount::new(1, 10),
        };
        assert_eq!(second.charged, [charge]);
        assert_eq!(second.held, Amount::new(1, 10), "the other is on the way");
        ledger.granted(&grant(0, 0), 500);
        // Without an answer, it has arrived after the transit.
        let third = ask(&mut ledger, Amount::default(), 2_300);
        assert_eq!(third.charged[0].ago_ms, 100);
        assert!(third.held.is_zero());
        ledger.granted(&grant(0, 0), 2_300);
        assert!(!ledger.has_news());
        ledger.ended(two, Some(4), 9_000);
        let fourth = ask(&mut ledger, Amount::default(), 9_000);
        let correction = Correction {
            at_ms: 1_000_000 - 100,
            tokens: -6,
        };
        assert_eq!(fourth.corrections, [correction]);
        assert!(fourth.charged.is_empty());
    }

    #[test]
    fn an_answer_between_ask_and_reply_is_corrected_afterwards() {
        let mut ledger = Ledger::default();
        ledger.granted(&grant(1, 10), 0);
        let one = ledger.take(10, 10, 0).unwrap();
        assert_eq!(ask(&mut ledger, Amount::default(), 2_000).charged.len(), 1);
        ledger.ended(one, Some(15), 2_010);
        ledger.granted(&grant(0, 0), 2_000);
        let next = ask(&mut ledger, Amount::default(), 3_000);
        assert_eq!(next.corrections[0].tokens, 5);
    }

    #[test]
    fn what_is_not_spent_in_time_or_not_needed_is_given_back() {
        let mut ledger = Ledger::default();
        ledger.granted(&grant(5, 50), 0);
        assert_eq!(ledger.take(10, 10, VALID_MS), None, "it lapsed");
        ledger.granted(&grant(5, 50), 0);
        ledger.take(10, 10, 10).unwrap();
        let next = ask(&mut ledger, Amount::default(), 1_000);
        // One on the way, and one and a half times what was spent.
        assert_eq!(next.held, Amount::new(2, 25));
        assert!(next.want.is_zero());
        let last = ask(&mut ledger, Amount::default(), 2_000);
        assert_eq!(last.held, Amount::new(1, 10), "nothing was spent since");
        ledger.granted(&grant(3, 30), 2_000);
        ledger.give_back();
        assert!(ledger.unspent().is_zero());
    }

    #[test]
    fn a_worker_that_was_forgotten_holds_nothing_but_what_it_gets() {
        let mut ledger = Ledger::default();
        ledger.granted(&grant(5, 50), 0);
        let one = ledger.take(10, 10, 0).unwrap();
        let mut forgotten = grant(1, 7);
        forgotten.forgotten = true;
        ledger.granted(&forgotten, 100);
        assert_eq!(ledger.unspent(), Amount::new(1, 7));
        ledger.ended(one, Some(3), 200);
        let next = ask(&mut ledger, Amount::new(1, 7), 300);
        assert!(next.charged.is_empty() && next.corrections.is_empty());
    }

    #[test]
    fn a_request_that_was_not_sent_is_unspent_again() {
        let mut ledger = Ledger::default();
        ledger.granted(&grant(1, 10), 0);
        let one = ledger.take(10, 10, 0).unwrap();
        ledger.untake(one);
        assert_eq!(ledger.unspent(), Amount::new(1, 10));
        assert!(ledger.take(10, 10, 20).is_some());
    }

    #[test]
    fn estimates_follow_what_requests_take() {
        let mut ledger = Ledger::default();
        for round in 0..20 {
            ledger.granted(&grant(1, 1_000), round);
            let one = ledger.take(100, 100, round).unwrap();
            ledger.ended(one, Some(150), round);
        }
        assert!((149..=150).contains(&ledger.expected(100)));
        ledger.granted(&grant(1, 1_000), 30);
        let one = ledger.take(100, 100, 30).unwrap();
        ledger.ended(one, Some(50), 30);
        assert!(ledger.expected(100) > 140, "down slowly");
    }
}
