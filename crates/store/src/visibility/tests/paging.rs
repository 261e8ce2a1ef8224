//! Pages: every run once, in order, whatever happens between them.

use super::fixture::{Runs, run};
use crate::{AttributeValue, Error};

/// Many runs with equal times, so that every part of the order decides somewhere.
fn hundreds() -> Runs {
    let rows = (1..=300).map(|number| {
        let row = run(number)
            .start(number / 7)
            .with("Env", AttributeValue::Keyword("x".into()));
        match number % 3 {
            0 => row,
            _ => row.closed(2, 100 + number / 11),
        }
    });
    Runs::new(rows.collect())
}

fn pages(runs: &Runs, filter: &str, size: usize, drive: bool) -> Vec<i64> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let page = runs.page(filter, size, token.as_deref(), drive).unwrap();
        assert!(page.executions.len() <= size);
        found.extend(page.executions.iter().map(|execution| execution.run.0));
        token = page.next;
        if token.is_none() {
            return found;
        }
        // A page that is followed by another is full.
        assert_eq!(page.executions.len(), size);
    }
}

#[test]
fn pages_join_to_the_whole_list() {
    let runs = hundreds();
    for filter in [
        "",
        "Env = 'x'",
        "ExecutionStatus = 'Running'",
        "StartTime > 3 OR Env = 'y'",
    ] {
        let whole = runs.list(filter, true);
        assert!(whole.len() > 90);
        for size in [1, 2, 7, 100, 299, 300, 301] {
            for drive in [true, false] {
                assert_eq!(
                    pages(&runs, filter, size, drive),
                    whole,
                    "{filter} by {size}"
                );
            }
        }
    }
}

#[test]
fn runs_that_come_between_pages_repeat_nothing() {
    let mut runs = hundreds();
    let before = runs.list("", true);
    let mut found = Vec::new();
    let mut token = None;
    let mut next_run = 1_000;
    loop {
        let page = runs.page("", 20, token.as_deref(), true).unwrap();
        found.extend(page.executions.iter().map(|execution| execution.run.0));
        for row in [
            run(next_run).start(10),
            run(next_run + 1).start(5).closed(2, 105),
        ] {
            runs.insert(row);
        }
        next_run += 2;
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    let mut once = found.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), found.len());
    assert!(before.iter().all(|run| found.contains(run)));
}

#[test]
fn a_token_is_good_for_its_filter_only() {
    let runs = hundreds();
    let page = runs.page("Env = 'x'", 10, None, true).unwrap();
    let token = page.next.unwrap();
    assert!(runs.page("Env = 'x'", 10, Some(&token), false).is_ok());
    let refused: [(&str, &[u8]); 5] = [
        ("", &token),
        ("Env = 'y'", &token),
        ("Env = 'x'", b""),
        ("Env = 'x'", b"garbage"),
        ("Env = 'x'", &[1; 33]),
    ];
    for (filter, token) in refused {
        let page = runs.page(filter, 10, Some(token), true);
        assert!(
            matches!(page, Err(Error::InvalidPageToken)),
            "{filter} {token:?}"
        );
    }
}

#[test]
fn a_page_holds_at_least_one_run() {
    let runs = hundreds();
    assert_eq!(runs.page("", 0, None, true).unwrap().executions.len(), 1);
    assert_eq!(
        runs.page("", usize::MAX, None, true)
            .unwrap()
            .executions
            .len(),
        300
    );
}
