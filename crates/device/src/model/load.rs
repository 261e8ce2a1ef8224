//! One load for all who want a model at a time.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use super::room::Place;
use super::{Entry, GetError, Key, Loaded, ModelTooLarge, Models, Ready, Resident, State};
use crate::admit::Pinned;
use crate::ledger::Promise;

/// What came of a load, for those who joined it; the error is of the type that the loader gave.
#[derive(Clone)]
pub(super) enum Outcome {
    Loaded,
    Failed(Arc<dyn Any + Send + Sync>),
}

/// What somebody who wants a model has to do.
enum Step {
    Take(Resident),
    Join(Joined),
    Load(Loading),
    /// It has to make room for others first.
    Wait,
}

/// A load that somebody else does.
pub(crate) struct Joined(watch::Receiver<Option<Outcome>>);

impl Joined {
    /// Waits until the load has ended. Returns the error that it failed with, if it is an `E`; there
    /// is none either if whoever loaded has gone.
    pub(crate) async fn failed<E: Send + Sync + 'static>(mut self) -> Option<Arc<E>> {
        let outcome = self.0.wait_for(Option::is_some).await.ok()?.clone();
        match outcome {
            Some(Outcome::Failed(error)) => error.downcast().ok(),
            Some(Outcome::Loaded) | None => None,
        }
    }
}

/// A load in progress. Dropped early, it leaves the model to those who joined.
pub(crate) struct Loading {
    models: Arc<Models>,
    key: Key,
    outcome: watch::Sender<Option<Outcome>>,
    done: bool,
}

impl Models {
    pub(super) async fn get_or_load<E, F, L>(
        self: &Arc<Self>,
        key: &Key,
        expected: u64,
        load: F,
    ) -> Result<Resident, GetError<E>>
    where
        F: FnOnce() -> L,
        L: Future<Output = Result<Loaded, E>>,
        E: Send + Sync + 'static,
    {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.step(key) {
                Step::Take(resident) => return Ok(resident),
                Step::Wait => changed.await,
                Step::Load(loading) => {
                    let needs = self.needs(key, expected)?;
                    let promise = Place::new(self, key, needs).room().await;
                    return loading.run(promise, expected, load).await;
                }
                Step::Join(joined) => {
                    if let Some(error) = joined.failed().await {
                        return Err(GetError::Load(error));
                    }
                }
            }
        }
    }

    /// Gets a model if it is there.
    pub(crate) fn get_if_held(self: &Arc<Self>, key: &Key) -> Option<Resident> {
        match self.pin(key, u64::MAX)? {
            Pinned::Resident(resident) => Some(resident),
            Pinned::Joined(_) | Pinned::Load(..) => None,
        }
    }

    /// Bytes that it would take to have this model, which are none if it is there or being loaded.
    /// What was measured may have been disturbed by others, so it alone never makes a model too large
    /// to be had beside a batch of so many bytes.
    pub(crate) fn would_take(&self, key: &Key, expected: u64, batch: u64) -> u64 {
        let state = self.state.lock();
        match (state.models.get(key), state.footprints.get(key)) {
            (Some(_), _) => 0,
            (None, Some(known)) if *known > expected => {
                let limit = self.ledger.limit().unwrap_or(u64::MAX);
                (*known).min(limit.saturating_sub(batch)).max(expected)
            }
            (None, known) => known.copied().unwrap_or(expected),
        }
    }

    /// Gets a model, or what is needed to have it, if there is room for so many bytes.
    pub(crate) fn pin(self: &Arc<Self>, key: &Key, bytes: u64) -> Option<Pinned> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let now = state.tick();
        match state.models.get_mut(key) {
            Some(Entry::Ready(ready)) => {
                state.counters.hits += 1;
                Some(Pinned::Resident(self.resident(key, ready, now)))
            }
            Some(Entry::Loading(outcome)) => Some(Pinned::Joined(Joined(outcome.clone()))),
            None => {
                let promise = self.ledger.promise(bytes)?;
                Some(Pinned::Load(self.begin(state, key), promise))
            }
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State, key: &Key) -> Loading {
        let (outcome, joined) = watch::channel(None);
        state.models.insert(key.clone(), Entry::Loading(joined));
        Loading {
            models: Arc::clone(self),
            key: key.clone(),
            outcome,
            done: false,
        }
    }

    fn step(self: &Arc<Self>, key: &Key) -> Step {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let now = state.tick();
        match state.models.get_mut(key) {
            Some(Entry::Ready(ready)) if ready.leaving => Step::Wait,
            Some(Entry::Ready(ready)) => {
                state.counters.hits += 1;
                Step::Take(self.resident(key, ready, now))
            }
            Some(Entry::Loading(outcome)) => Step::Join(Joined(outcome.clone())),
            None => Step::Load(self.begin(state, key)),
        }
    }

    fn resident(self: &Arc<Self>, key: &Key, ready: &mut Ready, now: u64) -> Resident {
        ready.users += 1;
        ready.used = now;
        Resident {
            models: Arc::clone(self),
            key: key.clone(),
            bytes: ready.promise.bytes(),
            value: Some(Arc::clone(&ready.value)),
        }
    }

    /// Bytes to wait for. What was measured may have been disturbed by others, so it alone never
    /// makes a model too large.
    fn needs(&self, key: &Key, expected: u64) -> Result<u64, ModelTooLarge> {
        // A device that does not answer will not load it either.
        let limit = self.ledger.limit().unwrap_or(u64::MAX);
        if expected > limit {
            return Err(ModelTooLarge {
                key: key.clone(),
                device: self.device().name().to_owned(),
                needs: expected,
                limit,
            });
        }
        let known = self.footprint(key).unwrap_or(expected);
        Ok(known.min(limit))
    }

    /// Bytes of the device that are in use.
    fn in_use(&self) -> Option<u64> {
        let memory = self.device().memory().ok()?;
        Some(memory.total.saturating_sub(memory.free))
    }
}

impl Loading {
    /// Loads, with memory that was promised for it.
    pub(crate) async fn run<E, F, L>(
        mut self,
        mut promise: Promise,
        expected: u64,
        load: F,
    ) -> Result<Resident, GetError<E>>
    where
        F: FnOnce() -> L,
        L: Future<Output = Result<Loaded, E>>,
        E: Send + Sync + 'static,
    {
        let models = Arc::clone(&self.models);
        let measured = Measured::begin(&models);
        let loaded = match load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                drop((measured, promise));
                let error = Arc::new(error);
                self.end(Outcome::Failed(Arc::clone(&error) as _), None);
                return Err(GetError::Load(error));
            }
        };
        // A call that ended meanwhile makes it look smaller than it is.
        let measured = || Some(measured.end()?.max(expected));
        let found = loaded.bytes.or_else(measured);
        promise.took(found.unwrap_or(promise.bytes()));
        if let Some(found) = found {
            let mut state = models.state.lock();
            state.footprints.insert(self.key.clone(), found);
        }
        let ready = Ready {
            value: loaded.value,
            promise,
            users: 0,
            used: 0,
            leaving: false,
        };
        let resident = self.end(Outcome::Loaded, Some(ready));
        Ok(resident.expect("a model that was loaded is there"))
    }

    fn end(&mut self, outcome: Outcome, ready: Option<Ready>) -> Option<Resident> {
        self.done = true;
        let resident = {
            let mut guard = self.models.state.lock();
            let state = &mut *guard;
            let now = state.tick();
            state.models.remove(&self.key);
            match ready {
                None => {
                    state.counters.failed += 1;
                    None
                }
                Some(mut ready) => {
                    state.counters.loads += 1;
                    let resident = self.models.resident(&self.key, &mut ready, now);
                    state.models.insert(self.key.clone(), Entry::Ready(ready));
                    Some(resident)
                }
            }
        };
        self.outcome.send_replace(Some(outcome));
        self.models.advertise();
        self.models.tell();
        resident
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        {
            let mut state = self.models.state.lock();
            state.models.remove(&self.key);
            state.counters.failed += 1;
        }
        self.models.tell();
    }
}

/// What a device holds before and after a load, if nothing else of ours came or went in between.
struct Measured<'a> {
    models: &'a Models,
    before: Option<u64>,
    /// Loads and unloads so far.
    events: u64,
}

impl<'a> Measured<'a> {
    fn begin(models: &'a Models) -> Self {
        let before = models.in_use();
        let mut state = models.state.lock();
        state.loading += 1;
        Self {
            models,
            before,
            events: state.events(),
        }
    }

    fn end(&self) -> Option<u64> {
        let after = self.models.in_use();
        let state = self.models.state.lock();
        if state.loading > 1 || state.events() != self.events {
            return None;
        }
        let bytes = after?.checked_sub(self.before?)?;
        (bytes > 0).then_some(bytes)
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        self.models.state.lock().loading -= 1;
    }
}

impl State {
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn events(&self) -> u64 {
        self.counters.loads + self.counters.failed + self.counters.unloads
    }
}
