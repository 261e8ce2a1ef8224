//! How SQLite carries the statements out: by which index, and without reading every row.

use super::fixture::Runs;
use super::{eight, schema};
use crate::visibility::{Sql, compile_count, compile_list};

fn explain(runs: &Runs, sql: &Sql) -> String {
    let text = format!("EXPLAIN QUERY PLAN {}", sql.text);
    let mut statement = runs.connection.prepare(&text).unwrap();
    let params = rusqlite::params_from_iter(&sql.params);
    let rows = statement.query_map(params, |row| row.get::<_, String>(3));
    rows.unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>()
        .join("\n")
}

/// What a plan must say, by the way it is carried out.
fn check(filter: &str, drive: bool, list: &[&str], count: &[&str]) {
    let runs = eight();
    let schema = schema();
    let compiled = compile_list(&schema, 1, filter, 10, None, &mut runs.probe(drive)).unwrap();
    let counted = compile_count(&schema, 1, filter, &mut runs.probe(drive)).unwrap();
    for (sql, expected) in [(compiled.sql, list), (counted.sql, count)] {
        let plan = explain(&runs, &sql);
        for line in expected {
            assert!(plan.contains(line), "{filter}: {line} is not in\n{plan}");
        }
        assert!(!plan.contains("SCAN e"), "{filter}:\n{plan}");
        assert!(!plan.contains("SCAN a"), "{filter}:\n{plan}");
        // A list that walks sorts nothing but runs that started and closed at the same instant.
        let sorts = plan.matches("USE TEMP B-TREE FOR ORDER BY").count();
        assert!(drive || sorts == 0, "{filter}:\n{plan}");
    }
}

#[test]
fn walks_follow_an_index() {
    const LIST: &str = "SEARCH e USING INDEX executions_list (namespace=?)";
    const ATTRIBUTE: &str =
        "USING COVERING INDEX attributes_run (run=? AND name=? AND namespace=? AND value=?)";
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("", &[LIST], &["COVERING INDEX executions_status"]),
        (
            "ExecutionStatus = 'Running'",
            &[LIST],
            &["COVERING INDEX executions_status (namespace=? AND status=?"],
        ),
        (
            "ExecutionStatus = 'Running' AND WorkflowType = 'Order'",
            &[LIST],
            &["COVERING INDEX executions_type (namespace=? AND workflow_type=? AND status=?"],
        ),
        (
            "StartTime > 5 AND CloseTime < 9",
            &["executions_list (namespace=? AND <expr><?)"],
            &["COVERING INDEX executions_list (namespace=? AND <expr><?)"],
        ),
        (
            "CloseTime BETWEEN 5 AND 9",
            &["executions_list (namespace=? AND <expr>>? AND <expr><?)"],
            &["COVERING INDEX executions_list"],
        ),
        ("Env = 'prod'", &[LIST, ATTRIBUTE], &[ATTRIBUTE]),
        (
            "Env != 'prod' OR NOT Tags = 'x'",
            &[LIST, "attributes_run (run=? AND name=? AND namespace=?"],
            &["COVERING INDEX executions_list"],
        ),
    ];
    for (filter, list, count) in rows {
        check(filter, false, list, count);
    }
}

#[test]
fn drives_start_from_the_condition() {
    const BY_RUN: &str = "SEARCH e USING INTEGER PRIMARY KEY (rowid=?)";
    let rows = [
        (
            "WorkflowId = 'order-1'",
            "executions_workflow (namespace=? AND workflow_id=?)",
        ),
        (
            "WorkflowId STARTS_WITH 'order'",
            "executions_workflow (namespace=? AND workflow_id>? AND workflow_id<?)",
        ),
        (
            "RunId = '00000000-0000-0000-0000-000000000003'",
            "executions_run_id (run_id=?)",
        ),
        (
            "ParentWorkflowId = 'order-1'",
            "executions_parent (namespace=? AND parent_workflow_id=?)",
        ),
        (
            "TemporalNamespaceDivision = 'TemporalScheduler' AND WorkflowId > ''",
            "executions_division (namespace=? AND division=?)",
        ),
        (
            "ExecutionStatus = 'Running' AND WorkflowType = 'Pay' AND StartTime > 3",
            "executions_type (namespace=? AND workflow_type=? AND status=? AND division=?)",
        ),
        (
            "WorkflowType = 'Pay' AND StartTime > 3",
            "executions_type (namespace=? AND workflow_type=?)",
        ),
        (
            "ExecutionStatus = 'Failed' AND StartTime > 3",
            "executions_status (namespace=? AND status=? AND division=?)",
        ),
        (
            "Env STARTS_WITH 'p'",
            "SEARCH a USING PRIMARY KEY (namespace=? AND name=? AND value>? AND value<?)",
        ),
        (
            "Env = 'prod'",
            "SEARCH a USING PRIMARY KEY (namespace=? AND name=? AND value=?)",
        ),
        (
            "Count > 3 AND Count < 9",
            "SEARCH a USING PRIMARY KEY (namespace=? AND name=? AND value>? AND value<?)",
        ),
        (
            "Env = 'nope' OR Tags = 'a'",
            "SEARCH a USING PRIMARY KEY (namespace=? AND name=? AND value=?)",
        ),
    ];
    for (filter, set) in rows {
        check(filter, true, &[BY_RUN, set], &[BY_RUN, set]);
    }
    // A count that an index answers alone starts from nothing else.
    for (filter, index) in [
        (
            "WorkflowType = 'Pay'",
            "COVERING INDEX executions_type (namespace=? AND workflow_type=?)",
        ),
        (
            "ExecutionStatus = 'Failed'",
            "COVERING INDEX executions_status (namespace=? AND status=? AND division=?)",
        ),
    ] {
        check(filter, true, &[BY_RUN], &[index]);
    }
}

/// Of several conditions, the one with the fewest runs drives.
#[test]
fn the_rarest_condition_drives() {
    let mut sizes = vec![900, 3, 500].into_iter();
    let mut probe = |_: &Sql| Ok(sizes.next().unwrap());
    let filter = "Env = 'common' AND Tags = 'rare' AND WorkflowType = 'x'";
    let query = compile_list(&schema(), 1, filter, 10, None, &mut probe).unwrap();
    let driver = query.sql.text.find("SELECT DISTINCT a.run").unwrap();
    assert!(driver < query.sql.text.find("EXISTS").unwrap());
    // It is not tested again: one EXISTS, for Env.
    assert_eq!(query.sql.text.matches("EXISTS").count(), 1);
}

/// Nothing is asked of the store when there is no choice.
#[test]
fn plans_without_a_choice_ask_nothing() {
    let mut probe = |sql: &Sql| panic!("asked {}", sql.text);
    for filter in [
        "",
        "StartTime > 5",
        "Env != 'x'",
        "CloseTime IS NULL OR Env = 'x'",
    ] {
        compile_list(&schema(), 1, filter, 10, None, &mut probe).unwrap();
    }
}
