use super::super::parser::parse;
use super::*;

fn schema() -> Schema {
    use AttributeType::*;
    let custom = [
        ("B", Bool),
        ("I", Int),
        ("D", Double),
        ("T", Datetime),
        ("K", Keyword),
        ("L", KeywordList),
        ("X", Text),
    ];
    custom
        .into_iter()
        .map(|(name, kind)| (name.to_owned(), kind))
        .collect()
}

fn outcome(filter: &str) -> Result<Checked, String> {
    match parse(filter).and_then(|query| check(&schema(), query)) {
        Ok(checked) => Ok(checked),
        Err(Error::InvalidFilter(message)) => Err(message),
        Err(other) => panic!("{filter}: {other}"),
    }
}

#[test]
fn every_operator_on_every_type() {
    // Which operators a type has, and which literals: one row per type.
    const OPERATORS: [&str; 10] = [
        "= $",
        "!= $",
        "< $",
        ">= $",
        "IN ($, $)",
        "NOT IN ($)",
        "BETWEEN $ AND $",
        "STARTS_WITH $",
        "IS NULL",
        "IS NOT NULL",
    ];
    const LITERALS: [&str; 6] = ["true", "1", "1.5", "'x'", "'2026-01-01T00:00:00Z'", "'1s'"];
    let rows = [
        ("B", "yyyyyy--yy", "y-----"),
        ("I", "yyyyyyy-yy", "-yy---"),
        ("D", "yyyyyyy-yy", "-yy---"),
        ("T", "yyyyyyy-yy", "-y--y-"),
        ("K", "yyyyyyyyyy", "---yyy"),
        ("L", "yy--yy--yy", "---yyy"),
        ("X", "yy------yy", "---yyy"),
        ("ExecutionDuration", "yyyyyyy-yy", "-y---y"),
        ("HistoryLength", "yyyyyyy-yy", "-yy---"),
        ("StartTime", "yyyyyyy-yy", "-y--y-"),
        ("WorkflowId", "yyyyyyyyyy", "---yyy"),
    ];
    for (name, operators, literals) in rows {
        for (operator, allowed) in OPERATORS.iter().zip(operators.chars()) {
            for (literal, typed) in LITERALS.iter().zip(literals.chars()) {
                let filter = format!("{name} {}", operator.replace('$', literal));
                let fits = typed == 'y' || !operator.contains('$');
                let expected = allowed == 'y' && fits;
                let found = outcome(&filter);
                assert_eq!(found.is_ok(), expected, "{filter}: {found:?}");
            }
        }
    }
}

#[test]
fn mistakes_are_explained() {
    let rows = [
        (
            "Workflowtype = 'x'",
            "at position 1: `Workflowtype` is not a search attribute: did you mean WorkflowType?",
        ),
        (
            "Colour = 'x'",
            "at position 1: `Colour` is not a search attribute",
        ),
        (
            "K = 'x' AND I = '5'",
            "at position 17: I is Int, not '5': write a number, without quotes",
        ),
        (
            "B = 'true'",
            "at position 5: B is Bool, not 'true': write true or false, without quotes",
        ),
        (
            "K = 5",
            "at position 5: K is Keyword, not 5: write text between quotes",
        ),
        (
            "T = 'yesterday'",
            "at position 5: 'yesterday' is not a time: write '2026-01-31T12:00:00Z' or nanoseconds since 1970",
        ),
        (
            "ExecutionDuration > 'long'",
            "at position 21: 'long' is not a duration: write '1h30m', '01:30:00' or nanoseconds",
        ),
        (
            "ExecutionStatus = 'running'",
            "at position 19: 'running' is no execution status: did you mean 'Running'?",
        ),
        (
            "ExecutionStatus = 99",
            "at position 19: 99 is no execution status: there are Running, Completed, Failed, Canceled, Terminated, ContinuedAsNew, TimedOut, Paused",
        ),
        (
            "ExecutionStatus STARTS_WITH 'R'",
            "at position 17: STARTS_WITH does not work on ExecutionStatus (Keyword): it has =, !=, <, <=, >, >=, IN, BETWEEN, IS NULL",
        ),
        (
            "L > 'x'",
            "at position 3: > does not work on L (KeywordList): it has =, !=, IN, IS NULL",
        ),
        (
            "X IN ('x')",
            "at position 3: IN does not work on X (Text): it has =, !=, IS NULL",
        ),
        (
            "X = '!?'",
            "at position 5: the text has no letter and no digit to search for",
        ),
        (
            "I = 1 GROUP BY WorkflowType",
            "at position 16: GROUP BY WorkflowType is not supported: only ExecutionStatus and TemporalNamespaceDivision can be grouped",
        ),
    ];
    for (filter, expected) in rows {
        assert_eq!(outcome(filter).unwrap_err(), expected, "{filter}");
    }
    let words: Vec<String> = (0..VALUES_MAX + 1).map(|n| n.to_string()).collect();
    assert!(outcome(&format!("X = '{}'", words.join(" "))).is_err());
}

#[test]
fn not_is_pushed_down() {
    let rows = [
        ("NOT I = 1", "I != 1"),
        ("NOT I < 1", "I >= 1"),
        ("NOT I BETWEEN 1 AND 2", "I NOT BETWEEN 1 AND 2"),
        ("NOT (I = 1 AND D = 2)", "I != 1 OR D != 2"),
        ("NOT (I = 1 OR NOT D = 2)", "I != 1 AND D = 2"),
        ("NOT NOT K IS NULL", "K IS NULL"),
        ("NOT K IS NULL", "K IS NOT NULL"),
        ("NOT K NOT IN ('x')", "K = 'x'"),
        ("NOT (NOT K STARTS_WITH 'x')", "K STARTS_WITH 'x'"),
        ("K = 'a' OR K IN ('b', 'c')", "K IN ('a', 'b', 'c')"),
        ("I = 1 AND (I = 2 AND D = 3)", "I = 1 AND I = 2 AND D = 3"),
        (
            "I >= 1 AND K = 'x' AND I <= 2",
            "I BETWEEN 1 AND 2 AND K = 'x'",
        ),
        ("I < 1 AND NOT I <= 0 ", "NOT (I >= 1 OR I <= 0)"),
        ("ExecutionStatus = 'Running'", "ExecutionStatus = 1"),
        (
            "ScheduleId = 'a'",
            "WorkflowId = 'temporal-sys-scheduler:a'",
        ),
    ];
    for (filter, expected) in rows {
        let (found, same) = (outcome(filter).unwrap(), outcome(expected).unwrap());
        assert_eq!(found.filter, same.filter, "{filter}");
    }
}

#[test]
fn prefixes_end() {
    let rows = [
        ("a", Some("b")),
        ("az", Some("a{")),
        ("a\u{d7ff}", Some("a\u{e000}")),
        ("a\u{10ffff}\u{10ffff}", Some("b")),
        ("\u{10ffff}", None),
        ("", None),
    ];
    for (prefix, expected) in rows {
        assert_eq!(after_prefix(prefix).as_deref(), expected, "{prefix:?}");
    }
}

#[test]
fn a_mentioned_division_is_noticed() {
    let rows = [
        ("", false),
        ("K = 'x'", false),
        ("TemporalNamespaceDivision = 'x'", true),
        ("K = 'x' OR NOT NamespaceDivision IS NULL", true),
        ("GROUP BY TemporalNamespaceDivision", true),
        ("GROUP BY ExecutionStatus", false),
    ];
    for (filter, expected) in rows {
        assert_eq!(
            outcome(filter).unwrap().mentions_division,
            expected,
            "{filter}"
        );
    }
}
