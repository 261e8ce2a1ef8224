//! The thread that puts what is staged into the tables, in time.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use crate::Error;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};

/// What the thread is to do.
#[derive(Default)]
pub(super) struct Orders {
    state: Mutex<State>,
    changed: Condvar,
    syncs: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Since when something is staged.
    since: Option<Instant>,
    hurry: bool,
    stop: bool,
}

impl Orders {
    /// Something is staged.
    pub(super) fn staged(&self) {
        self.state.lock().since.get_or_insert_with(Instant::now);
        self.changed.notify_one();
    }

    /// So much is staged that it is not to wait for its time.
    pub(super) fn hurry(&self) {
        self.state.lock().hurry = true;
        self.changed.notify_one();
    }

    /// SQLite's log is forced to disk.
    pub(super) fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

/// Ends when it is dropped.
pub(super) struct Thread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, Error> {
        let worker = shared.clone();
        let handle = thread::Builder::new()
            .name("tidemill-tables".into())
            .spawn(move || run(&worker))
            .map_err(|fault| Error::Io(format!("cannot start a thread of the store: {fault}")))?;
        Ok(Thread {
            shared,
            handle: Some(handle),
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.orders.state.lock().stop = true;
        self.shared.orders.changed.notify_one();
        if let Some(handle) = self.handle.take() {
            // A panic of the thread was reported when it happened.
            let _ = handle.join();
        }
    }
}

fn run(shared: &Shared) {
    while wait(shared) {
        shared.tend();
    }
}

/// Waits until it is time; false at the end.
fn wait(shared: &Shared) -> bool {
    let state = &mut shared.orders.state.lock();
    loop {
        if state.stop {
            return false;
        }
        let due = state.since.map(|since| since + shared.options.delay);
        match due {
            None => shared.orders.changed.wait(state),
            Some(due) if !state.hurry && Instant::now() < due => {
                let _ = shared.orders.changed.wait_until(state, due);
            }
            Some(_) => {
                state.since = None;
                state.hurry = false;
                return true;
            }
        }
    }
}
