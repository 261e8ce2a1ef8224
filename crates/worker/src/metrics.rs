//! What a worker counts and times, for Prometheus.
//!
//! Tasks and executions are counted where they happen. Slots, devices and batchers keep their own
//! figures; of these a [`Snapshot`] is taken when somebody asks ([`Metrics::watch`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::slots::ClassSlots;

/// Batchers of a class with a label of their own; the rest share [`OTHERS`].
const BATCHERS_MAX: usize = 100;
const OTHERS: &str = "__other__";
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

/// What is asked for when somebody looks.
struct Figures {
    executions: Arc<Mutex<BTreeMap<DeviceLabels, Arc<Executions>>>>,
    sources: Arc<Mutex<BTreeMap<String, Source>>>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let snapshots: Vec<(String, Snapshot)> = {
            let sources = self.sources.lock();
            let taken = sources
                .iter()
                .map(|(class, source)| (class.clone(), source()));
            taken.collect()
        };
        self.executions(&mut encoder)?;
        slots(&mut encoder, &snapshots)?;
        devices(&mut encoder, &snapshots)?;
        batchers(&mut encoder, &snapshots)
    }
}

impl Figures {
    fn executions(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut rows = Vec::new();
        for (labels, executions) in self.executions.lock().iter() {
            let now = executions.0.lock();
            let busy = now.busy + now.since.map(|s| s.elapsed()).unwrap_or_default();
            let known = now.first.map(|first| first.elapsed()).unwrap_or_default();
            let mean = now.items as f64 / now.executions.max(1) as f64;
            let idle = match known.as_secs_f64() {
                0.0 => 1.0,
                known => (1.0 - busy.as_secs_f64() / known).max(0.0),
            };
            let counts = (now.executions, now.items, now.failed);
            rows.push((labels.clone(), (counts, busy.as_secs_f64(), mean, idle)));
        }
        write(
            encoder,
            "device_executions",
            "Calls that ran on a device and gave results",
            rows.iter().map(|(l, r)| (l.clone(), Value::Count(r.0.0))),
        )?;
        write(
            encoder,
            "device_items",
            "Items of these calls",
            rows.iter().map(|(l, r)| (l.clone(), Value::Count(r.0.1))),
        )?;
        write(
            encoder,
            "device_executions_failed",
            "Calls that ran on a device and failed, or were dropped",
            rows.iter().map(|(l, r)| (l.clone(), Value::Count(r.0.2))),
        )?;
        write(
            encoder,
            "device_busy_seconds",
            "Time in which at least one call ran on a device",
            rows.iter().map(|(l, r)| (l.clone(), Value::Sum(r.1))),
        )?;
        write(
            encoder,
            "device_mean_batch",
            "Items of a call, on average",
            rows.iter().map(|(l, r)| (l.clone(), Value::Now(r.2))),
        )?;
        write(
            encoder,
            "device_idle_ratio",
            "Share of the time since the first call in which none ran",
            rows.iter().map(|(l, r)| (l.clone(), Value::Now(r.3))),
        )
    }
}

type Taken = [(String, Snapshot)];
/// The name of a metric, what it tells, and how it is read.
type Figure<T, V> = (&'static str, &'static str, fn(&T) -> V);

fn slots(encoder: &mut DescriptorEncoder, taken: &Taken) -> Result<(), fmt::Error> {
    let figures: [Figure<SlotsNow, f64>; 4] = [
        ("slots", "Tasks that a class runs at a time", |s| {
            s.slots as f64
        }),
        ("slots_used", "Slots in use", |s| s.used as f64),
        (
            "slots_waiting",
            "Tasks that were taken and wait for a slot",
            |s| s.waiting as f64,
        ),
        (
            "admissions_closed",
            "1 while a class takes no tasks because the host or a device is short of something",
            |s| f64::from(u8::from(s.closed)),
        ),
    ];
    for (name, help, figure) in figures {
        let rows = taken.iter().filter_map(|(class, snapshot)| {
            let labels = ClassLabels {
                class: class.clone(),
            };
            Some((labels, Value::Now(figure(snapshot.slots.as_ref()?))))
        });
        write(encoder, name, help, rows)?;
    }
    Ok(())
}

fn devices(encoder: &mut DescriptorEncoder, taken: &Taken) -> Result<(), fmt::Error> {
    type Figure = fn(&DeviceNow) -> Option<Value>;
    let figures: [(&str, &str, Figure); 8] = [
        ("device_memory_total_bytes", "Memory of a device", |d| {
            Some(Value::Now(d.memory?.total as f64))
        }),
        (
            "device_memory_free_bytes",
            "Memory of a device that nobody holds, other processes included",
            |d| Some(Value::Now(d.memory?.free as f64)),
        ),
        (
            "device_utilisation_ratio",
            "What a device says of itself",
            |d| Some(Value::Now(d.utilisation?)),
        ),
        (
            "device_leased_seconds",
            "Time in which at least a part of a device was leased",
            |d| Some(Value::Sum(d.leased.as_secs_f64())),
        ),
        (
            "device_leased_ratio",
            "Share of the time in which at least a part of a device was leased",
            |d| {
                let all = (d.leased + d.unleased).as_secs_f64();
                Some(Value::Now(if all > 0.0 {
                    d.leased.as_secs_f64() / all
                } else {
                    0.0
                }))
            },
        ),
        ("device_models", "Models that a device holds", |d| {
            Some(Value::Now(d.models_held as f64))
        }),
        ("device_model_loads", "Models that were loaded", |d| {
            Some(Value::Count(d.model_loads))
        }),
        (
            "device_model_unloads",
            "Models that were dropped to make room",
            |d| Some(Value::Count(d.model_unloads)),
        ),
    ];
    for (name, help, figure) in figures {
        let rows = taken.iter().flat_map(|(class, snapshot)| {
            snapshot.devices.iter().filter_map(move |device| {
                let labels = DeviceLabels {
                    class: class.clone(),
                    device: device.device.clone(),
                };
                Some((labels, figure(device)?))
            })
        });
        write(encoder, name, help, rows)?;
    }
    Ok(())
}

fn batchers(encoder: &mut DescriptorEncoder, taken: &Taken) -> Result<(), fmt::Error> {
    let mut rows: BTreeMap<BatcherLabels, BatcherNow> = BTreeMap::new();
    for (class, snapshot) in taken {
        for (at, now) in snapshot.batchers.iter().enumerate() {
            let name = if at < BATCHERS_MAX {
                now.batcher.as_str()
            } else {
                OTHERS
            };
            let labels = BatcherLabels {
                class: class.clone(),
                batcher: name.to_owned(),
            };
            let sum = rows.entry(labels).or_default();
            sum.batches += now.batches;
            sum.items += now.items;
            sum.capacity += now.capacity;
            sum.queued += now.queued;
            sum.wait += now.wait;
            sum.oldest_wait = sum.oldest_wait.max(now.oldest_wait);
        }
    }
    let figures: [Figure<BatcherNow, Value>; 6] = [
        ("batches", "Batches that were executed", |b| {
            Value::Count(b.batches)
        }),
        ("batch_items", "Items of the batches", |b| {
            Value::Count(b.items)
        }),
        (
            "batch_fill_ratio",
            "Items of the batches to the items that they could have had",
            |b| Value::Now(b.items as f64 / b.capacity.max(1) as f64),
        ),
        ("batch_queue", "Items that wait for a batch", |b| {
            Value::Now(b.queued as f64)
        }),
        (
            "batch_wait_seconds",
            "How long the items of the batches had waited for them",
            |b| Value::Sum(b.wait.as_secs_f64()),
        ),
        (
            "batch_oldest_wait_seconds",
            "How long the oldest of them has waited",
            |b| Value::Now(b.oldest_wait.as_secs_f64()),
        ),
    ];
    for (name, help, figure) in figures {
        let rows = rows
            .iter()
            .map(|(labels, now)| (labels.clone(), figure(now)));
        write(encoder, name, help, rows)?;
    }
    Ok(())
}

/// A figure, and what kind of metric it is.
enum Value {
    /// Of a counter.
    Count(u64),
    /// Of a counter of seconds.
    Sum(f64),
    /// Of a gauge.
    Now(f64),
}

/// Writes a metric with all its labels, unless it has none.
fn write<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (L, Value)>,
) -> Result<(), fmt::Error> {
    let mut rows = rows.peekable();
    let Some((_, first)) = rows.peek() else {
        return Ok(());
    };
    let kind = match first {
        Value::Now(_) => MetricType::Gauge,
        Value::Count(_) | Value::Sum(_) => MetricType::Counter,
    };
    let mut metric: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let mut one = metric.encode_family(&labels)?;
        match value {
            Value::Count(count) => one.encode_counter::<NoLabelSet, _, u64>(&count, None)?,
            Value::Sum(sum) => one.encode_counter::<NoLabelSet, _, u64>(&sum, None)?,
            Value::Now(now) => one.encode_gauge(&now)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
