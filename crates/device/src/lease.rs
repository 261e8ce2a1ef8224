//! Who holds which device, and what those who wait are waiting for.
//!
//! Requests are granted in the order in which they came. One that must wait has devices kept for it:
//! those behind it may pass on other devices only, so that a stream of small requests never starves
//! one that needs several devices or a whole one. Nothing is kept for a request that no lease stands
//! in the way of, since the memory that it waits for is held by other processes or by models in
//! use: there those behind it pass, and each time the device is without a lease, it is the first.

mod queue;
#[cfg(test)]
mod random;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admit::{Pinned, Wanted};
use crate::ledger::Ledger;
use tidemill_pipeline::size;

use crate::Device;
use state::State;

/// What a task or a batch asks for. All of it is granted at once or nothing is.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Devices at the same time; at least 1.
    pub devices: u32,
    /// Share of each device, above 0 and up to 1, which is the whole of it.
    pub share: f64,
    /// Bytes of each device's memory that must be free beyond what others were promised; 0 when
    /// nothing is known.
    pub memory: u64,
    /// The name of the one device that will do, such as the one that holds the model.
    pub on: Option<String>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            devices: 1,
            share: 1.0,
            memory: 0,
            on: None,
        }
    }
}

/// On whose behalf a lease is held: an attempt of a task, or a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// For people: `run/stage`, or the batch's key.
    pub name: String,
    /// Tells one attempt from the next of the same task.
    pub attempt: u32,
}

/// Why a request will never be satisfied: not by these devices, or because a newer attempt of the
/// same task has come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Never(pub String);

/// A device that a worker offers.
#[derive(Clone)]
pub struct Offered {
    pub device: Arc<dyn Device>,
    /// Bytes that may be in use at a time, should that be less than the device has.
    pub memory: Option<u64>,
}

/// A lease as others see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    pub holder: Holder,
    /// Names of the devices.
    pub devices: Vec<String>,
    /// Of each device.
    pub share: f64,
    /// Bytes promised of each device.
    pub memory: u64,
    /// For how long it has been held.
    pub held: Duration,
}

/// How long a device was leased.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    pub device: String,
    /// With at least one live lease, whatever its share.
    pub leased: Duration,
    /// Without one.
    pub idle: Duration,
    /// `leased` as a share of both, 0 to 1.
    pub busy_share: f64,
}

/// What comes of an acquisition.
type Answer = Result<Lease, Never>;

/// Frees so many bytes of a device's memory if it can, and says whether it freed anything.
type Shortage = dyn Fn(&str, u64) -> bool + Send + Sync;

/// The devices of one worker.
pub struct Leases {
    ledgers: Vec<Arc<Ledger>>,
    state: Mutex<State>,
    /// Told when a promise ends, also one of a model.
    changed: Arc<Notify>,
    shortage: Mutex<Option<Arc<Shortage>>>,
}

impl Leases {
    pub fn new(offered: Vec<Offered>) -> Arc<Self> {
        let changed = Arc::new(Notify::new());
        let ledgers: Vec<_> = offered
            .into_iter()
            .map(|Offered { device, memory }| Ledger::telling(device, memory, Arc::clone(&changed)))
            .collect();
        Arc::new(Self {
            state: Mutex::new(State::new(ledgers.len())),
            ledgers,
            changed,
            shortage: Mutex::default(),
        })
    }

    /// The devices, in the order in which they were offered.
    pub fn devices(&self) -> Vec<Arc<dyn Device>> {
        let devices = self.ledgers.iter();
        devices.map(|ledger| Arc::clone(ledger.device())).collect()
    }

    /// The account of the device of this name, for [models](crate::model::Models::sharing) that share
    /// its memory with the leases.
    pub fn ledger(&self, device: &str) -> Option<Arc<Ledger>> {
        let mut ledgers = self.ledgers.iter();
        ledgers
            .find(|ledger| ledger.device().name() == device)
            .cloned()
    }

    /// The accounts of the devices that a request may get.
    pub(crate) fn candidates_of(&self, request: &Request) -> impl Iterator<Item = &Arc<Ledger>> {
        let candidates = self.candidates(request);
        candidates.map(|index| &self.ledgers[index])
    }

    /// Sets what is called with a device's name and the missing bytes when a request waits for
    /// memory: it frees some, such as that of [unused models](crate::model::Models::make_room), and
    /// returns whether it did. It must not wait.
    pub fn on_shortage(&self, free: impl Fn(&str, u64) -> bool + Send + Sync + 'static) {
        *self.shortage.lock() = Some(Arc::new(free));
    }

    /// Whether these devices could satisfy the request if nobody else used them. A device that does
    /// not answer is given the benefit of the doubt.
    ///
    /// # Errors
    /// What is missing, with numbers, or what is wrong with the request.
    pub fn can_ever(&self, request: &Request) -> Result<(), Never> {
        let Request {
            devices,
            share,
            memory,
            on,
        } = request;
        let never = |text: String| Err(Never(text));
        if *devices == 0 {
            return never("asks for 0 devices; at least 1 is needed".to_owned());
        }
        if !(*share > 0.0 && *share <= 1.0) {
            return never(format!(
                "asks for a share of {share} of a device; it has to be above 0 and at most 1"
            ));
        }
        let names = || -> Vec<&str> {
            let ledgers = self.ledgers.iter();
            ledgers.map(|ledger| ledger.device().name()).collect()
        };
        let candidates: Vec<(&str, u64)> = self
            .candidates(request)
            .map(|index| &self.ledgers[index])
            .map(|ledger| (ledger.device().name(), ledger.limit().unwrap_or(u64::MAX)))
            .collect();
        if let Some(on) = on
            && candidates.is_empty()
        {
            return never(match names().as_slice() {
                [] => format!("needs {on}; there is no device here"),
                names => format!("needs {on}; there is {} here", names.join(", ")),
            });
        }
        let wanted = *devices as usize;
        if wanted > candidates.len() {
            let there = match (on, candidates.len()) {
                (Some(on), _) => format!("it can only be {on}"),
                (None, 0) => "there is none here".to_owned(),
                (None, 1) => format!("there is one here, {}", candidates[0].0),
                (None, count) => format!("there are {count} here"),
            };
            let devices = match wanted {
                1 => "a device".to_owned(),
                wanted => format!("{wanted} devices"),
            };
            return never(format!("needs {devices}; {there}"));
        }
        let enough = candidates
            .iter()
            .filter(|(_, limit)| limit >= memory)
            .count();
        if enough >= wanted {
            return Ok(());
        }
        // The first of those that are equally large.
        let by_size = candidates.iter().rev().max_by_key(|(_, limit)| *limit);
        let (name, limit) = by_size.copied().unwrap_or_default();
        let needs = size::up(*memory);
        never(match (enough, candidates.len()) {
            (0, 1) => format!("needs {needs}; {name} has {}", size::down(limit)),
            (0, _) => format!(
                "needs {needs}; the largest device, {name}, has {}",
                size::down(limit)
            ),
            _ => format!("needs {needs} on each of {wanted} devices; {enough} of them have it"),
        })
    }

    /// Waits until the request can be granted, and holds what it asks for. `waiting` is told why it
    /// waits, and again when the reason changes. Dropping the future takes the request out of the
    /// queue.
    ///
    /// The leases and requests of earlier attempts of the same holder end at once, whether or not
    /// these have noticed.
    ///
    /// To be called in a tokio runtime: as long as somebody waits for memory, a task of it asks the
    /// devices again.
    ///
    /// # Errors
    /// The request [can never be satisfied](Self::can_ever), or a later attempt holds or waits.
    pub async fn acquire(
        self: &Arc<Self>,
        request: Request,
        holder: Holder,
        waiting: impl Fn(String) + Send + Sync,
    ) -> Result<Lease, Never> {
        self.can_ever(&request)?;
        self.wait(request, holder, None, waiting).await
    }

    /// As [`acquire`](Self::acquire), with a model perhaps, for what can be.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        request: Request,
        holder: Holder,
        wanted: Option<Wanted>,
        waiting: impl Fn(String) + Send + Sync,
    ) -> Result<Lease, Never> {
        let mut ticket = self.enqueue(request, holder, wanted)?;
        self.pump();
        loop {
            tokio::select! {
                biased;
                answer = &mut ticket.answer => return queue::received(answer),
                changed = ticket.reason.changed() => match changed {
                    Ok(()) => {
                        let reason = ticket.reason.borrow_and_update().clone();
                        waiting(reason);
                    }
                    // It has left the queue, so the answer is on its way.
                    Err(_) => return queue::received((&mut ticket.answer).await),
                },
            }
        }
    }

    /// Ends the live leases of this holder, whatever the attempt, at once, and returns how many.
    pub fn revoke(self: &Arc<Self>, name: &str) -> usize {
        let ended = self.state.lock().end_all(|holder| holder.name == name);
        self.pump();
        ended
    }

    /// The leases that are held now.
    pub fn live(&self) -> Vec<Live> {
        let state = self.state.lock();
        state.live(&self.ledgers)
    }

    /// Who waits, in order, and for what.
    pub fn waiting(&self) -> Vec<(Holder, String)> {
        self.state.lock().waiting()
    }

    /// How long each device was leased since the start.
    pub fn usage(&self) -> Vec<Usage> {
        let state = self.state.lock();
        state.usage(&self.ledgers)
    }
}

/// Devices that are held; dropping it frees them.
pub struct Lease {
    leases: Arc<Leases>,
    id: u64,
    holder: Holder,
    devices: Vec<Arc<dyn Device>>,
    ended: CancellationToken,
    /// The model that was asked for with the device.
    pinned: Option<Pinned>,
}

impl Lease {
    /// As many as were asked for.
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }

    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Whether the devices are still this holder's.
    pub fn is_live(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// Returns when the lease was ended by somebody else: a later attempt of the same task came, or it
    /// was [revoked](Leases::revoke). What runs on the devices has to stop then.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn pinned(&mut self) -> Option<Pinned> {
        self.pinned.take()
    }

    /// Says how many bytes of the promise, on each device, are in use at present, so that the device
    /// reports them and they need not be counted twice. To be called again when they are freed
    /// before the lease is; without it, the promise counts in full beside what is in use.
    pub fn used(&self, bytes: u64) {
        self.leases.state.lock().used(self.id, bytes);
        self.leases.pump();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.pinned.take());
        self.leases.state.lock().end(self.id);
        self.leases.pump();
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let devices: Vec<_> = self.devices.iter().map(|device| device.name()).collect();
        f.debug_struct("Lease")
            .field("holder", &self.holder)
            .field("devices", &devices)
            .field("live", &self.is_live())
            .finish()
    }
}
