//! Filters from text to rows, on a real SQLite.

mod fixture;
mod hostile;
mod oracle;
mod paging;
mod plans;
mod random;

use fixture::{Runs, run};

use super::Schema;
use crate::{AttributeType, AttributeValue, Error};

/// The custom attributes of all tests: one of each type.
fn schema() -> Schema {
    use AttributeType::*;
    let custom = [
        ("Urgent", Bool),
        ("Count", Int),
        ("Score", Double),
        ("Deadline", Datetime),
        ("Env", Keyword),
        ("my key", Keyword),
        ("Tags", KeywordList),
        ("Title", Text),
    ];
    custom
        .into_iter()
        .map(|(name, kind)| (name.to_owned(), kind))
        .collect()
}

/// Eight runs that differ in everything a filter can see.
fn eight() -> Runs {
    use AttributeValue::*;
    let tags = |tags: &[&str]| KeywordList(tags.iter().map(|tag| (*tag).to_owned()).collect());
    Runs::new(vec![
        run(1)
            .id("order-1")
            .kind("Order")
            .start(100)
            .with("Env", Keyword("prod".into())),
        run(2)
            .id("order-2")
            .kind("Order")
            .start(200)
            .closed(2, 260)
            .with("Env", Keyword("dev".into())),
        run(3)
            .id("order-3")
            .kind("Order")
            .start(300)
            .closed(3, 350)
            .with("Count", Int(5))
            .with("Score", Double(2.5)),
        run(4)
            .id("pay-1")
            .kind("Pay")
            .start(300)
            .closed(2, 350)
            .with("Urgent", Bool(true))
            .with("Tags", tags(&["a", "b"])),
        run(5)
            .id("pay-2")
            .kind("Pay")
            .start(400)
            .with("Urgent", Bool(false))
            .with("Tags", tags(&["b", "c"]))
            .with("my key", Keyword("O'Brien \"x\"".into())),
        run(6)
            .id("größe")
            .kind("日本")
            .start(500)
            .closed(7, 600)
            .with("Title", Text("The quick brown Fox".into()))
            .with("Deadline", Datetime(1_000)),
        run(7)
            .id("PAY-3")
            .kind("pay")
            .start(600)
            .closed(4, 700)
            .child_of("order-1")
            .with("Title", Text("quick-silver".into())),
        run(8)
            .id("temporal-sys-scheduler:nightly")
            .kind("scheduler")
            .start(50)
            .division("TemporalScheduler")
            .with("TemporalSchedulePaused", Bool(true)),
    ])
}

#[test]
fn filters_find_runs() {
    // In list order: open runs by start time, closed ones by close time, newest first.
    let rows: &[(&str, &[i64])] = &[
        ("", &[5, 1, 7, 6, 4, 3, 2]),
        ("WorkflowId = 'order-1'", &[1]),
        ("WorkflowId = 'ORDER-1'", &[]),
        ("WorkflowId IN ('order-1', 'pay-2', 'nope')", &[5, 1]),
        ("WorkflowId STARTS_WITH 'order-'", &[1, 3, 2]),
        ("WorkflowId NOT STARTS_WITH 'order-'", &[5, 7, 6, 4]),
        ("WorkflowId STARTS_WITH ''", &[5, 1, 7, 6, 4, 3, 2]),
        ("WorkflowId STARTS_WITH 'gr%'", &[]),
        ("WorkflowId = 'größe'", &[6]),
        ("WorkflowType = '日本'", &[6]),
        (
            "WorkflowType = \"Order\" AND ExecutionStatus = 'Running'",
            &[1],
        ),
        (
            "WorkflowType != 'Order' AND NOT ExecutionStatus = 'Running'",
            &[7, 6, 4],
        ),
        ("WorkflowType > 'Order' AND WorkflowType <= 'Pay'", &[5, 4]),
        ("ExecutionStatus = 1", &[5, 1]),
        ("ExecutionStatus IN ('Completed', 3)", &[4, 3, 2]),
        (
            "ExecutionStatus NOT IN ('Completed', 'Running')",
            &[7, 6, 3],
        ),
        (
            "ExecutionStatus = 'WORKFLOW_EXECUTION_STATUS_TIMED_OUT'",
            &[6],
        ),
        ("ExecutionStatus >= 'Failed'", &[7, 6, 3]),
        ("StartTime >= 300 AND StartTime < 500", &[5, 4, 3]),
        ("StartTime BETWEEN 200 AND 300", &[4, 3, 2]),
        ("StartTime NOT BETWEEN 200 AND 400", &[1, 7, 6]),
        ("StartTime <= '1970-01-01T00:00:00.0000001Z'", &[1]),
        ("CloseTime IS NULL", &[5, 1]),
        ("CloseTime IS NOT NULL", &[7, 6, 4, 3, 2]),
        ("CloseTime > 350", &[7, 6]),
        ("CloseTime < '9999-12-31T00:00:00Z'", &[7, 6, 4, 3, 2]),
        ("NOT CloseTime > 350", &[4, 3, 2]),
        ("CloseTime != 350", &[7, 6, 2]),
        ("CloseTime IN (350, 700)", &[7, 4, 3]),
        ("ExecutionDuration = '50ns'", &[4, 3]),
        ("ExecutionDuration > 50", &[7, 6, 2]),
        ("ExecutionDuration <= '00:00:01'", &[7, 6, 4, 3, 2]),
        ("HistoryLength IS NULL", &[5, 1]),
        ("ParentWorkflowId = 'order-1'", &[7]),
        (
            "ParentWorkflowId IS NULL AND WorkflowId STARTS_WITH 'P'",
            &[],
        ),
        ("ParentWorkflowId != 'order-2'", &[7]),
        ("RunId = '00000000-0000-0000-0000-000000000003'", &[3]),
        (
            "RunId IN ('00000000-0000-0000-0000-000000000003', 'x')",
            &[3],
        ),
        (
            "RunId != '00000000-0000-0000-0000-000000000003'",
            &[5, 1, 7, 6, 4, 2],
        ),
        ("RunId = 'x'", &[]),
        ("RunId != 'x'", &[5, 1, 7, 6, 4, 3, 2]),
        ("RunId STARTS_WITH '00000000-0000-'", &[5, 1, 7, 6, 4, 3, 2]),
        ("RunId STARTS_WITH '1'", &[]),
        ("RunId NOT STARTS_WITH '0'", &[]),
        ("RunId > '00000000-0000-0000-0000-000000000005'", &[7, 6]),
        // Attributes: a missing value is neither equal nor different.
        ("Env = 'prod'", &[1]),
        ("Env != 'prod'", &[2]),
        ("NOT Env = 'prod'", &[2]),
        ("NOT Env != 'prod'", &[1]),
        ("Env IN ('prod', 'dev')", &[1, 2]),
        ("Env NOT IN ('prod')", &[2]),
        ("Env IS NULL", &[5, 7, 6, 4, 3]),
        ("NOT Env IS NULL", &[1, 2]),
        ("Env STARTS_WITH 'd' OR Env = 'prod'", &[1, 2]),
        ("Env > 'a' AND Env < 'e'", &[2]),
        ("Env BETWEEN 'dev' AND 'prod'", &[1, 2]),
        ("Env NOT BETWEEN 'e' AND 'z'", &[2]),
        ("Env = 'Prod'", &[]),
        ("`my key` = 'O''Brien \"x\"'", &[5]),
        ("`my key` = \"O'Brien \"\"x\"\"\"", &[5]),
        ("Count = 5", &[3]),
        ("Count = 5.0", &[3]),
        ("Count > 4.5", &[3]),
        ("Count < 5", &[]),
        ("Score = 2.5", &[3]),
        ("Score > 2", &[3]),
        ("Score NOT BETWEEN 1 AND 2", &[3]),
        ("Urgent = true", &[4]),
        ("Urgent != true", &[5]),
        ("Urgent IN (true, false)", &[5, 4]),
        ("Urgent < true", &[5]),
        ("Deadline = '1970-01-01T00:00:00.000001Z'", &[6]),
        ("Deadline BETWEEN 999 AND 1001", &[6]),
        // Sets: "none of its elements" holds for a set without elements.
        ("Tags = 'b'", &[5, 4]),
        ("Tags != 'b'", &[1, 7, 6, 3, 2]),
        ("Tags IN ('a', 'c')", &[5, 4]),
        ("Tags NOT IN ('c')", &[1, 7, 6, 4, 3, 2]),
        ("NOT Tags = 'a' AND Tags = 'b'", &[5]),
        ("Tags IS NULL", &[1, 7, 6, 3, 2]),
        ("Tags IS NOT NULL", &[5, 4]),
        ("Title = 'QUICK'", &[7, 6]),
        ("Title = 'fox silver'", &[7, 6]),
        ("Title = 'qui'", &[]),
        ("Title != 'fox'", &[5, 1, 7, 4, 3, 2]),
        ("Title IS NOT NULL", &[7, 6]),
        // Hidden runs show only to those who ask for them.
        ("WorkflowType = 'scheduler'", &[]),
        ("TemporalNamespaceDivision = 'TemporalScheduler'", &[8]),
        ("NamespaceDivision IS NOT NULL", &[8]),
        (
            "TemporalNamespaceDivision IS NULL OR TemporalNamespaceDivision IS NOT NULL",
            &[5, 1, 8, 7, 6, 4, 3, 2],
        ),
        (
            "NamespaceDivision = 'TemporalScheduler' AND ScheduleId = 'nightly'",
            &[8],
        ),
        (
            "NamespaceDivision = 'TemporalScheduler' AND ScheduleId STARTS_WITH 'night'",
            &[8],
        ),
        (
            "NamespaceDivision = 'TemporalScheduler' AND ScheduleId != 'nightly'",
            &[],
        ),
        (
            "TemporalNamespaceDivision = 'TemporalScheduler' AND SchedulePaused = true",
            &[8],
        ),
        // Logic.
        ("Env = 'prod' OR Tags = 'a' OR Count = 5", &[1, 4, 3]),
        (
            "(Env = 'prod' AND Tags = 'a') OR (Count = 5 AND Score > 1)",
            &[3],
        ),
        ("NOT (Env = 'prod' OR WorkflowType = 'Pay')", &[2]),
        ("NOT (NOT Tags = 'a' OR NOT Urgent = true)", &[4]),
        ("Env = 'prod' AND Env = 'dev'", &[]),
    ];
    let runs = eight();
    for (filter, expected) in rows {
        // Both ways to carry a filter out.
        for drive in [true, false] {
            assert_eq!(
                runs.list(filter, drive),
                *expected,
                "{filter} (driven: {drive})"
            );
            assert_eq!(
                runs.count(filter, drive),
                expected.len() as i64,
                "{filter} (driven: {drive})"
            );
        }
    }
}

#[test]
fn counts_are_grouped() {
    let runs = eight();
    let rows: &[(&str, &[(&str, i64)])] = &[
        (
            "GROUP BY ExecutionStatus",
            &[
                ("Running", 2),
                ("Completed", 2),
                ("Failed", 1),
                ("Canceled", 1),
                ("TimedOut", 1),
            ],
        ),
        (
            "WorkflowType = 'Order' GROUP BY ExecutionStatus",
            &[("Running", 1), ("Completed", 1), ("Failed", 1)],
        ),
        (
            "Tags = 'b' group by `ExecutionStatus`",
            &[("Running", 1), ("Completed", 1)],
        ),
        ("WorkflowId = 'nope' GROUP BY ExecutionStatus", &[]),
        (
            "GROUP BY TemporalNamespaceDivision",
            &[("", 7), ("TemporalScheduler", 1)],
        ),
    ];
    for (filter, expected) in rows {
        for drive in [true, false] {
            let count = runs.count_by_group(filter, drive).unwrap();
            let groups: Vec<_> = count
                .groups
                .iter()
                .map(|(group, count)| match group {
                    AttributeValue::Keyword(name) => (name.as_str(), *count),
                    other => panic!("{filter}: {other:?}"),
                })
                .collect();
            assert_eq!(groups, *expected, "{filter}");
            assert_eq!(
                count.total,
                expected.iter().map(|group| group.1).sum::<i64>()
            );
        }
    }
    match runs.try_list("GROUP BY ExecutionStatus") {
        Err(Error::InvalidFilter(message)) => {
            assert_eq!(
                message,
                "GROUP BY ExecutionStatus is only supported when counting"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// A name may have meant another type once: its old rows are not found, whatever the operator.
#[test]
fn values_of_another_type_are_not_found() {
    let runs = Runs::new(vec![
        run(1).with("Count", AttributeValue::Keyword("zzz".into())),
        run(2).with("Env", AttributeValue::Int(3)),
    ]);
    for filter in [
        "Count > 0",
        "Count < 0",
        "Count != 3",
        "Count IS NOT NULL",
        "Count NOT BETWEEN 1 AND 2",
        "Env < 'a'",
        "Env > ''",
        "Env != 'x'",
        "Env IS NOT NULL",
        "Env STARTS_WITH ''",
    ] {
        for drive in [true, false] {
            assert_eq!(runs.list(filter, drive), [], "{filter}");
        }
    }
    assert_eq!(runs.count("Count IS NULL AND Env IS NULL", false), 2);
}

#[test]
fn namespaces_are_apart() {
    let runs = Runs::new(vec![
        run(1).with("Env", AttributeValue::Keyword("prod".into())),
        run(2)
            .namespace(2)
            .with("Env", AttributeValue::Keyword("prod".into())),
    ]);
    for filter in [
        "",
        "Env = 'prod'",
        "Env IS NOT NULL",
        "StartTime >= 0 OR Env = 'prod'",
    ] {
        for drive in [true, false] {
            assert_eq!(runs.list(filter, drive), [1], "{filter}");
            assert_eq!(runs.count(filter, drive), 1, "{filter}");
        }
    }
}

#[test]
fn a_valid_filter_can_be_joined_to_another() {
    let schema = schema();
    for filter in ["Env = 'a'", "Env = 'a' OR Count = 1", ""] {
        assert!(super::validate(&schema, filter).is_ok(), "{filter}");
    }
    for filter in [
        "Env = 'a') OR (Count = 1",
        "Env =",
        "Count = 1 GROUP BY ExecutionStatus",
    ] {
        assert!(super::validate(&schema, filter).is_err(), "{filter}");
    }
}
