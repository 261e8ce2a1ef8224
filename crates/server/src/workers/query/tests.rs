use std::sync::Arc;

use tidemill_proto::api::deployment::v1::WorkerDeploymentVersion;
use tidemill_proto::api::worker::v1::WorkerHostInfo;

use super::*;

const START: i64 = 1_767_225_600_000_000_000; // 2026-01-01T00:00:00Z

fn worker() -> Worker {
    let heartbeat = WorkerHeartbeat {
        worker_instance_key: "key-1".into(),
        worker_identity: "1@host".into(),
        host_info: Some(WorkerHostInfo {
            host_name: "host".into(),
            ..Default::default()
        }),
        task_queue: "it's".into(),
        deployment_version: Some(WorkerDeploymentVersion {
            deployment_name: "d".into(),
            build_id: "b".into(),
        }),
        sdk_name: "temporal-rust".into(),
        start_time: Some(Time(START).proto()),
        ..Default::default()
    };
    Worker {
        heartbeat: Arc::new(heartbeat),
        status: WorkerStatus::ShuttingDown,
    }
}

#[test]
fn queries_choose_workers() {
    let rows = [
        ("", true),
        ("  \n", true),
        ("WorkerInstanceKey = 'key-1'", true),
        ("WorkerInstanceKey='key-2'", false),
        ("WorkerInstanceKey != 'key-2'", true),
        ("WorkerInstanceKey <> 'key-1'", false),
        ("WorkerIdentity starts_with '1@'", true),
        ("WorkerIdentity NOT STARTS_WITH '1@'", false),
        ("HostName = \"host\"", true),
        ("TaskQueue = 'it''s'", true),
        (r"TaskQueue = 'it\'s'", true),
        ("`TaskQueue` = \"it's\"", true),
        ("DeploymentName = 'd' AND BuildId = 'b'", true),
        ("SdkName = 'temporal-rust'", true),
        ("SdkVersion IS NULL", true),
        ("SdkVersion is not null", false),
        ("SdkVersion != '1'", true),
        ("SdkName IS NOT NULL", true),
        // Statuses by either of their names.
        ("WorkerStatus = 'ShuttingDown'", true),
        ("WorkerStatus = 'WORKER_STATUS_SHUTTING_DOWN'", true),
        ("Status = 'Running'", false),
        ("status != 'WORKER_STATUS_RUNNING'", true),
        ("`Status` STARTS_WITH 'Shut'", true),
        // Times.
        ("StartTime = '2026-01-01T00:00:00Z'", true),
        ("StartTime = '2026-01-01T01:00:00+01:00'", true),
        ("StartTime = 1767225600000000000", true),
        ("StartTime != '2026-01-01T00:00:00Z'", false),
        ("StartTime < '2026-01-01T00:00:00Z'", false),
        ("StartTime <= '2026-01-01T00:00:00Z'", true),
        ("StartTime > '2025-12-31T23:59:59.999999999Z'", true),
        ("StartTime >= '2026-01-01T00:00:00.000000001Z'", false),
        ("StartTime < '9999-12-31T00:00:00Z'", true),
        ("StartTime > -1", true),
        (
            "StartTime BETWEEN '2026-01-01T00:00:00Z' AND '2026-01-02T00:00:00Z'",
            true,
        ),
        (
            "StartTime NOT BETWEEN '2026-01-01T00:00:00Z' AND '2026-01-02T00:00:00Z'",
            false,
        ),
        ("StartTime BETWEEN 1 AND 2 OR BuildId = 'b'", true),
        ("StartTime IS NULL", false),
        ("StartTime IS NOT NULL", true),
        // A time that is not there.
        ("HeartbeatTime IS NULL", true),
        ("HeartbeatTime IS NOT NULL", false),
        ("HeartbeatTime < '2030-01-01T00:00:00Z'", false),
        ("HeartbeatTime >= '2000-01-01T00:00:00Z'", false),
        ("HeartbeatTime != '2000-01-01T00:00:00Z'", false),
        ("HeartbeatTime NOT BETWEEN 1 AND 2", false),
        // AND binds tighter than OR.
        ("BuildId = 'b' OR BuildId = 'x' AND HostName = 'x'", true),
        ("(BuildId = 'b' OR BuildId = 'x') AND HostName = 'x'", false),
        ("HostName = 'x' and BuildId = 'x' or BuildId = 'b'", true),
        ("((HostName = 'host'))", true),
    ];
    let worker = worker();
    for (text, expected) in rows {
        assert_eq!(
            Query::parse(text).unwrap().matches(&worker),
            expected,
            "{text}"
        );
    }
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    let rows = [
        (
            "TaskQueue =",
            "12: expected a text between quotes but found the end",
        ),
        (
            "TaskQueue",
            "10: expected =, !=, STARTS_WITH or IS, for a text field, but found the end",
        ),
        (
            "TaskQueue = 5",
            "13: expected a text between quotes but found 5",
        ),
        (
            "TaskQueue = queue",
            "13: expected a text between quotes but found queue",
        ),
        ("TaskQueue = ''", "13: the value is empty; use IS NULL"),
        (
            "TaskQueue < 'a'",
            "11: expected =, !=, STARTS_WITH or IS, for a text field, but found <",
        ),
        (
            "TaskQueue NOT 'a'",
            "15: expected STARTS_WITH but found 'a'",
        ),
        ("TaskQueue IS 'a'", "14: expected NULL but found 'a'"),
        ("TaskQueue = 'a", "13: a closing ' is missing"),
        (r"TaskQueue = 'a\", "13: a closing ' is missing"),
        ("`TaskQueue = 'a'", "1: a closing ` is missing"),
        (
            "TaskQueue = 'a' BuildId = 'b'",
            "17: expected AND, OR or the end but found BuildId",
        ),
        ("TaskQueue = 'é' ; drop", "17: unexpected character ';'"),
        (
            "(TaskQueue = 'a'",
            "17: expected AND, OR or ) but found the end",
        ),
        (
            "TaskQueue = 'a')",
            "16: expected AND, OR or the end but found )",
        ),
        (
            "TaskQueue = 'a' AND",
            "20: expected a field but found the end",
        ),
        (
            "NOT TaskQueue = 'a'",
            "1: NOT may stand only before STARTS_WITH, BETWEEN and NULL",
        ),
        ("'a' = TaskQueue", "1: expected a field but found 'a'"),
        (
            "StartTime = 'yesterday'",
            "13: a time is written like '2026-01-31T12:00:00Z', or as nanoseconds since 1970",
        ),
        (
            "StartTime = '9999-13-31T00:00:00Z'",
            "13: a time is written like '2026-01-31T12:00:00Z', or as nanoseconds since 1970",
        ),
        (
            "StartTime = '2026-01-31'",
            "13: a time is written like '2026-01-31T12:00:00Z', or as nanoseconds since 1970",
        ),
        (
            "StartTime = -",
            "13: a time is written like '2026-01-31T12:00:00Z', or as nanoseconds since 1970",
        ),
        (
            "StartTime STARTS_WITH '2026'",
            "11: expected a comparison, BETWEEN or IS, for a time, but found STARTS_WITH",
        ),
        ("StartTime BETWEEN 1 2", "21: expected AND but found 2"),
        ("StartTime NOT = 1", "15: expected BETWEEN but found ="),
    ];
    for (text, expected) in rows {
        let expected = format!("invalid query at position {expected}");
        assert_eq!(
            Query::parse(text),
            Err(Error::InvalidArgument(expected)),
            "{text}"
        );
    }
    for unknown in ["taskqueue = 'a'", "Nope = 'a'", "select a"] {
        let Err(Error::InvalidArgument(message)) = Query::parse(unknown) else {
            panic!("{unknown}")
        };
        assert!(
            message.contains("unknown field")
                && message.contains("WorkerInstanceKey, WorkerIdentity"),
            "{message}"
        );
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let nested = |depth| format!("{}BuildId = 'b'{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Query::parse(&nested(DEPTH_MAX)).unwrap().matches(&worker()));
    assert!(Query::parse(&nested(DEPTH_MAX + 1)).is_err());
    assert!(Query::parse(&"(".repeat(QUERY_BYTES_MAX)).is_err());
    let long = vec!["BuildId = 'x'"; 900].join(" OR ");
    assert!(!Query::parse(&long).unwrap().matches(&worker()));
    assert!(Query::parse(&" ".repeat(QUERY_BYTES_MAX + 1)).is_err());
}
