//! What the server counts and times, in Temporal's names where Temporal has one.
//!
//! Callers resolve a handle once (per RPC, per task queue) and record through it: a record is a
//! few relaxed atomic additions, without a lock, a look-up or a formatted string.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

/// Task queues with a label of their own; the rest share the label `__other__`.
pub(crate) const QUEUE_LABELS_MAX: usize = 500;
pub(crate) const OTHER_QUEUES: &str = "__other__";
/// All sticky queues together: their names are unique to a worker process.
pub(crate) const STICKY_QUEUES: &str = "__sticky__";

/// Upper bounds of latency buckets, microseconds.
const LATENCY_BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 70_000_000,
];

/// gRPC codes as Temporal's `error_type` label names them, by code number.
const ERROR_TYPES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The registry and the metrics that are not tied to one RPC or queue.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<OperationLabels, Counter>,
    pending: Family<OperationLabels, Gauge>,
    latency: Family<OperationLabels, Histogram, fn() -> Histogram>,
    errors: Family<ErrorLabels, Counter>,
    queues: RwLock<Queues>,
    queue_families: QueueFamilies,
    /// Transitions that were rolled back because of a broken invariant.
    pub contained_failures: Counter,
}

/// What is measured of one RPC.
pub struct Operation {
    name: &'static str,
    requests: Counter,
    pending: Gauge,
    latency: Histogram,
    errors: [OnceLock<Counter>; ERROR_TYPES.len()],
    by_type: Family<ErrorLabels, Counter>,
}

/// What is measured of one task queue.
pub struct Queue {
    /// From a task's being scheduled to its being handed to a worker.
    pub schedule_to_start: Histogram,
    /// How long polls waited, with or without a task at the end.
    pub poll_latency: Histogram,
}

/// The handles by namespace, queue and type, found without making a key.
#[derive(Default)]
struct Queues {
    by_name: HashMap<String, HashMap<String, ByType>>,
    len: usize,
}

type ByType = [Option<Arc<Queue>>; 2];

impl Queues {
    fn get(&self, namespace: &str, name: &str, task_type: TaskType) -> Option<&Arc<Queue>> {
        self.by_name.get(namespace)?.get(name)?[task_type as usize].as_ref()
    }
}

struct QueueFamilies {
    schedule_to_start: Family<QueueLabels, Histogram, fn() -> Histogram>,
    poll_latency: Family<QueueLabels, Histogram, fn() -> Histogram>,
}

/// The type of a queue's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskType {
    Workflow,
    Activity,
}

impl TaskType {
    pub(crate) fn label(self) -> &'static str {
        match self {
            TaskType::Workflow => "Workflow",
            TaskType::Activity => "Activity",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
    service_name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    operation: &'static str,
    service_name: &'static str,
    error_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabels {
    pub(crate) namespace: String,
    pub(crate) taskqueue: String,
    pub(crate) task_type: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            pending: Family::default(),
            latency: Family::new_with_constructor(Histogram::latency),
            errors: Family::default(),
            queues: RwLock::default(),
            queue_families: QueueFamilies {
                schedule_to_start: Family::new_with_constructor(Histogram::latency),
                poll_latency: Family::new_with_constructor(Histogram::latency),
            },
            contained_failures: Counter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock();
        let r = &mut *registry;
        r.register("service_requests", "RPCs received", self.requests.clone());
        r.register(
            "service_pending_requests",
            "RPCs in progress",
            self.pending.clone(),
        );
        r.register(
            "service_latency_seconds",
            "Time to answer an RPC",
            self.latency.clone(),
        );
        r.register(
            "service_errors_with_type",
            "RPCs answered with an error, by its gRPC code",
            self.errors.clone(),
        );
        let q = &self.queue_families;
        r.register(
            "task_schedule_to_start_latency_seconds",
            "From a task's being scheduled to its being handed to a worker",
            q.schedule_to_start.clone(),
        );
        r.register(
            "poll_latency_seconds",
            "How long polls of a task queue waited",
            q.poll_latency.clone(),
        );
        r.register(
            "tidemill_contained_failures",
            "Transitions rolled back because of a broken invariant",
            self.contained_failures.clone(),
        );
    }

    /// Shows figures that others keep, read when they are asked for.
    pub(crate) fn collect(&self, collector: impl Collector) {
        self.registry.lock().register_collector(Box::new(collector));
    }

    /// The handle of an RPC, to be resolved once.
    pub fn operation(&self, name: &'static str) -> Operation {
        let labels = OperationLabels {
            operation: name,
            service_name: "frontend",
        };
        Operation {
            name,
            requests: self.requests.get_or_create_owned(&labels),
            pending: self.pending.get_or_create_owned(&labels),
            latency: self.latency.get_or_create_owned(&labels),
            errors: [const { OnceLock::new() }; ERROR_TYPES.len()],
            by_type: self.errors.clone(),
        }
    }

    /// The handle of a task queue. Not for names of sticky queues, which are unique to a worker
    /// process: one after the other, they would use up all labels.
    pub fn queue(&self, namespace: &str, name: &str, task_type: TaskType) -> Arc<Queue> {
        if let Some(queue) = self.queues.read().get(namespace, name, task_type) {
            return queue.clone();
        }
        let mut queues = self.queues.write();
        let is_other = queues.len >= QUEUE_LABELS_MAX;
        let (namespace, name) = match is_other {
            true => (OTHER_QUEUES, OTHER_QUEUES),
            false => (namespace, name),
        };
        let named = queues.by_name.entry(namespace.to_owned()).or_default();
        let handle = &mut named.entry(name.to_owned()).or_default()[task_type as usize];
        if let Some(queue) = handle {
            return queue.clone();
        }
        let labels = QueueLabels {
            namespace: namespace.to_owned(),
            taskqueue: name.to_owned(),
            task_type: task_type.label(),
        };
        let families = &self.queue_families;
        let queue = Arc::new(Queue {
            schedule_to_start: families.schedule_to_start.get_or_create_owned(&labels),
            poll_latency: families.poll_latency.get_or_create_owned(&labels),
        });
        *handle = Some(queue.clone());
        queues.len += usize::from(!is_other);
        queue
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        text::encode(&mut out, &self.registry.lock()).expect("writing to a string cannot fail");
        out
    }
}

impl Operation {
    /// Counts a request that arrives.
    pub fn begin(&self) {
        self.requests.inc();
        self.pending.inc();
    }

    /// Counts its end. `code` is the gRPC code, 0 for success.
    pub fn end(&self, code: i32, elapsed: Duration) {
        self.pending.dec();
        self.latency.observe(elapsed);
        if code == 0 {
            return;
        }
        let code = usize::try_from(code)
            .ok()
            .filter(|&code| code < ERROR_TYPES.len())
            .unwrap_or(2);
        self.errors[code]
            .get_or_init(|| {
                self.by_type.get_or_create_owned(&ErrorLabels {
                    operation: self.name,
                    service_name: "frontend",
                    error_type: ERROR_TYPES[code],
                })
            })
            .inc();
    }
}

/// A histogram of atomics: observing neither locks nor allocates.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramInner>);

#[derive(Debug)]
struct HistogramInner {
    bounds: &'static [u64],
    /// Units of a bound in one unit shown.
    scale: f64,
    /// One more than there are bounds: the last has none.
    buckets: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    fn latency() -> Self {
        Self::new(&LATENCY_BOUNDS, 1e6)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(HistogramInner {
            bounds,
            scale,
            buckets,
            sum: AtomicU64::new(0),
        }))
    }

    /// Records a span of time.
    pub fn observe(&self, span: Duration) {
        let units = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let inner = &*self.0;
        let bucket = inner.bounds.partition_point(|&bound| bound < units);
        inner.buckets[bucket].fetch_add(1, Relaxed);
        inner.sum.fetch_add(units, Relaxed);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let inner = &*self.0;
        let bounds = inner.bounds.iter().map(|&bound| bound as f64 / inner.scale);
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(&inner.buckets)
            .map(|(bound, count)| (bound, count.load(Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = inner.sum.load(Relaxed) as f64 / inner.scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_counted_timed_and_its_errors_typed() {
        let metrics = Metrics::new();
        let operation = metrics.operation("StartWorkflowExecution");
        for (code, millis) in [(0, 1), (0, 30), (5, 2), (99, 100_000)] {
            operation.begin();
            operation.end(code, Duration::from_millis(millis));
        }
        operation.begin();
        let text = metrics.encode();
        let label = r#"operation="StartWorkflowExecution",service_name="frontend""#;
        for line in [
            format!("service_requests_total{{{label}}} 5"),
            format!("service_pending_requests{{{label}}} 1"),
            format!("service_latency_seconds_count{{{label}}} 4"),
            format!("service_errors_with_type_total{{{label},error_type=\"NotFound\"}} 1"),
            format!("service_errors_with_type_total{{{label},error_type=\"Unknown\"}} 1"),
            format!("service_latency_seconds_bucket{{le=\"0.001\",{label}}} 1"),
            format!("service_latency_seconds_bucket{{le=\"+Inf\",{label}}} 4"),
        ] {
            assert!(text.contains(&line), "{line} in:\n{text}");
        }
    }

    #[test]
    fn queue_labels_are_bounded() {
        let metrics = Metrics::new();
        for i in 0..QUEUE_LABELS_MAX + 10 {
            metrics
                .queue("default", &format!("q{i}"), TaskType::Activity)
                .poll_latency
                .observe(Duration::ZERO);
        }
        let text = metrics.encode();
        let labels = text
            .lines()
            .filter(|line| line.starts_with("poll_latency_seconds_count{"))
            .count();
        assert_eq!(labels, QUEUE_LABELS_MAX + 1);
        let rest = r#"{namespace="__other__",taskqueue="__other__",task_type="Activity"} 10"#;
        assert!(text.contains(rest), "{text}");
    }
}
