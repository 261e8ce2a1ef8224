use tidemill_device::Device;
use tidemill_device::simulated::{Injection, Settings, Simulated};

use super::figures::{BATCHERS_MAX, OTHERS};
use super::*;
use crate::slots::Gate;

/// The value of the line that begins so.
fn value(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|l| l.strip_prefix(line));
    let found = found.unwrap_or_else(|| panic!("no {line} in\n{text}"));
    found.trim().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn figures_of_a_device_are_those_of_the_device() {
    let device = Simulated::new(Settings {
        latency: Duration::from_millis(20),
        per_item: Duration::from_millis(1),
        ..Settings::default()
    });
    let metrics = Metrics::new();
    let name = device.name().to_owned();
    let executions = metrics.executions("accelerator", &name);
    let look = device.clone();
    metrics.watch("accelerator", move || Snapshot {
        devices: vec![DeviceNow {
            device: look.name().to_owned(),
            memory: look.memory().ok(),
            utilisation: look.utilisation(),
            ..DeviceNow::default()
        }],
        ..Snapshot::default()
    });
    for items in [32, 8, 32, 1] {
        let execution = executions.begin();
        device.execute(items).await.unwrap();
        execution.done(items);
    }
    device.inject(Injection::OutOfMemory { calls: 1 });
    let execution = executions.begin();
    device.execute(16).await.unwrap_err();
    drop(execution);
    let report = device.report();
    let text = metrics.encode();
    let labels = format!("{{class=\"accelerator\",device=\"{name}\"}}");
    let of = |metric: &str| value(&text, &format!("tidemill_device_{metric}{labels}"));
    assert_eq!(of("executions_total"), report.executions as f64);
    assert_eq!(of("items_total"), report.items as f64);
    assert_eq!(of("executions_failed_total"), report.failed as f64);
    assert_eq!((report.executions, report.items, report.failed), (4, 73, 1));
    assert_eq!(of("mean_batch"), 73.0 / 4.0);
    let busy = Duration::from_micros(report.busy_us).as_secs_f64();
    assert!((of("busy_seconds_total") - busy).abs() < 0.01, "{text}");
    assert!(of("idle_ratio") < 0.05, "{text}");
    let memory = device.memory().unwrap();
    assert_eq!(of("memory_total_bytes"), memory.total as f64);
    assert_eq!(of("memory_free_bytes"), memory.free as f64);
}

#[tokio::test(start_paused = true)]
async fn calls_at_the_same_time_are_busy_time_once() {
    let metrics = Metrics::new();
    let executions = metrics.executions("accelerator", "sim:0");
    let second = Duration::from_secs(1);
    let one = executions.begin();
    tokio::time::advance(second).await;
    let two = executions.begin();
    tokio::time::advance(second).await;
    one.done(1);
    tokio::time::advance(second).await;
    two.done(1);
    tokio::time::advance(second).await;
    let text = metrics.encode();
    let labels = "{class=\"accelerator\",device=\"sim:0\"}";
    let of = |metric: &str| value(&text, &format!("tidemill_device_{metric}{labels}"));
    assert_eq!(of("busy_seconds_total"), 3.0);
    assert_eq!(of("idle_ratio"), 0.25);
}

#[tokio::test]
async fn tasks_and_slots_are_counted_by_class() {
    let metrics = Metrics::new();
    let tasks = metrics.tasks("cpu");
    let slots = ClassSlots::new(4, Gate::open());
    let watched = slots.clone();
    metrics.watch("cpu", move || Snapshot {
        slots: Some(SlotsNow::from(&*watched)),
        ..Snapshot::default()
    });
    let permit = slots.enter().await;
    tasks.started(Some(SystemTime::now() - Duration::from_secs(2)));
    tasks.started(Some(SystemTime::now() + Duration::from_secs(60)));
    tasks.started(None);
    tasks.ended(Outcome::Succeeded, Duration::from_millis(30));
    tasks.ended(Outcome::Failed, Duration::from_secs(7200));
    tasks.ended(Outcome::Cancelled, Duration::ZERO);
    let text = metrics.encode();
    for (line, expected) in [
        ("tidemill_tasks_started_total{class=\"cpu\"}", 3.0),
        ("tidemill_tasks_succeeded_total{class=\"cpu\"}", 1.0),
        ("tidemill_tasks_failed_total{class=\"cpu\"}", 1.0),
        ("tidemill_tasks_cancelled_total{class=\"cpu\"}", 1.0),
        ("tidemill_task_seconds_count{class=\"cpu\"}", 3.0),
        (
            "tidemill_task_schedule_to_start_seconds_count{class=\"cpu\"}",
            2.0,
        ),
        (
            "tidemill_task_schedule_to_start_seconds_bucket{le=\"1.0\",class=\"cpu\"}",
            1.0,
        ),
        (
            "tidemill_task_schedule_to_start_seconds_bucket{le=\"2.5\",class=\"cpu\"}",
            2.0,
        ),
        ("tidemill_slots{class=\"cpu\"}", 4.0),
        ("tidemill_slots_used{class=\"cpu\"}", 1.0),
        ("tidemill_admissions_closed{class=\"cpu\"}", 0.0),
    ] {
        assert_eq!(value(&text, line), expected, "{line}");
    }
    slots.gate().set("cpu", Some("busy".to_owned()));
    drop(permit);
    let text = metrics.encode();
    assert_eq!(value(&text, "tidemill_slots_used{class=\"cpu\"}"), 0.0);
    assert_eq!(
        value(&text, "tidemill_admissions_closed{class=\"cpu\"}"),
        1.0
    );
}

#[test]
fn batchers_of_many_keys_share_a_label() {
    let metrics = Metrics::new();
    metrics.watch("accelerator", || Snapshot {
        batchers: (0..BATCHERS_MAX + 50)
            .map(|n| BatcherNow {
                batcher: format!("key-{n}"),
                batches: 2,
                items: 48,
                capacity: 64,
                queued: 1,
                oldest_wait: Duration::from_millis(n as u64),
                wait: Duration::from_millis(n as u64),
            })
            .collect(),
        ..Snapshot::default()
    });
    let text = metrics.encode();
    let of = |metric: &str, batcher: &str| {
        let labels = format!("{{class=\"accelerator\",batcher=\"{batcher}\"}}");
        value(&text, &format!("tidemill_{metric}{labels}"))
    };
    assert_eq!(of("batches_total", "key-0"), 2.0);
    assert_eq!(of("batch_items_total", "key-0"), 48.0);
    assert_eq!(of("batch_fill_ratio", "key-0"), 0.75);
    assert_eq!(of("batches_total", OTHERS), 100.0);
    assert_eq!(of("batch_queue", OTHERS), 50.0);
    assert_eq!(of("batch_oldest_wait_seconds", OTHERS), 0.149);
    let series = text
        .lines()
        .filter(|l| l.starts_with("tidemill_batches_total{"));
    assert_eq!(series.count(), BATCHERS_MAX + 1);
}
