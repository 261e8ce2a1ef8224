//! Figures that the committer, the store and matching keep themselves, shown when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tidemill_store::Committer;
use tidemill_store::committer::Histogram;

use crate::matching::{Matching, QueueSummary};
use crate::metrics::{OTHER_QUEUES, QUEUE_LABELS_MAX, QueueLabels, STICKY_QUEUES, TaskType};
use crate::namespaces::Namespaces;

pub(crate) struct Figures {
    pub(crate) committer: Arc<Committer>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) matching: Matching,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.commits(&mut encoder)?;
        self.queues(&mut encoder)
    }
}

impl Figures {
    fn commits(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats = self.committer.stats();
        let counters = [
            ("fsyncs", "Times that data was forced to disk", stats.fsyncs),
            ("commits", "Commits, durable or failed", stats.commits),
            ("commits_failed", "Commits that failed", stats.failed),
        ];
        for (name, help, value) in counters {
            let name = format!("tidemill_store_{name}");
            encoder
                .encode_descriptor(&name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        encoder
            .encode_descriptor(
                "tidemill_store_commits_waiting",
                "Commits that no transaction has begun with",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&(stats.waiting as i64))?;
        let histograms = [
            (
                "tidemill_store_commit_batch_size",
                "Commits that one transaction carried",
                buckets(&stats.batch_sizes, 1.0),
                stats.batch_size_sum as f64,
            ),
            (
                "tidemill_store_commit_latency_seconds",
                "From handing a batch to the store to its being durable",
                buckets(&stats.apply_micros, 1e6),
                stats.apply_nanos as f64 / 1e9,
            ),
        ];
        for (name, help, buckets, sum) in histograms {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder
                .encode_descriptor(name, help, None, MetricType::Histogram)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn queues(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut queues: BTreeMap<(String, String, &str), Totals> = BTreeMap::new();
        for queue in self.matching.queues() {
            // A namespace that is being deleted has no name any more.
            let Ok(namespace) = self.namespaces.by_id(&queue.queue.namespace) else {
                continue;
            };
            let task_type = match queue.queue.kind {
                1 => TaskType::Workflow,
                _ => TaskType::Activity,
            };
            let name = match queue.sticky {
                true => STICKY_QUEUES.to_owned(),
                false => queue.queue.name.to_string(),
            };
            let mut key = (namespace.name.to_string(), name, task_type.label());
            if queues.len() >= QUEUE_LABELS_MAX && !queues.contains_key(&key) {
                key = (OTHER_QUEUES.to_owned(), OTHER_QUEUES.to_owned(), key.2);
            }
            queues.entry(key).or_default().add(&queue);
        }
        let gauges: [(&str, &str, Figure); 3] = [
            (
                "approximate_backlog_count",
                "Tasks of a queue that wait for a worker",
                |totals| totals.backlog as f64,
            ),
            (
                "approximate_backlog_age_seconds",
                "How long the task at the head of a queue has waited",
                |totals| totals.age_seconds,
            ),
            (
                "open_polls",
                "Polls of a task queue that wait for a task",
                |totals| totals.polls as f64,
            ),
        ];
        for (name, help, value) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((namespace, taskqueue, task_type), totals) in &queues {
                let labels = QueueLabels {
                    namespace: namespace.clone(),
                    taskqueue: taskqueue.clone(),
                    task_type,
                };
                metric
                    .encode_family(&labels)?
                    .encode_gauge(&value(totals))?;
            }
        }
        Ok(())
    }
}

/// One of their figures.
type Figure = fn(&Totals) -> f64;

/// What the queues of one label have together.
#[derive(Default)]
struct Totals {
    backlog: i64,
    age_seconds: f64,
    polls: usize,
}

impl Totals {
    fn add(&mut self, queue: &QueueSummary) {
        self.backlog += queue.backlog_count;
        self.age_seconds = self.age_seconds.max(queue.backlog_age.as_secs_f64());
        self.polls += queue.polls;
    }
}

/// Upper bounds and counts, `scale` units of a bound being one shown.
fn buckets(histogram: &Histogram, scale: f64) -> Vec<(f64, u64)> {
    let bound = |n| Histogram::upper_bound(n).map_or(f64::INFINITY, |bound| bound as f64 / scale);
    let counts = histogram.buckets.iter().enumerate();
    counts.map(|(n, &count)| (bound(n), count)).collect()
}
