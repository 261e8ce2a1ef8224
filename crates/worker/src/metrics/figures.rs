//! Figures that are asked for when somebody looks, and how they are written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{
    BatcherLabels, BatcherNow, ClassLabels, DeviceLabels, DeviceNow, Executions, SlotsNow,
    Snapshot, Source,
};

/// Batchers of a class with a label of their own; the rest share [`OTHERS`].
pub(super) const BATCHERS_MAX: usize = 100;
pub(super) const OTHERS: &str = "__other__";
/// What is asked for when somebody looks.
pub(super) struct Figures {
    pub(super) executions: Arc<Mutex<BTreeMap<DeviceLabels, Arc<Executions>>>>,
    pub(super) sources: Arc<Mutex<BTreeMap<String, Source>>>,
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
