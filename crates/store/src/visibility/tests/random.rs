//! Random filters on random runs: SQL must find what the oracle finds, however it is planned.

use super::super::parser::parse;
use super::fixture::{Run, Runs, run};
use super::oracle::holds;
use crate::AttributeValue;

/// A small generator of random numbers (xorshift), so that a seed reproduces a failure.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const WORDS: &[&str] = &[
    "", "a", "ab", "abc", "b", "B", "größe", "日本", "z'z", "%", "_",
];

/// Few values, so that filters hit.
fn random_run(random: &mut Random, number: i64) -> Run {
    let start = random.below(40) as i64;
    let mut row = run(number)
        .id(random.pick(WORDS))
        .kind(random.pick(&["a", "b", "ab"]))
        .start(start);
    if random.chance(70) {
        row = row.closed(2 + random.below(6) as i64, start + random.below(20) as i64);
    }
    if random.chance(20) {
        row = row.child_of(random.pick(WORDS));
    }
    if random.chance(10) {
        row = row.division(random.pick(&["a", "b"]));
    }
    let words = |random: &mut Random| -> Vec<String> {
        (0..random.below(4))
            .map(|_| random.pick(WORDS).to_owned())
            .collect()
    };
    for name in [
        "Urgent", "Count", "Score", "Deadline", "Env", "Tags", "Title",
    ] {
        if random.chance(40) {
            continue;
        }
        let value = match name {
            "Urgent" => AttributeValue::Bool(random.chance(50)),
            "Count" => AttributeValue::Int(random.below(9) as i64 - 4),
            "Score" => AttributeValue::Double((random.below(17) as f64 - 8.0) / 2.0),
            "Deadline" => AttributeValue::Datetime(random.below(50) as i64),
            "Env" => AttributeValue::Keyword(random.pick(WORDS).to_owned()),
            "Tags" => AttributeValue::KeywordList(words(random)),
            _ => AttributeValue::Text(words(random).join(" ")),
        };
        row = row.with(name, value);
    }
    row
}

/// A random filter of the language, always valid.
pub(super) fn random_filter(random: &mut Random, depth: usize) -> String {
    match random.below(10) {
        0..3 if depth > 0 => {
            let terms = 2 + random.below(2);
            let by = random.pick(&[" AND ", " OR ", " and ", " || "]);
            let terms: Vec<_> = (0..terms)
                .map(|_| random_filter(random, depth - 1))
                .collect();
            format!("({})", terms.join(by))
        }
        3 if depth > 0 => format!("NOT {}", random_filter(random, depth - 1)),
        _ => random_test(random),
    }
}

fn random_test(random: &mut Random) -> String {
    const ORDERED: &[&str] = &[
        "=", "!=", "<>", "<", "<=", ">", ">=", "IN", "BETWEEN", "NULL",
    ];
    const KEYWORD: &[&str] = &[
        "=",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "IN",
        "BETWEEN",
        "NULL",
        "STARTS_WITH",
    ];
    let (name, operators) = match random.below(16) {
        0 => ("WorkflowId", KEYWORD),
        1 => ("RunId", KEYWORD),
        2 => ("WorkflowType", KEYWORD),
        3 => ("ExecutionStatus", ORDERED),
        4 => ("StartTime", ORDERED),
        5 => ("CloseTime", ORDERED),
        6 => ("HistoryLength", ORDERED),
        7 => ("ParentWorkflowId", KEYWORD),
        8 => ("TemporalNamespaceDivision", KEYWORD),
        9 => ("Urgent", &["=", "!=", "<", ">=", "IN", "NULL"][..]),
        10 => ("Count", ORDERED),
        11 => ("Score", ORDERED),
        12 => ("Deadline", ORDERED),
        13 => ("Env", KEYWORD),
        14 => ("Tags", &["=", "!=", "IN", "NULL"][..]),
        _ => ("Title", &["=", "!=", "NULL"][..]),
    };
    let not = random.pick(&["", " NOT"]);
    let value = |random: &mut Random| literal(random, name);
    match random.pick(operators) {
        "NULL" => format!("{name} IS{not} NULL"),
        "BETWEEN" => format!(
            "{name}{not} BETWEEN {} AND {}",
            value(random),
            value(random)
        ),
        "STARTS_WITH" => format!("{name}{not} STARTS_WITH {}", value(random)),
        "IN" => {
            let list: Vec<_> = (0..=random.below(3)).map(|_| value(random)).collect();
            format!("{name}{not} IN ({})", list.join(", "))
        }
        operator => format!("`{name}` {operator} {}", value(random)),
    }
}

fn literal(random: &mut Random, name: &str) -> String {
    match name {
        "Urgent" => random.pick(&["true", "false"]).to_owned(),
        "ExecutionStatus" => random
            .pick(&["'Running'", "'Completed'", "'Failed'", "6", "'TimedOut'"])
            .to_owned(),
        "StartTime" | "CloseTime" | "Deadline" | "HistoryLength" => random.below(60).to_string(),
        "Count" | "Score" => random
            .pick(&["-4", "-1", "0", "1", "1.0", "2.5", "-0.5", "+3"])
            .to_owned(),
        "Title" => random
            .pick(&["'a'", "'AB'", "'z'", "'GRÖSSE'", "'größe'", "'日本'"])
            .to_owned(),
        "RunId" => random
            .pick(&[
                "'00000000-0000-0000-0000-000000000010'",
                "'00000000-0000-0000-0000-0000000000a'",
                "'00000000-0000-0000-0000-00000000008g'",
                "'0'",
                "''",
                "'x'",
                "'00000000-0000-0000-0000-0000000000ffx'",
            ])
            .to_owned(),
        _ => format!("'{}'", random.pick(WORDS).replace('\'', "''")),
    }
}

#[test]
fn sql_agrees_with_the_oracle() {
    let mut hits = 0;
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let rows = (1..=250)
            .map(|number| random_run(&mut random, number))
            .collect();
        let runs = Runs::new(rows);
        for case in 0..400 {
            let filter = random_filter(&mut random, 4);
            let expr = parse(&filter).unwrap().expr.unwrap();
            let hidden = filter.contains("Division");
            let mut expected: Vec<&Run> = runs
                .rows
                .iter()
                .filter(|row| hidden || row.division.is_none())
                .filter(|row| holds(&expr, row) == Some(true))
                .collect();
            expected
                .sort_by_key(|row| (row.close_time.unwrap_or(i64::MAX), row.start_time, row.run));
            let expected: Vec<i64> = expected.iter().rev().map(|row| row.run).collect();
            hits += expected.len();

            for drive in [true, false] {
                let context = format!("seed {seed} case {case} (driven: {drive}): {filter}");
                assert_eq!(runs.list(&filter, drive), expected, "{context}");
                assert_eq!(
                    runs.count(&filter, drive),
                    expected.len() as i64,
                    "{context}"
                );
                let grouped = format!("{filter} GROUP BY ExecutionStatus");
                let groups = runs.count_by_group(&grouped, drive).unwrap();
                assert_eq!(groups.total, expected.len() as i64, "{context}");
            }
        }
    }
    // Were the filters to find nothing, agreement would prove nothing.
    assert!(hits > 50_000, "{hits}");
}
