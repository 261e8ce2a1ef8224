//! What is held, by whom, and for how long; who waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Answer, Holder, Live, Request, Usage};
use crate::admit::Wanted;
use crate::ledger::{Ledger, Promise};

/// Shares are counted in millionths, so that three thirds are a whole.
pub(super) const WHOLE: u32 = 1_000_000;

pub(super) struct State {
    pub(super) opened: Instant,
    pub(super) next: u64,
    pub(super) queue: VecDeque<Waiter>,
    pub(super) live: BTreeMap<u64, Held>,
    pub(super) devices: Vec<Slot>,
    /// Somebody waits for nothing but memory.
    pub(super) short: bool,
    /// A task is there that asks the devices again.
    pub(super) polling: bool,
}

/// What is held of a device.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) share: u32,
    /// Since when anything is held, and for how long before.
    pub(super) since: Option<Instant>,
    pub(super) leased: Duration,
}

pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) request: Request,
    pub(super) share: u32,
    pub(super) wanted: Option<Wanted>,
    pub(super) holder: Holder,
    pub(super) answer: oneshot::Sender<Answer>,
    pub(super) reason: watch::Sender<String>,
    /// Devices that are kept for it. They stay the same while they can, or they would never be empty.
    pub(super) kept: Vec<usize>,
    pub(super) runtime: Handle,
}

pub(super) struct Held {
    pub(super) holder: Holder,
    pub(super) devices: Vec<usize>,
    pub(super) share: u32,
    pub(super) memory: u64,
    pub(super) promises: Vec<Promise>,
    pub(super) ended: CancellationToken,
    pub(super) since: Instant,
}

impl State {
    pub(super) fn new(devices: usize) -> Self {
        Self {
            opened: Instant::now(),
            next: 0,
            queue: VecDeque::new(),
            live: BTreeMap::new(),
            devices: (0..devices).map(|_| Slot::default()).collect(),
            short: false,
            polling: false,
        }
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Ends a lease, if it has not ended before.
    pub(super) fn end(&mut self, id: u64) {
        let Some(held) = self.live.remove(&id) else {
            return;
        };
        let now = Instant::now();
        for index in &held.devices {
            let slot = &mut self.devices[*index];
            slot.share -= held.share;
            if slot.share == 0
                && let Some(since) = slot.since.take()
            {
                slot.leased += now - since;
            }
        }
        held.ended.cancel();
    }

    pub(super) fn end_all(&mut self, which: impl Fn(&Holder) -> bool) -> usize {
        let ids: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, held)| which(&held.holder))
            .map(|(id, _)| *id)
            .collect();
        for id in &ids {
            self.end(*id);
        }
        ids.len()
    }

    pub(super) fn used(&mut self, id: u64, bytes: u64) {
        if let Some(held) = self.live.get_mut(&id) {
            for promise in &mut held.promises {
                promise.seen(bytes);
            }
        }
    }

    pub(super) fn live(&self, ledgers: &[Arc<Ledger>]) -> Vec<Live> {
        let now = Instant::now();
        let name = |index: &usize| ledgers[*index].device().name().to_owned();
        self.live
            .values()
            .map(|held| Live {
                holder: held.holder.clone(),
                devices: held.devices.iter().map(name).collect(),
                share: f64::from(held.share) / f64::from(WHOLE),
                memory: held.memory,
                held: now - held.since,
            })
            .collect()
    }

    pub(super) fn waiting(&self) -> Vec<(Holder, String)> {
        let waiters = self.queue.iter();
        waiters
            .map(|waiter| (waiter.holder.clone(), waiter.reason.borrow().clone()))
            .collect()
    }

    pub(super) fn usage(&self, ledgers: &[Arc<Ledger>]) -> Vec<Usage> {
        let now = Instant::now();
        let all = now - self.opened;
        let usage = |(slot, ledger): (&Slot, &Arc<Ledger>)| {
            let leased = slot.leased + slot.since.map_or(Duration::ZERO, |since| now - since);
            Usage {
                device: ledger.device().name().to_owned(),
                leased,
                idle: all.saturating_sub(leased),
                busy_share: match all.is_zero() {
                    true => 0.0,
                    false => leased.as_secs_f64() / all.as_secs_f64(),
                },
            }
        };
        self.devices.iter().zip(ledgers).map(usage).collect()
    }
}
