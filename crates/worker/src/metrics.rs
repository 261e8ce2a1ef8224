//! What a worker counts and times, for Prometheus.
//!
//! Tasks and executions are counted where they happen. Slots, devices and batchers keep their own
//! figures; of these a [`Snapshot`] is taken when somebody asks ([`Metrics::watch`]).

mod figures;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use self::figures::Figures;
use crate::slots::ClassSlots;

/// Upper bounds of buckets, in seconds: from what a cached step takes to what a large model takes.
const SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];

/// All metrics of a worker process.
pub struct Metrics {
    registry: Mutex<Registry>,
    families: Families,
    executions: Arc<Mutex<BTreeMap<DeviceLabels, Arc<Executions>>>>,
    sources: Arc<Mutex<BTreeMap<String, Source>>>,
}

type Source = Box<dyn Fn() -> Snapshot + Send + Sync>;

#[derive(Default)]
struct Families {
    started: Family<ClassLabels, Counter>,
    succeeded: Family<ClassLabels, Counter>,
    failed: Family<ClassLabels, Counter>,
    cancelled: Family<ClassLabels, Counter>,
    seconds: HistogramFamily,
    schedule_to_start: HistogramFamily,
}

#[derive(Clone)]
struct HistogramFamily(Family<ClassLabels, Histogram, fn() -> Histogram>);

impl Default for HistogramFamily {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(SECONDS)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct DeviceLabels {
    class: String,
    device: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct BatcherLabels {
    class: String,
    batcher: String,
}

/// Counts the tasks of one class. To be resolved once.
#[derive(Clone)]
pub(crate) struct Tasks {
    started: Counter,
    succeeded: Counter,
    failed: Counter,
    cancelled: Counter,
    seconds: Histogram,
    schedule_to_start: Histogram,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    Cancelled,
}

impl Tasks {
    /// A task begins; the engine scheduled its attempt at `scheduled`.
    pub(crate) fn started(&self, scheduled: Option<SystemTime>) {
        self.started.inc();
        // Clocks of two machines: what seems to be in the future was just now.
        if let Some(scheduled) = scheduled {
            let waited = scheduled.elapsed().unwrap_or_default();
            self.schedule_to_start.observe(waited.as_secs_f64());
        }
    }

    pub(crate) fn ended(&self, outcome: Outcome, took: Duration) {
        let counter = match outcome {
            Outcome::Succeeded => &self.succeeded,
            Outcome::Failed => &self.failed,
            Outcome::Cancelled => &self.cancelled,
        };
        counter.inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

/// Executions on one device for one class.
#[derive(Default)]
pub(crate) struct Executions(Mutex<ExecutionsNow>);

#[derive(Default)]
struct ExecutionsNow {
    executions: u64,
    items: u64,
    failed: u64,
    /// Executions under way, and since when there is at least one.
    running: u32,
    since: Option<Instant>,
    busy: Duration,
    first: Option<Instant>,
}

impl Executions {
    /// A call begins. One whose guard is dropped before [`Execution::done`] has failed.
    pub(crate) fn begin(self: &Arc<Self>) -> Execution {
        let mut now = self.0.lock();
        now.running += 1;
        let start = Instant::now();
        now.since.get_or_insert(start);
        now.first.get_or_insert(start);
        Execution {
            of: self.clone(),
            done: None,
        }
    }
}

/// An execution that is under way.
pub(crate) struct Execution {
    of: Arc<Executions>,
    done: Option<u64>,
}

impl Execution {
    /// It gave results for so many items.
    pub(crate) fn done(mut self, items: usize) {
        self.done = Some(items as u64);
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        let mut now = self.of.0.lock();
        match self.done {
            Some(items) => {
                now.executions += 1;
                now.items += items;
            }
            None => now.failed += 1,
        }
        now.running -= 1;
        if now.running == 0
            && let Some(since) = now.since.take()
        {
            now.busy += since.elapsed();
        }
    }
}

/// What a class's slots, devices and batchers say of themselves at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) slots: Option<SlotsNow>,
    pub(crate) devices: Vec<DeviceNow>,
    pub(crate) batchers: Vec<BatcherNow>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SlotsNow {
    pub(crate) slots: usize,
    pub(crate) used: usize,
    pub(crate) waiting: usize,
    pub(crate) closed: bool,
}

impl From<&ClassSlots> for SlotsNow {
    fn from(class: &ClassSlots) -> Self {
        Self {
            slots: class.slots(),
            used: class.used(),
            waiting: class.waiting(),
            closed: !class.gate().is_open(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceNow {
    pub(crate) device: String,
    /// `None` when the device does not answer.
    pub(crate) memory: Option<tidemill_device::Memory>,
    /// What the device says of itself, 0 to 1.
    pub(crate) utilisation: Option<f64>,
    /// Time in which at least a part of it was leased, and in which none was.
    pub(crate) leased: Duration,
    pub(crate) unleased: Duration,
    pub(crate) model_loads: u64,
    pub(crate) model_unloads: u64,
    pub(crate) models_held: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct BatcherNow {
    pub(crate) batcher: String,
    pub(crate) batches: u64,
    pub(crate) items: u64,
    /// Items that the batches could have had.
    pub(crate) capacity: u64,
    pub(crate) queued: usize,
    pub(crate) oldest_wait: Duration,
    /// How long the items of all batches had waited for them, summed.
    pub(crate) wait: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            families: Families::default(),
            executions: Arc::default(),
            sources: Arc::default(),
        };
        metrics.register();
        metrics
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        text::encode(&mut out, &self.registry.lock()).expect("writing to a string cannot fail");
        out
    }

    pub(crate) fn tasks(&self, class: &str) -> Tasks {
        let labels = ClassLabels {
            class: class.to_owned(),
        };
        let families = &self.families;
        let count = |family: &Family<ClassLabels, Counter>| family.get_or_create_owned(&labels);
        let time = |family: &HistogramFamily| family.0.get_or_create_owned(&labels);
        Tasks {
            started: count(&families.started),
            succeeded: count(&families.succeeded),
            failed: count(&families.failed),
            cancelled: count(&families.cancelled),
            seconds: time(&families.seconds),
            schedule_to_start: time(&families.schedule_to_start),
        }
    }

    /// Where executions on a device are counted.
    pub(crate) fn executions(&self, class: &str, device: &str) -> Arc<Executions> {
        let labels = DeviceLabels {
            class: class.to_owned(),
            device: device.to_owned(),
        };
        self.executions.lock().entry(labels).or_default().clone()
    }

    /// Asks `source` for the figures of a class from now on, in place of one before.
    pub(crate) fn watch(&self, class: &str, source: impl Fn() -> Snapshot + Send + Sync + 'static) {
        let source: Source = Box::new(source);
        self.sources.lock().insert(class.to_owned(), source);
    }

    fn register(&self) {
        let mut registry = self.registry.lock();
        let registry = registry.sub_registry_with_prefix("tidemill");
        let families = &self.families;
        for (name, help, family) in [
            ("started", "Tasks that began", &families.started),
            ("succeeded", "Tasks that ended well", &families.succeeded),
            (
                "failed",
                "Tasks that failed, each attempt",
                &families.failed,
            ),
            (
                "cancelled",
                "Tasks that were cancelled or handed back",
                &families.cancelled,
            ),
        ] {
            registry.register(format!("tasks_{name}"), help, family.clone());
        }
        registry.register(
            "task_seconds",
            "How long tasks took, waiting for batches and devices included",
            families.seconds.0.clone(),
        );
        registry.register(
            "task_schedule_to_start_seconds",
            "How long attempts waited in the engine",
            families.schedule_to_start.0.clone(),
        );
        registry.register_collector(Box::new(Figures {
            executions: self.executions.clone(),
            sources: self.sources.clone(),
        }));
    }
}

#[cfg(test)]
mod tests;
