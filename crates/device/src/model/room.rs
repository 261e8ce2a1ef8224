//! Room for a model: who waits for it, and which models go.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Entry, Key, Models, Ready, State};
use crate::ledger::Promise;
use tidemill_pipeline::size;

/// How long models that have to go are still given to new users: it is cheaper to finish what
/// needs them than to load them again.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How often the device is asked again: other processes do not tell when they free memory.
const POLL: Duration = Duration::from_millis(200);

/// Somebody who waits for room.
pub(super) struct Waiter {
    id: u64,
    pub(super) key: Key,
    pub(super) reason: String,
    since: Instant,
    /// Others of this worker stand in its way, so those behind it wait too.
    first: bool,
}

/// A place in the queue for room, which dropping it leaves.
pub(super) struct Place<'a> {
    models: &'a Models,
    id: u64,
    needs: u64,
}

impl<'a> Place<'a> {
    pub(super) fn new(models: &'a Models, key: &Key, needs: u64) -> Self {
        let mut state = models.state.lock();
        let id = state.tick();
        state.queue.push(Waiter {
            id,
            key: key.clone(),
            reason: String::new(),
            since: Instant::now(),
            first: true,
        });
        Self { models, id, needs }
    }

    /// Waits until there is room and promises it, unloading what is not in use.
    pub(super) async fn room(self) -> Promise {
        loop {
            let ours = self.models.changed.notified();
            let others = self.models.ledger.changed().notified();
            tokio::pin!(ours, others);
            ours.as_mut().enable();
            others.as_mut().enable();
            if let Some(promise) = self.attempt() {
                return promise;
            }
            tokio::select! {
                () = ours => {}
                () = others => {}
                () = sleep(POLL) => {}
            }
        }
    }

    fn attempt(&self) -> Option<Promise> {
        loop {
            let gone = {
                let mut guard = self.models.state.lock();
                let state = &mut *guard;
                let place = state.queue.iter().position(|waiter| waiter.id == self.id)?;
                if let Some(ahead) = state.queue[..place].iter().find(|waiter| waiter.first) {
                    state.queue[place].reason = format!("comes after {}", ahead.key);
                    return None;
                }
                if let Some(promise) = self.models.ledger.promise(self.needs) {
                    return Some(promise);
                }
                let ledger = &self.models.ledger;
                let free = ledger.free();
                let missing = self.needs.saturating_sub(*free.as_ref().unwrap_or(&0));
                let of_models = state.bytes();
                let waiter = &mut state.queue[place];
                waiter.reason = match free {
                    Ok(free) => format!(
                        "needs {}, {} free on {}",
                        size::up(self.needs),
                        size::down(free),
                        self.models.device().name()
                    ),
                    Err(error) => error.to_string(),
                };
                // What was promised to models, loads and leases comes back one day.
                waiter.first = ledger.promised() >= missing;
                let impatient = waiter.since.elapsed() >= PATIENCE;
                if !waiter.first || (of_models < missing && !impatient) {
                    // Even if all models went, there would be no room, so they stay.
                    return None;
                }
                let Some(gone) = state.take_unused() else {
                    if impatient {
                        state.mark_leaving(missing);
                    }
                    return None;
                };
                gone
            };
            self.models.unload(gone);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.models.state.lock();
            let id = self.id;
            state.queue.retain(|waiter| waiter.id != id);
            // Whoever still needs them to go marks them again.
            for entry in state.models.values_mut() {
                if let Entry::Ready(ready) = entry {
                    ready.leaving = false;
                }
            }
        }
        self.models.tell();
    }
}

impl Models {
    /// Unloads models that are not in use, the least recently used first, until so many more bytes
    /// are free, and returns whether it unloaded any. It unloads none if not even all models, those
    /// in use included, hold that much. It does not wait.
    pub fn make_room(&self, missing: u64) -> bool {
        let enough = self.state.lock().bytes() >= missing;
        let mut freed = 0;
        let mut any = false;
        while enough && freed < missing {
            let Some(gone) = self.state.lock().take_unused() else {
                break;
            };
            freed += gone.promise.bytes();
            any = true;
            self.unload(gone);
        }
        any
    }

    /// Unloads all models that are not in use, and returns how many.
    pub fn unload_unused(&self) -> usize {
        let mut count = 0;
        loop {
            let gone = self.state.lock().take_unused();
            let Some(gone) = gone else { break };
            self.unload(gone);
            count += 1;
        }
        count
    }

    /// Drops the value where no lock is held: it may take its time, or call back.
    fn unload(&self, gone: Ready) {
        drop(gone);
        self.advertise();
        self.tell();
    }

    /// Wakes those who wait for room or for a model.
    pub(super) fn tell(&self) {
        self.changed.notify_waiters();
    }

    /// Says which models can be had.
    pub(super) fn advertise(&self) {
        let state = self.state.lock();
        let keys = state.models().map(|(key, _)| key.clone()).collect();
        self.held.send_if_modified(|held| {
            let changed = *held != keys;
            *held = keys;
            changed
        });
    }
}

impl State {
    fn models(&self) -> impl Iterator<Item = (&Key, &Ready)> {
        self.models.iter().filter_map(|(key, entry)| match entry {
            Entry::Ready(ready) => Some((key, ready)),
            Entry::Loading(_) => None,
        })
    }

    /// Of all models that are there, in use or not.
    fn bytes(&self) -> u64 {
        self.models().map(|(_, ready)| ready.promise.bytes()).sum()
    }

    /// Takes out the least recently used model that is not in use.
    fn take_unused(&mut self) -> Option<Ready> {
        let unused = self.models().filter(|(_, ready)| ready.users == 0);
        let key = unused.min_by_key(|(_, ready)| ready.used)?.0.clone();
        let Entry::Ready(gone) = self.models.remove(&key)? else {
            return None;
        };
        self.counters.unloads += 1;
        Some(gone)
    }

    /// Lets no new users to the models that were loaded or used least recently and hold so many
    /// bytes together.
    fn mark_leaving(&mut self, missing: u64) {
        let mut ready: Vec<&mut Ready> = self
            .models
            .values_mut()
            .filter_map(|entry| match entry {
                Entry::Ready(ready) => Some(ready),
                Entry::Loading(_) => None,
            })
            .collect();
        // Those that are leaving already stay the first, whatever their last users do.
        ready.sort_by_key(|ready| (!ready.leaving, ready.used));
        let mut found = 0;
        for ready in ready {
            if found >= missing {
                break;
            }
            ready.leaving = true;
            found += ready.promise.bytes();
        }
    }
}
