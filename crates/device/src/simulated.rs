//! A device that takes time and memory as it was told to, and fails when it was told to.

mod settings;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

pub use settings::Settings;

use tidemill_pipeline::size;

use crate::{Device, Error, Memory};

/// A call that is stalled looks so often whether it still is.
const STALL_LOOK: Duration = Duration::from_millis(10);

/// A simulated device. Clones are the same device. It computes one call at a time; calls that come
/// together wait in turn.
#[derive(Clone)]
pub struct Simulated(Arc<Inner>);

struct Inner {
    settings: Settings,
    opened: Instant,
    /// Held by the call that computes; it is fair.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of other processes, of loaded models, and of the call that computes.
    foreign: u64,
    loaded: u64,
    running: u64,
    /// When the call that computes began.
    since: Option<Instant>,
    busy: Duration,
    /// The time and the busy time when the utilisation was last asked for.
    asked: Option<(Instant, Duration)>,
    report: Report,
    faults: Faults,
}

/// What was injected and is yet to come.
#[derive(Default)]
struct Faults {
    out_of_memory: u32,
    too_large_above: Option<usize>,
    stall: (u32, Duration),
    slow: Option<f64>,
    poisoned: BTreeSet<String>,
}

/// What goes wrong on purpose.
#[derive(Clone, Debug, PartialEq)]
pub enum Injection {
    /// The next so many calls find too little memory, and another attempt may not.
    OutOfMemory { calls: u32 },
    /// Calls of more items find too little memory each time.
    BatchTooLarge { above: usize },
    /// The next so many calls take so much longer.
    Stall { calls: u32, time: Duration },
    /// Calls take so many times as long.
    Slow { factor: f64 },
}

/// Why a call failed. The kinds are those of [`batch::Kind`](crate::batch::Kind); the texts have the
/// numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Memory that others hold was missing.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// So many items will never fit.
    #[error("batch too large: {0}")]
    BatchTooLarge(String),
    /// The model will never fit.
    #[error("model too large: {0}")]
    ModelTooLarge(String),
    /// One of the items broke the call.
    #[error("{0}")]
    Failed(String),
}

/// What the device did since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub device: String,
    /// Calls that gave a result.
    pub executions: u64,
    /// Items of these calls.
    pub items: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls that were dropped while they computed.
    pub cancelled: u64,
    /// Calls that wait for their turn now, and the most that ever did.
    pub waiting: u64,
    pub waiting_max: u64,
    /// Microseconds in which it computed, whatever the outcome.
    pub busy_us: u64,
    /// When the first computation began and the last ended, in microseconds since it was opened.
    pub first_start_us: Option<u64>,
    pub last_end_us: Option<u64>,
    /// `busy_us` as a share of the time between these two; 0 when nothing was computed.
    pub busy_share: f64,
    /// The most bytes that models and a call ever held together.
    pub memory_max: u64,
    /// Models loaded and unloaded.
    pub loads: u64,
    pub unloads: u64,
}

impl Simulated {
    pub fn new(settings: Settings) -> Self {
        let report = Report {
            device: settings.name.clone(),
            ..Report::default()
        };
        Self(Arc::new(Inner {
            settings,
            opened: Instant::now(),
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                report,
                ..State::default()
            }),
        }))
    }

    /// What it was told to be.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Computes a call of so many items: waits its turn, takes their memory, and then the time. When
    /// the future is dropped, the device is free for the next.
    ///
    /// # Errors
    /// The items' memory is not free, or a fault was injected.
    pub async fn execute(&self, items: usize) -> Result<(), Fault> {
        self.compute(items, None).await
    }

    /// As [`execute`](Self::execute), for items that have ids.
    ///
    /// # Errors
    /// Also [`Fault::Failed`], after the time that the call takes, if one of them is
    /// [poisoned](Self::poison).
    pub async fn execute_ids<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Fault> {
        let mut items = 0;
        let mut poisoned = None;
        {
            let state = self.0.state.lock();
            for id in ids {
                items += 1;
                if state.faults.poisoned.contains(id) {
                    poisoned.get_or_insert_with(|| id.to_owned());
                }
            }
        }
        self.compute(items, poisoned).await
    }

    async fn compute(&self, items: usize, poisoned: Option<String>) -> Result<(), Fault> {
        let waits = Waits::new(self);
        let _turn = self.0.turn.lock().await;
        drop(waits);
        let (computing, time) = self.begin(items)?;
        // Even a sleep of nothing takes a tick of the timer.
        if !time.is_zero() {
            sleep(time).await;
        }
        self.stalled().await;
        match poisoned {
            None => {
                computing.end(|report| {
                    report.executions += 1;
                    report.items += items as u64;
                });
                Ok(())
            }
            Some(id) => {
                computing.end(|report| report.failed += 1);
                Err(Fault::Failed(format!(
                    "{} cannot compute item {id}",
                    self.name()
                )))
            }
        }
    }

    /// Returns when the device is not told to stall.
    async fn stalled(&self) {
        let Some(file) = &self.0.settings.stall else {
            return;
        };
        while file.exists() {
            sleep(STALL_LOOK).await;
        }
    }

    fn begin(&self, items: usize) -> Result<(Computing, Duration), Fault> {
        let settings = &self.0.settings;
        let mut state = self.0.state.lock();
        let bytes = settings.item_memory.saturating_mul(items as u64);
        if let Err(fault) = state.admit(settings, items, bytes) {
            state.report.failed += 1;
            return Err(fault);
        }
        let now = Instant::now();
        state.running = bytes;
        state.since = Some(now);
        state.measure();
        let start = micros(now - self.0.opened);
        state.report.first_start_us.get_or_insert(start);
        let mut time = settings
            .time(items)
            .mul_f64(state.faults.slow.unwrap_or(1.0));
        if state.faults.stall.0 > 0 {
            state.faults.stall.0 -= 1;
            time += state.faults.stall.1;
        }
        drop(state);
        let computing = Computing {
            device: self.clone(),
            ended: false,
        };
        Ok((computing, time))
    }

    /// Loads a model of so many bytes, which takes [`Settings::load`]. It is unloaded when what is
    /// returned is dropped.
    ///
    /// # Errors
    /// So much memory is not free.
    pub async fn load(&self, bytes: u64) -> Result<Model, Fault> {
        let mut model = {
            let settings = &self.0.settings;
            let mut state = self.0.state.lock();
            let free = state.free(settings);
            if bytes > free {
                let text = short(bytes, free, &settings.name);
                return Err(match bytes > settings.memory {
                    true => Fault::ModelTooLarge(text),
                    false => Fault::OutOfMemory(text),
                });
            }
            state.loaded += bytes;
            state.measure();
            Model {
                device: self.clone(),
                bytes,
                loaded: false,
            }
        };
        sleep(self.0.settings.load).await;
        model.loaded = true;
        self.0.state.lock().report.loads += 1;
        Ok(model)
    }

    /// Sets what other processes hold, in bytes.
    pub fn set_foreign(&self, bytes: u64) {
        self.0.state.lock().foreign = bytes;
    }

    /// Makes something go wrong from now on. Another injection of the same kind replaces the first.
    pub fn inject(&self, injection: Injection) {
        let faults = &mut self.0.state.lock().faults;
        match injection {
            Injection::OutOfMemory { calls } => faults.out_of_memory = calls,
            Injection::BatchTooLarge { above } => faults.too_large_above = Some(above),
            Injection::Stall { calls, time } => faults.stall = (calls, time),
            Injection::Slow { factor } => faults.slow = Some(factor),
        }
    }

    /// Makes [calls](Self::execute_ids) fail that have an item of this id.
    pub fn poison(&self, id: &str) {
        self.0.state.lock().faults.poisoned.insert(id.to_owned());
    }

    /// Takes back all that was injected or poisoned; foreign memory stays.
    pub fn clear(&self) {
        self.0.state.lock().faults = Faults::default();
    }

    /// What it did so far, the computation in progress included.
    pub fn report(&self) -> Report {
        let state = self.0.state.lock();
        let mut report = state.report.clone();
        let now = Instant::now();
        report.busy_us = micros(state.busy(now));
        if state.since.is_some() {
            report.last_end_us = Some(micros(now - self.0.opened));
        }
        if let (Some(first), Some(last)) = (report.first_start_us, report.last_end_us) {
            report.busy_share = share(report.busy_us, last - first);
        }
        report
    }
}

impl Device for Simulated {
    fn name(&self) -> &str {
        &self.0.settings.name
    }

    fn memory(&self) -> Result<Memory, Error> {
        let settings = &self.0.settings;
        Ok(Memory {
            total: settings.memory,
            free: self.0.state.lock().free(settings),
        })
    }

    /// Since it was last asked for, or since the device was opened.
    fn utilisation(&self) -> Option<f64> {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        let busy = state.busy(now);
        let (at, before) = state
            .asked
            .replace((now, busy))
            .unwrap_or((self.0.opened, Duration::ZERO));
        let passed = now - at;
        (!passed.is_zero()).then(|| share(micros(busy - before), micros(passed)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl State {
    fn free(&self, settings: &Settings) -> u64 {
        settings
            .memory
            .saturating_sub(self.foreign)
            .saturating_sub(self.loaded)
            .saturating_sub(self.running)
    }

    fn admit(&mut self, settings: &Settings, items: usize, bytes: u64) -> Result<(), Fault> {
        let name = &settings.name;
        let free = self.free(settings);
        if bytes > free {
            // What is left beside the models is all that a batch can ever get.
            let text = short(bytes, free, name);
            return Err(match bytes > settings.memory - self.loaded {
                true => Fault::BatchTooLarge(text),
                false => Fault::OutOfMemory(text),
            });
        }
        if let Some(above) = self.faults.too_large_above.filter(|above| items > *above) {
            return Err(Fault::BatchTooLarge(format!(
                "{items} items, {above} fit on {name} (injected)"
            )));
        }
        if self.faults.out_of_memory > 0 {
            self.faults.out_of_memory -= 1;
            return Err(Fault::OutOfMemory(format!(
                "another process holds memory of {name} (injected)"
            )));
        }
        Ok(())
    }

    fn busy(&self, now: Instant) -> Duration {
        self.busy + self.since.map_or(Duration::ZERO, |since| now - since)
    }

    fn measure(&mut self) {
        self.report.memory_max = self.report.memory_max.max(self.loaded + self.running);
    }
}

/// A loaded model; it is unloaded when this is dropped.
pub struct Model {
    device: Simulated,
    bytes: u64,
    loaded: bool,
}

impl Model {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let mut state = self.device.0.state.lock();
        state.loaded -= self.bytes;
        state.report.unloads += u64::from(self.loaded);
    }
}

/// A call that waits for its turn.
struct Waits<'a>(&'a Simulated);

impl<'a> Waits<'a> {
    fn new(device: &'a Simulated) -> Self {
        let report = &mut device.0.state.lock().report;
        // The one whose turn it is does not wait, and will say so in a moment.
        report.waiting += 1;
        if device.0.turn.try_lock().is_err() {
            report.waiting_max = report.waiting_max.max(report.waiting);
        }
        Self(device)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.0.state.lock().report.waiting -= 1;
    }
}

/// The call that computes.
struct Computing {
    device: Simulated,
    ended: bool,
}

impl Computing {
    fn end(mut self, count: impl FnOnce(&mut Report)) {
        self.ended = true;
        count(&mut self.device.0.state.lock().report);
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        let inner = &self.device.0;
        let now = Instant::now();
        let mut state = inner.state.lock();
        state.busy = state.busy(now);
        state.since = None;
        state.running = 0;
        state.report.last_end_us = Some(micros(now - inner.opened));
        state.report.cancelled += u64::from(!self.ended);
    }
}

fn short(needs: u64, free: u64, device: &str) -> String {
    format!(
        "needs {}, {} free on {device}",
        size::up(needs),
        size::down(free)
    )
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a process")]
fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}
