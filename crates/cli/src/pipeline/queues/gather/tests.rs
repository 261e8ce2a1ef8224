use std::collections::HashMap;

use tidemill_proto::api::taskqueue::v1::{TaskQueueTypeInfo, TaskQueueVersionInfo};
use tidemill_proto::api::worker::v1::{PluginInfo, WorkerHostInfo, WorkerSlotsInfo};

use super::*;

fn stats(count: i64, age: i64, add: f32, dispatch: f32) -> TaskQueueStats {
    TaskQueueStats {
        approximate_backlog_count: count,
        approximate_backlog_age: Some(wkt::Duration {
            seconds: age,
            nanos: 500_000_000,
        }),
        tasks_add_rate: add,
        tasks_dispatch_rate: dispatch,
        ..Default::default()
    }
}

#[test]
fn both_modes_say_the_same() {
    let poller = PollerInfo {
        identity: "w".to_owned(),
        ..Default::default()
    };
    let default = queue(
        "cpu",
        DescribeTaskQueueResponse {
            pollers: vec![poller.clone()],
            stats: Some(stats(5, 2, 0.1, 0.2)),
            ..Default::default()
        },
    );
    let info = TaskQueueTypeInfo {
        pollers: vec![poller],
        stats: Some(stats(5, 2, 0.1, 0.2)),
    };
    let version = TaskQueueVersionInfo {
        types_info: HashMap::from([(TaskQueueType::Activity as i32, info)]),
        ..Default::default()
    };
    let enhanced = DescribeTaskQueueResponse {
        versions_info: HashMap::from([(String::new(), version)]),
        ..Default::default()
    };
    assert_eq!(queue_enhanced("cpu", &enhanced), default);
    assert_eq!((default.backlog, default.backlog_age_seconds), (5, 2.5));
    assert_eq!((default.add_rate, default.dispatch_rate), (0.1, 0.2));
    assert_eq!(default.pollers.len(), 1);
    // Approximate figures: an age without tasks is none.
    let drained = queue(
        "cpu",
        DescribeTaskQueueResponse {
            stats: Some(stats(-1, 30, 0.0, 0.0)),
            ..Default::default()
        },
    );
    assert_eq!((drained.backlog, drained.backlog_age_seconds), (0, 0.0));
}

#[test]
fn a_worker_is_silent_after_two_heartbeats() {
    use WorkerStatus::{Running, Shutdown, ShuttingDown, Unspecified};
    for (said, ago, interval, expected) in [
        (Running, 1.0, Some(5.0), Status::Running),
        (Running, 14.0, Some(5.0), Status::Running),
        (Running, 16.0, Some(5.0), Status::Silent),
        (Running, 100.0, None, Status::Running),
        (Running, 130.0, None, Status::Silent),
        // The engine has marked it.
        (Unspecified, 11.0, Some(5.0), Status::Silent),
        (ShuttingDown, 1.0, Some(5.0), Status::Draining),
        (Shutdown, 1.0, Some(5.0), Status::Stopped),
    ] {
        assert_eq!(status(said, ago, interval), expected, "{said:?} {ago}");
    }
}

#[test]
fn a_heartbeat_becomes_a_row() {
    let device = Advertised {
        name: "nvml:0".to_owned(),
        memory: 80 << 30,
        kind: "nvml".to_owned(),
    };
    let (name, version) = device.to_plugin();
    let slots = |used, free| {
        Some(WorkerSlotsInfo {
            current_used_slots: used,
            current_available_slots: free,
            ..Default::default()
        })
    };
    let beat = WorkerHeartbeat {
        worker_identity: "w".to_owned(),
        task_queue: "accelerator".to_owned(),
        host_info: Some(WorkerHostInfo {
            host_name: "node".to_owned(),
            process_id: "7".to_owned(),
            current_host_cpu_usage: 0.5,
            ..Default::default()
        }),
        status: WorkerStatus::Running as i32,
        sdk_name: "temporal-rust".to_owned(),
        sdk_version: "1".to_owned(),
        activity_task_slots_info: slots(3, 5),
        workflow_task_slots_info: slots(1, 9),
        plugins: vec![PluginInfo { name, version }],
        ..Default::default()
    };
    let row = worker(beat.clone());
    assert_eq!((row.slots_used, row.slots_free), (3, 5));
    assert_eq!((row.host.as_str(), row.process.as_str()), ("node", "7"));
    assert_eq!(row.devices, ["nvml:0 80 GiB"]);
    assert_eq!((row.cpu, row.sdk.as_str()), (0.5, "temporal-rust 1"));
    let interpreter = worker(WorkerHeartbeat {
        task_queue: TASK_QUEUE.to_owned(),
        ..beat
    });
    assert_eq!((interpreter.slots_used, interpreter.slots_free), (1, 9));
}
