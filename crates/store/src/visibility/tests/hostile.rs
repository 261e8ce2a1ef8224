//! What nobody should send: injection, garbage, extremes.

use super::fixture::{Runs, run};
use super::random::{Random, random_filter};
use super::{eight, schema};
use crate::visibility::{Sql, compile_count, compile_list};
use crate::{AttributeValue, Error};

const INJECTIONS: &[&str] = &[
    "' OR 1=1 --",
    "'; DROP TABLE executions; --",
    "x' UNION SELECT * FROM attributes --",
    "\\' OR 1=1 --",
    "\\\\' OR '1'='1",
    "\" OR \"\"=\"",
    "`; DELETE FROM executions; `",
    "?",
    "?1",
    ":name",
    "@p",
    "$1",
    "%",
    "/* x */",
    "\0",
    "x\0y",
    "char(39)",
    "\u{2019} OR 1=1",
    "🎉",
];

/// Whatever stands between quotes is found as itself and does nothing else.
#[test]
fn literals_are_only_values() {
    let rows = INJECTIONS.iter().enumerate().map(|(at, text)| {
        let text = AttributeValue::Keyword((*text).to_owned());
        run(at as i64 + 1).id(INJECTIONS[at]).with("Env", text)
    });
    let runs = Runs::new(rows.collect());
    for (at, text) in INJECTIONS.iter().enumerate() {
        let single = format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let double = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        for literal in [single, double] {
            for test in [
                "Env = ",
                "WorkflowId = ",
                "Env STARTS_WITH ",
                "WorkflowId BETWEEN ",
            ] {
                let mut filter = format!("{test}{literal}");
                if test.ends_with("BETWEEN ") {
                    filter = format!("{filter} AND {literal}");
                }
                for drive in [true, false] {
                    let found = runs.list(&filter, drive);
                    assert!(found.contains(&(at as i64 + 1)), "{filter}: {found:?}");
                    let is_prefix_of = INJECTIONS.iter().filter(|other| other.starts_with(text));
                    let limit = if test.contains("STARTS") {
                        is_prefix_of.count()
                    } else {
                        1
                    };
                    assert_eq!(found.len(), limit, "{filter}");
                }
            }
        }
    }
    assert_eq!(runs.count("", true), INJECTIONS.len() as i64);
}

/// The SQL text is made of our own words: what the client wrote is in the parameters.
#[test]
fn sql_text_holds_nothing_of_the_client() {
    let mut probes: Vec<Sql> = Vec::new();
    let filters = [
        "Env = 'marker'",
        "Env != \"marker\"",
        "WorkflowId STARTS_WITH 'marker'",
        "Env IN ('marker', 'marker2') OR Tags NOT IN ('marker')",
        "Title = 'marker marker2'",
        "ScheduleId = 'marker' AND Env BETWEEN 'marker' AND 'marker2'",
        "NOT (Env < 'marker' OR `my key` IS NULL)",
        "Count = 424242 AND Score > 424242.5",
        "TaskQueue = 'marker' AND StartTime > 424242",
    ];
    for filter in filters {
        let mut probe = |sql: &Sql| {
            probes.push(sql.clone());
            Ok(i64::from(filter.len() % 2 == 0) * 1_000_000)
        };
        let list = compile_list(&schema(), 1, filter, 10, None, &mut probe).unwrap();
        let count = compile_count(&schema(), 1, filter, &mut probe).unwrap();
        for sql in probes.drain(..).chain([list.sql, count.sql]) {
            for word in ["marker", "424242", "my key", "Env", "Title"] {
                assert!(!sql.text.contains(word), "{filter}: {}", sql.text);
            }
            assert_eq!(
                sql.text.matches('?').count(),
                sql.params.len(),
                "{}",
                sql.text
            );
        }
    }
}

/// A filter is refused with a reason or runs; it never panics and never breaks the SQL.
fn survives(runs: &Runs, filter: &str) -> bool {
    let outcome = match runs.try_list(filter) {
        Ok(_) => runs.count_by_group(filter, false).map(|_| true),
        Err(Error::InvalidFilter(_)) => Ok(false),
        Err(other) => Err(other),
    };
    outcome.unwrap_or_else(|error| panic!("{filter:?}: {error}"))
}

#[test]
fn random_text_never_panics() {
    const PIECES: &[&str] = &[
        "Env",
        "Count",
        "Tags",
        "Title",
        "WorkflowId",
        "RunId",
        "CloseTime",
        "ExecutionStatus",
        "TemporalNamespaceDivision",
        "`my key`",
        "`",
        "'",
        "\"",
        "\\",
        "'x'",
        "\"y\"",
        "1",
        "-",
        "1.5",
        "1e9",
        "true",
        "null",
        "=",
        "!=",
        "<>",
        "<",
        "<=",
        ">",
        ">=",
        "(",
        ")",
        ",",
        ";",
        "AND",
        "OR",
        "NOT",
        "IN",
        "BETWEEN",
        "STARTS_WITH",
        "IS",
        "LIKE",
        "GROUP",
        "ORDER",
        "BY",
        "LIMIT",
        "SELECT",
        "--",
        "/*",
        "*/",
        "?",
        ".",
        "é",
        "日",
        "🎉",
        "\u{0}",
        "\u{200b}",
        "\u{202e}",
        "\u{ffff}",
        " ",
        "\t",
        "\n",
    ];
    let runs = eight();
    let mut random = Random::new(7);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let pieces: Vec<_> = (0..random.below(12)).map(|_| random.pick(PIECES)).collect();
        let by = random.pick(&[" ", " ", ""]);
        accepted += usize::from(survives(&runs, &pieces.join(by)));
    }
    // Valid filters with a few characters changed come nearer to the edges.
    for _ in 0..20_000 {
        let mut chars: Vec<char> = random_filter(&mut random, 3).chars().collect();
        for _ in 0..random.below(3) {
            let at = random.below(chars.len());
            match random.below(3) {
                0 => chars.truncate(at.max(1)),
                1 => chars[at] = random.pick(PIECES).chars().next().unwrap(),
                _ => chars.insert(at, random.pick(PIECES).chars().next().unwrap()),
            }
        }
        accepted += usize::from(survives(&runs, &chars.iter().collect::<String>()));
    }
    for _ in 0..5_000 {
        let chars =
            (0..random.below(40)).filter_map(|_| char::from_u32(random.below(0x11_0000) as u32));
        survives(&runs, &chars.collect::<String>());
    }
    assert!(accepted > 5_000, "{accepted}");
}

/// The largest filters that are let through also get through SQLite.
#[test]
fn extremes_run() {
    let runs = eight();
    let repeat = |test: &str, times: usize, by: &str| vec![test; times].join(by);
    let values = |count: usize| {
        let values: Vec<String> = (0..count).map(|value| format!("'{value}'")).collect();
        values.join(",")
    };
    let words: Vec<String> = (0..9_000).map(|word| format!("w{word}")).collect();
    let accepted = [
        repeat("Env = 'x'", 1_000, " AND "),
        repeat("Env != 'x'", 1_000, " OR "),
        repeat("Tags != 'x'", 1_000, " AND "),
        repeat("(Env = 'x' AND Count > 1)", 400, " OR "),
        repeat("Env IS NULL", 1_000, " AND "),
        repeat("WorkflowId = 'order-1'", 1_000, " OR "),
        repeat("StartTime > 1", 1_000, " AND "),
        repeat("CloseTime NOT BETWEEN 1 AND 2", 1_000, " OR "),
        format!("WorkflowId IN ({})", values(10_000)),
        format!("Env NOT IN ({})", values(10_000)),
        format!("Title = '{}'", words.join(" ")),
        format!("{}Env = 'x'{}", "(".repeat(64), ")".repeat(64)),
        format!("{}Env = 'x'", "NOT ".repeat(64)),
        format!(
            "{}Env = 'x'{}",
            "(Count = 1 OR Count = 2 AND ".repeat(64),
            ")".repeat(64)
        ),
        format!("Env = '{}'", "x".repeat(200_000)),
    ];
    for filter in &accepted {
        for drive in [true, false] {
            let shown = &filter[..filter.len().min(60)];
            let found = runs.page(filter, 10, None, drive);
            assert!(found.is_ok(), "{shown}: {found:?}");
            assert!(runs.count_by_group(filter, drive).is_ok(), "{shown}");
        }
    }
    let refused = [
        "(".repeat(200_000),
        "NOT ".repeat(60_000),
        repeat("Env = 'x'", 1_001, " AND "),
        format!("WorkflowId IN ({})", values(10_001)),
        format!("Env = '{}'", "x".repeat(300_000)),
    ];
    for filter in &refused {
        let found = runs.try_list(filter);
        assert!(matches!(found, Err(Error::InvalidFilter(_))), "{found:?}");
        // A message is for reading: it does not repeat what was sent.
        assert!(found.unwrap_err().to_string().len() < 300);
    }
}
