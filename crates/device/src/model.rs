//! Which models a device holds: loaded once, kept while there is room, never dropped while in use.
//!
//! A model in use stays until its last user has gone. Who waits for room waits for that, in the
//! order in which they came; after a while no new users are let to the models that have to go,
//! so that one in constant use does not keep all others out for ever.
//!
//! Who needs a device too is to [ask for both at once](crate::Admission::admit): two that held what
//! the other waits for would wait for ever.

mod load;
mod room;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::ledger::{Ledger, Promise};
use tidemill_pipeline::size;

use crate::Device;
use load::Outcome;
pub(crate) use load::{Joined, Loading};
use room::Waiter;

/// What tells one loaded model from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub name: String,
    /// What exactly it is, such as a hash of its files; empty when nothing tells.
    pub revision: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}@{}", self.name, self.revision),
        }
    }
}

/// What a loader gives.
pub struct Loaded {
    /// Dropping it unloads the model: what holds the device's memory is in it.
    pub value: Arc<dyn Any + Send + Sync>,
    /// Bytes of the device's memory that it holds, if the loader knows. If not, they are measured,
    /// and taken to be no less than was expected.
    pub bytes: Option<u64>,
}

/// The model needs more memory than there can ever be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model {key} needs {}; {device} has {}", size::up(*.needs), size::down(*.limit))]
pub struct ModelTooLarge {
    pub key: Key,
    pub device: String,
    /// Bytes.
    pub needs: u64,
    /// Bytes that the device has, or the budget if that is less.
    pub limit: u64,
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum GetError<E> {
    /// Loading it failed, for all who waited for it. The next who wants it tries anew.
    #[error("{0}")]
    Load(Arc<E>),
    #[error(transparent)]
    TooLarge(#[from] ModelTooLarge),
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Loads that succeeded, and that failed or were dropped.
    pub loads: u64,
    pub failed: u64,
    pub unloads: u64,
    /// Models that somebody got without loading them, because they were there or being loaded.
    pub hits: u64,
}

/// The models of one device.
pub struct Models {
    ledger: Arc<Ledger>,
    state: Mutex<State>,
    /// Told when a model is no longer in use, or there, or being loaded.
    changed: Notify,
    held: watch::Sender<BTreeSet<Key>>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<Key, Entry>,
    /// Who waits for room, in order.
    queue: Vec<Waiter>,
    /// What models were found to hold, in bytes; kept when they are unloaded.
    footprints: BTreeMap<Key, u64>,
    /// Counts uses, loads and unloads.
    clock: u64,
    loading: usize,
    counters: Counters,
}

enum Entry {
    Loading(watch::Receiver<Option<Outcome>>),
    Ready(Ready),
}

struct Ready {
    // Dropped in this order: the memory is free before it is said to be.
    value: Arc<dyn Any + Send + Sync>,
    promise: Promise,
    users: usize,
    /// The clock when it was last got or given back.
    used: u64,
    /// It has to make room, so [`Models::get`] gives it to nobody.
    leaving: bool,
}

impl Models {
    /// `budget` is how many bytes models may hold together, should that be less than the device has.
    pub fn new(device: Arc<dyn Device>, budget: Option<u64>) -> Arc<Self> {
        Self::sharing(Ledger::new(device, budget))
    }

    /// Models that share a device's memory with the [leases](crate::lease::Leases::ledger) on it.
    pub fn sharing(ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            ledger,
            state: Mutex::default(),
            changed: Notify::new(),
            held: watch::Sender::default(),
        })
    }

    /// The device that the models are on.
    pub fn device(&self) -> &Arc<dyn Device> {
        self.ledger.device()
    }

    /// Gets a model: the one that is there, or the one that somebody loads at the moment, or else what
    /// `load` gives, once there is room for it. `bytes_expected` says how much it will hold, until
    /// it was loaded once and is known.
    ///
    /// If the future that loads is dropped, another that waits for the same model loads it.
    ///
    /// # Errors
    /// Loading failed, or `bytes_expected` is more than there can ever be.
    pub async fn get<E, F, L>(
        self: &Arc<Self>,
        key: &Key,
        bytes_expected: u64,
        load: F,
    ) -> Result<Resident, GetError<E>>
    where
        F: FnOnce() -> L,
        L: Future<Output = Result<Loaded, E>>,
        E: Send + Sync + 'static,
    {
        self.get_or_load(key, bytes_expected, load).await
    }

    /// The models that are there and can be had, for the worker to advertise.
    pub fn held(&self) -> watch::Receiver<BTreeSet<Key>> {
        self.held.subscribe()
    }

    /// How many bytes this model was found to hold on this device, if it was ever loaded.
    pub fn footprint(&self, key: &Key) -> Option<u64> {
        self.state.lock().footprints.get(key).copied()
    }

    pub fn counters(&self) -> Counters {
        self.state.lock().counters
    }

    /// Who waits for room, in order, and how much is missing.
    pub fn waiting(&self) -> Vec<(Key, String)> {
        let state = self.state.lock();
        let waiters = state.queue.iter();
        waiters
            .map(|waiter| (waiter.key.clone(), waiter.reason.clone()))
            .collect()
    }
}

/// A model that stays loaded until this is dropped.
pub struct Resident {
    models: Arc<Models>,
    key: Key,
    bytes: u64,
    /// Taken when this is dropped, before the model is said to be unused.
    value: Option<Arc<dyn Any + Send + Sync>>,
}

impl Resident {
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Bytes of the device's memory that it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the loader gave, if that is a `T`.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.value().downcast_ref()
    }

    /// What the loader gave. A clone keeps the memory from being freed, so it has to be dropped
    /// before the resident is.
    pub fn value(&self) -> &Arc<dyn Any + Send + Sync> {
        let value = self.value.as_ref();
        value.expect("it is there until this is dropped")
    }
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident")
            .field("key", &self.key)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        drop(self.value.take());
        {
            let mut state = self.models.state.lock();
            let now = state.tick();
            if let Some(Entry::Ready(ready)) = state.models.get_mut(&self.key) {
                ready.users -= 1;
                ready.used = now;
            }
        }
        self.models.tell();
        // It could make room for a lease now.
        self.models.ledger.changed().notify_waiters();
    }
}
