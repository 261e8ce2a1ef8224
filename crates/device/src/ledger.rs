//! What of a device's memory was promised to whom, so that nothing is promised twice.
//!
//! A device says what is in use, but not for whom; and who was promised memory takes it only later.
//! So a promise counts in full from when it is given until it ends, beside what the device says. A
//! holder that knows how much of its promise it has taken, as a loaded model does, [says
//! so](crate::lease::Lease::used), and that part is not counted twice. Who does not say so costs
//! others some memory, but never makes them run out of it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Device, Error};

/// The promises of one device's memory. Leases and models of a device share one.
pub struct Ledger {
    device: Arc<dyn Device>,
    budget: Option<u64>,
    sums: Mutex<Sums>,
    changed: Arc<Notify>,
}

/// Sums of bytes over all promises.
#[derive(Default)]
struct Sums {
    promised: u64,
    /// The part that the device says is in use.
    seen: u64,
}

impl Ledger {
    /// `budget` is how many bytes may be promised at a time, should that be less than the device has.
    pub fn new(device: Arc<dyn Device>, budget: Option<u64>) -> Arc<Self> {
        Self::telling(device, budget, Arc::default())
    }

    pub(crate) fn telling(
        device: Arc<dyn Device>,
        budget: Option<u64>,
        changed: Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self {
            device,
            budget,
            sums: Mutex::default(),
            changed,
        })
    }

    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The most bytes that can ever be promised.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn limit(&self) -> Result<u64, Error> {
        let total = self.device.memory()?.total;
        Ok(self.budget.map_or(total, |budget| budget.min(total)))
    }

    /// Bytes that can be promised now.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn free(&self) -> Result<u64, Error> {
        self.beside(&self.sums.lock())
    }

    /// Bytes that are promised now, whether or not they are in use.
    pub fn promised(&self) -> u64 {
        self.sums.lock().promised
    }

    /// The device is asked under the lock: a part that is seen must not be in an older answer.
    fn beside(&self, sums: &Sums) -> Result<u64, Error> {
        let free = self.device.memory()?.free;
        let free = free.saturating_sub(sums.promised - sums.seen);
        Ok(self.budget.map_or(free, |budget| {
            free.min(budget.saturating_sub(sums.promised))
        }))
    }

    /// Promises so many bytes if they are free.
    pub(crate) fn promise(self: &Arc<Self>, bytes: u64) -> Option<Promise> {
        let mut sums = self.sums.lock();
        if bytes > 0 && !self.beside(&sums).is_ok_and(|free| free >= bytes) {
            return None;
        }
        sums.promised += bytes;
        Some(Promise {
            ledger: Arc::clone(self),
            bytes,
            seen: 0,
        })
    }

    /// Wakes those who wait for memory when a promise ends or shrinks.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }
}

/// Memory that was promised to somebody; dropping it ends the promise.
pub(crate) struct Promise {
    ledger: Arc<Ledger>,
    bytes: u64,
    seen: u64,
}

impl Promise {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Says how much of it is in use by now, so that the device reports it.
    pub(crate) fn seen(&mut self, bytes: u64) {
        self.set(self.bytes, bytes.min(self.bytes));
    }

    /// Makes it as large as what turned out to be in use; it may thereby exceed what was free.
    pub(crate) fn took(&mut self, bytes: u64) {
        self.set(bytes, bytes);
    }

    fn set(&mut self, bytes: u64, seen: u64) {
        {
            let mut sums = self.ledger.sums.lock();
            sums.promised = sums.promised - self.bytes + bytes;
            sums.seen = sums.seen - self.seen + seen;
        }
        (self.bytes, self.seen) = (bytes, seen);
        self.ledger.changed.notify_waiters();
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Ledger;
    use crate::simulated::{Settings, Simulated};

    const GIB: u64 = 1 << 30;

    fn ledger(budget: Option<u64>) -> (Simulated, Arc<Ledger>) {
        let device = Simulated::new(Settings {
            memory: 10 * GIB,
            ..Settings::default()
        });
        (device.clone(), Ledger::new(Arc::new(device), budget))
    }

    fn free(ledger: &Ledger) -> u64 {
        ledger.free().unwrap() / GIB
    }

    #[tokio::test]
    async fn a_promise_counts_until_it_ends_and_what_is_seen_counts_once() {
        let (device, ledger) = ledger(None);
        let mut promise = ledger.promise(4 * GIB).unwrap();
        assert_eq!(free(&ledger), 6);
        let model = device.load(3 * GIB).await.unwrap();
        assert_eq!(free(&ledger), 3, "nobody said whose it is");
        promise.seen(3 * GIB);
        assert_eq!(free(&ledger), 6);
        assert!(ledger.promise(6 * GIB + 1).is_none());
        let other = ledger.promise(6 * GIB).unwrap();
        assert_eq!(free(&ledger), 0);
        drop((promise, model));
        assert_eq!(free(&ledger), 4);
        drop(other);
        assert_eq!((free(&ledger), ledger.promised()), (10, 0));
    }

    #[test]
    fn foreign_memory_is_not_free() {
        let (device, ledger) = ledger(None);
        let promise = ledger.promise(4 * GIB).unwrap();
        device.set_foreign(8 * GIB);
        assert_eq!(free(&ledger), 0);
        assert!(ledger.promise(1).is_none());
        assert!(ledger.promise(0).is_some(), "nothing is always there");
        drop(promise);
        assert_eq!(free(&ledger), 2);
    }

    #[tokio::test]
    async fn a_budget_bounds_what_is_promised_and_used() {
        let (device, ledger) = ledger(Some(6 * GIB));
        assert_eq!(ledger.limit().unwrap() / GIB, 6);
        let _model = device.load(2 * GIB).await.unwrap();
        let mut promise = ledger.promise(GIB).unwrap();
        promise.took(2 * GIB);
        assert_eq!(free(&ledger), 4, "less than the 8 that the device has");
        device.set_foreign(5 * GIB);
        assert_eq!(free(&ledger), 3);
    }
}
