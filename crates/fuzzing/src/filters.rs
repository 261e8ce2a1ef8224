//! List filters, from the text to the answer of SQLite.

use std::sync::OnceLock;

use bytes::Bytes;
use tidemill_store::sqlite::SqliteStore;
use tidemill_store::visibility::{self, Schema};
use tidemill_store::{
    AttributeType, AttributeValue, Commit, Error, Execution, NamespaceId, RunNo, RunWrite, Store,
};

use crate::input::Input;

const SPACE: NamespaceId = [1; 16];
const RUNS: i64 = 7;

fn schema() -> Schema {
    Schema::with_custom([
        ("B".to_owned(), AttributeType::Bool),
        ("I".to_owned(), AttributeType::Int),
        ("D".to_owned(), AttributeType::Double),
        ("T".to_owned(), AttributeType::Datetime),
        ("K".to_owned(), AttributeType::Keyword),
        ("L".to_owned(), AttributeType::KeywordList),
        ("X".to_owned(), AttributeType::Text),
    ])
}

fn run(number: i64) -> RunWrite {
    let closed = (number % 2 == 0).then_some(number * 1_000);
    let mut attributes = Vec::new();
    if number % 3 != 0 {
        let word = ["a", "b%", "c_d"][number as usize % 3];
        attributes = vec![
            ("B".to_owned(), AttributeValue::Bool(number % 4 == 0)),
            ("I".to_owned(), AttributeValue::Int(number - 3)),
            ("D".to_owned(), AttributeValue::Double(number as f64 / 2.0)),
            ("T".to_owned(), AttributeValue::Datetime(number * 1_000)),
            ("K".to_owned(), AttributeValue::Keyword(word.into())),
            (
                "L".to_owned(),
                AttributeValue::KeywordList(vec![word.into(), "z".into()]),
            ),
            (
                "X".to_owned(),
                AttributeValue::Text(format!("the {word} word")),
            ),
        ];
    }
    let execution = Execution {
        namespace: SPACE,
        workflow_id: format!("workflow-{}", number % 4).into(),
        run_id: (number as u128).to_be_bytes(),
        workflow_type: "Type".into(),
        task_queue: "queue".into(),
        status: 1 + i32::from(closed.is_some()),
        start_time: number * 10,
        execution_time: number * 10,
        close_time: closed,
        history_length: closed,
        history_size_bytes: closed,
        execution_duration: closed,
        state_transition_count: closed,
        attributes,
        ..Execution::default()
    };
    RunWrite {
        execution: Some(Box::new(execution)),
        ..RunWrite::new(RunNo(number))
    }
}

fn store() -> &'static SqliteStore {
    static STORE: OnceLock<SqliteStore> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = SqliteStore::memory().expect("memory opens");
        let commit = Commit {
            runs: (1..=RUNS).map(run).collect(),
            ..Commit::default()
        };
        store.apply(&[&commit]).expect("it fits");
        store
    })
}

/// Whether an answer tells the caller what is wrong with what it asked.
fn is_told(error: &Error) -> bool {
    matches!(error, Error::InvalidFilter(_) | Error::InvalidPageToken)
}

/// The first byte says how long a page token follows; the rest is the filter.
pub fn filters(data: &[u8]) {
    let mut input = Input(data);
    let forged = input.below(48);
    let forged = input.take(forged);
    let Ok(filter) = std::str::from_utf8(input.0) else {
        return;
    };
    let (schema, store) = (schema(), store());
    let valid = visibility::validate(&schema, filter);

    let mut listed = Vec::new();
    let mut page: Option<Bytes> = None;
    let pages = loop {
        match store.list(&schema, &SPACE, filter, 3, page.as_deref()) {
            Ok(found) => {
                listed.extend(found.executions.iter().map(|run| run.run));
                assert!(listed.len() <= RUNS as usize, "{filter:?} lists {listed:?}");
                page = found.next;
                if page.is_none() {
                    break Ok(());
                }
            }
            Err(error) => {
                assert!(is_told(&error), "{filter:?}: {error}");
                assert!(page.is_none(), "the first page was there: {error}");
                break Err(error);
            }
        }
    };
    match (&pages, &valid) {
        (Ok(()), Err(error)) => panic!("{filter:?} is listed, and not valid: {error}"),
        // What is valid alone is valid in parentheses.
        (Ok(()), Ok(())) => {
            let twice = format!("({filter}) AND ({filter})");
            if !filter.trim().is_empty() && twice.len() < 4_000 {
                let again = store.list(&schema, &SPACE, &twice, 100, None);
                match again {
                    Ok(again) => assert_eq!(again.executions.len(), listed.len(), "{twice:?}"),
                    // Each has its bounds.
                    Err(error) => assert!(is_told(&error), "{twice:?}: {error}"),
                }
            }
        }
        (Err(_), _) => {}
    }
    match store.count(&schema, &SPACE, filter) {
        Ok(count) => {
            let groups: i64 = count.groups.iter().map(|(_, n)| *n).sum();
            assert!(
                count.total <= RUNS && groups <= count.total,
                "{filter:?}: {count:?}"
            );
            if pages.is_ok() {
                assert_eq!(count.total, listed.len() as i64, "{filter:?}");
            }
        }
        Err(error) => {
            assert!(is_told(&error), "{filter:?}: {error}");
            assert!(
                pages.is_err(),
                "{filter:?} is listed, and not counted: {error}"
            );
        }
    }
    if let Err(error) = store.list(&schema, &SPACE, filter, 3, Some(forged)) {
        assert!(is_told(&error), "{filter:?} from {forged:?}: {error}");
    }
}
