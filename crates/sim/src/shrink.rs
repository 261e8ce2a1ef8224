//! Which parts of a seed's plan a finding needs: one after the other is left out, and stays out if the
//! seed still finds the same.

use std::collections::BTreeSet;

use crate::{Limits, Outcome, run_limited};

/// A seed that finds something, with as little as it takes.
pub struct Shrunk {
    pub limits: Limits,
    pub outcome: Outcome,
    /// How many runs it took.
    pub runs: usize,
}

/// The time of trouble that is tried last: less makes no difference.
const CALM_MS_LEAST: u64 = 50;
/// The parts that end when it is calm.
const TROUBLE: [&str; 4] = ["crashes", "disk", "workers", "clients"];

/// Leaves out what can be left out beside `limits`. `None` if the seed finds nothing.
pub fn shrink(seed: u64, limits: Limits) -> Option<Shrunk> {
    let outcome = run_limited(seed, &limits, false);
    let wanted = kinds(&outcome);
    if wanted.is_empty() {
        return None;
    }
    let mut shrunk = Shrunk {
        limits,
        outcome,
        runs: 1,
    };
    let mut calm_ms = shrunk.limits.calm_ms.unwrap_or(30_000);
    loop {
        let before = shrunk.limits.clone();
        for part in shrunk.outcome.parts.clone() {
            let mut limits = shrunk.limits.clone();
            if limits.without.insert(part) {
                shrunk.attempt(seed, limits, &wanted);
            }
        }
        let is_left = |part: &&str| {
            let out = &shrunk.limits.without;
            shrunk.outcome.parts.iter().any(|name| name == part) && !out.contains(*part)
        };
        let has_trouble = TROUBLE.iter().any(is_left);
        while has_trouble && calm_ms / 2 >= CALM_MS_LEAST {
            let mut limits = shrunk.limits.clone();
            limits.calm_ms = Some(calm_ms / 2);
            if !shrunk.attempt(seed, limits, &wanted) {
                break;
            }
            calm_ms /= 2;
        }
        if shrunk.limits == before {
            return Some(shrunk);
        }
    }
}

impl Shrunk {
    /// Whether the seed finds one of the same with these limits, which are kept then.
    fn attempt(&mut self, seed: u64, limits: Limits, wanted: &BTreeSet<String>) -> bool {
        self.runs += 1;
        let outcome = run_limited(seed, &limits, false);
        let same = !kinds(&outcome).is_disjoint(wanted);
        if same {
            self.limits = limits;
            self.outcome = outcome;
        }
        same
    }
}

/// Findings without what differs from run to run: ids, times, numbers.
fn kinds(outcome: &Outcome) -> BTreeSet<String> {
    let words = |finding: &String| {
        let words = finding.split(|c: char| c.is_whitespace() || ",:;".contains(c));
        let plain = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
        plain.collect::<Vec<_>>().join(" ")
    };
    outcome.findings.iter().map(words).collect()
}
