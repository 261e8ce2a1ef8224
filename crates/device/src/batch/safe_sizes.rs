//! What is known of the batches that fit into memory.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::Serialize;

/// Successes after which a larger batch is tried.
const SUCCESSES: u32 = 64;
/// The same when larger ones failed again and again: each failure doubles it up to this.
const SUCCESSES_MAX: u32 = 1024;
/// Scopes that are remembered; beyond, the one that was used the longest ago is forgotten.
const SCOPES: usize = 1024;

/// How large a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// At least 1.
    pub items: usize,
    /// What the whole batch costs, with padding where there is any.
    pub cost: u64,
}

impl Size {
    fn covers(self, other: Self) -> bool {
        other.items <= self.items && other.cost <= self.cost
    }

    fn larger(self) -> Self {
        Self {
            items: self.items.saturating_add((self.items / 4).max(1)),
            cost: self.cost.saturating_add((self.cost / 4).max(1)),
        }
    }
}

/// The sizes that fitted, by [scope](super::Execute::scope), after a larger one did not.
///
/// Batches start no larger than that, neither in items nor in cost. It relaxes slowly, for what took the memory
/// may have gone: after 64 calls that succeeded, batches may be a quarter larger. If that fits it is
/// the new size. If not, the old one stays, and the next try comes after twice as many successes.
///
/// Batchers share one: those of the same model on the same device learn from each other.
#[derive(Default)]
pub struct SafeSizes {
    scopes: Mutex<Scopes>,
}

#[derive(Default)]
struct Scopes {
    known: BTreeMap<String, Known>,
    /// Counts uses, to tell which scope was used the longest ago.
    clock: u64,
}

struct Known {
    size: Size,
    successes: u32,
    /// Successes that the next larger try takes.
    needed: u32,
    used: u64,
}

impl SafeSizes {
    /// Without any memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// How large a batch may be now; `None` while nothing was ever too large.
    pub fn allowed(&self, scope: &str) -> Option<Size> {
        let scopes = self.scopes.lock();
        let known = scopes.known.get(scope)?;
        Some(match known.successes >= known.needed {
            true => known.size.larger(),
            false => known.size,
        })
    }

    /// All that is remembered, by scope.
    pub fn snapshot(&self) -> Vec<(String, Size)> {
        let scopes = self.scopes.lock();
        let known = scopes.known.iter();
        known
            .map(|(scope, known)| (scope.clone(), known.size))
            .collect()
    }

    /// A call of this size succeeded.
    pub(super) fn fitted(&self, scope: &str, size: Size) {
        let mut scopes = self.scopes.lock();
        scopes.clock += 1;
        let used = scopes.clock;
        let Some(known) = scopes.known.get_mut(scope) else {
            return;
        };
        known.used = used;
        if known.size.covers(size) {
            known.successes = known.successes.saturating_add(1);
        } else {
            known.size.items = known.size.items.max(size.items);
            known.size.cost = known.size.cost.max(size.cost);
            known.successes = 0;
            known.needed = SUCCESSES;
        }
    }

    /// A call of size `tried` was too large; parts of it, none larger than `next`, are tried now.
    pub(super) fn too_large(&self, scope: &str, tried: Size, next: Size) {
        let mut scopes = self.scopes.lock();
        scopes.clock += 1;
        let used = scopes.clock;
        if let Some(known) = scopes.known.get_mut(scope) {
            let larger = !known.size.covers(tried);
            if larger {
                known.needed = known.needed.saturating_mul(2).min(SUCCESSES_MAX);
            } else {
                known.size = next;
            }
            known.successes = 0;
            known.used = used;
            return;
        }
        if scopes.known.len() >= SCOPES {
            let oldest = scopes.known.iter().min_by_key(|(_, known)| known.used);
            if let Some(oldest) = oldest.map(|(scope, _)| scope.clone()) {
                scopes.known.remove(&oldest);
            }
        }
        scopes.known.insert(
            scope.to_owned(),
            Known {
                size: next,
                successes: 0,
                needed: SUCCESSES,
                used,
            },
        );
    }
}
