//! That lists and counts reach the stored runs. The filter language has tests of its own.

use tidemill_store::visibility::Schema;
use tidemill_store::{AttributeType, AttributeValue, Error, Execution, Store};

use crate::backend::Backend;
use crate::fixture::*;

pub(crate) fn schema() -> Schema {
    let custom = [
        ("Color", AttributeType::Keyword),
        ("Tags", AttributeType::KeywordList),
        ("Note", AttributeType::Text),
        ("Size", AttributeType::Int),
        ("Ratio", AttributeType::Double),
        ("Good", AttributeType::Bool),
        ("Seen", AttributeType::Datetime),
    ];
    Schema::with_custom(custom.map(|(name, kind)| (name.to_owned(), kind)))
}

/// The runs that match, and whether there is another page.
pub(crate) fn list(store: &dyn Store, filter: &str) -> (Vec<i64>, bool) {
    let page = store.list(&schema(), &SPACE, filter, 100, None).unwrap();
    (
        page.executions.iter().map(|run| run.run.0).collect(),
        page.next.is_some(),
    )
}

fn attributed(run: i64, attributes: &[(&str, AttributeValue)]) -> Execution {
    Execution {
        attributes: attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        ..execution(run)
    }
}

fn keyword(value: &str) -> AttributeValue {
    AttributeValue::Keyword(value.into())
}

pub(crate) fn executions_are_listed_and_counted(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(
        store,
        vec![
            visible(1, closed(1, 0)),
            visible(2, execution(2)),
            visible(3, closed(3, 0)),
            visible(4, execution(4)),
        ],
    );
    // Open runs first, then by time, the newest first.
    assert_eq!(list(store, ""), (vec![4, 2, 3, 1], false));
    assert_eq!(list(store, "WorkflowId = 'workflow-3'").0, [3]);
    let page = store
        .list(&schema(), &SPACE, "ExecutionStatus = 'Completed'", 1, None)
        .unwrap();
    let listed = &page.executions[0];
    assert_eq!(
        (listed.run_id, &*listed.workflow_id, listed.status),
        (run_id(3), "workflow-3", 2)
    );
    assert_eq!(
        (listed.close_time, listed.history_length),
        (Some(3_500), Some(3))
    );
    assert_eq!(&listed.info[..], b"info of 3");
    let counted = store
        .count(&schema(), &SPACE, "GROUP BY ExecutionStatus")
        .unwrap();
    assert_eq!(counted.total, 4);
    assert_eq!(
        counted.groups,
        [(keyword("Running"), 2), (keyword("Completed"), 2)]
    );
    assert!(matches!(
        store.list(&schema(), &SPACE, "Nonsense = 1", 1, None),
        Err(Error::InvalidFilter(_))
    ));
    assert!(matches!(
        store.list(&schema(), &[9; 16], "Nonsense = 1", 1, None),
        Err(Error::InvalidFilter(_))
    ));
}

pub(crate) fn an_upsert_replaces_attributes(backend: &mut dyn Backend) {
    let store = backend.store();
    let list_of = |values: &[&str]| {
        AttributeValue::KeywordList(values.iter().map(|value| (*value).to_owned()).collect())
    };
    let first = attributed(
        1,
        &[
            ("Color", keyword("red")),
            ("Tags", list_of(&["a", "b", "a"])),
            ("Note", AttributeValue::Text("The quick fox".into())),
            ("Size", AttributeValue::Int(-3)),
            ("Ratio", AttributeValue::Double(-0.0)),
            ("Good", AttributeValue::Bool(true)),
            ("Seen", AttributeValue::Datetime(1_000_000_000)),
        ],
    );
    apply(store, vec![visible(1, first.clone())]);
    let matching = [
        "Color = 'red'",
        "Tags = 'a'",
        "Note = 'QUICK'",
        "Size = -3",
        "Ratio = 0",
        "Good = true",
        "Seen = '1970-01-01T00:00:01Z'",
    ];
    for filter in matching {
        assert_eq!(list(store, filter).0, [1], "{filter}");
    }
    // The same again, then with the row changed, then with other attributes, then with none.
    apply(store, vec![visible(1, first.clone())]);
    apply(
        store,
        vec![visible(
            1,
            Execution {
                status: 2,
                close_time: Some(9_999),
                ..first
            },
        )],
    );
    for filter in matching {
        assert_eq!(list(store, filter).0, [1], "{filter}");
    }
    apply(
        store,
        vec![visible(
            1,
            attributed(
                1,
                &[("Color", keyword("blue")), ("Tags", list_of(&["b", "c"]))],
            ),
        )],
    );
    for filter in matching {
        assert_eq!(list(store, filter).0, [] as [i64; 0], "{filter}");
    }
    assert_eq!(
        list(
            store,
            "Color = 'blue' AND Tags = 'b' AND Tags = 'c' AND CloseTime IS NULL"
        )
        .0,
        [1]
    );
    apply(store, vec![visible(1, execution(1))]);
    assert_eq!(list(store, "Color IS NULL AND Tags IS NULL").0, [1]);

    // The division hides a run from lists that do not ask for it.
    apply(
        store,
        vec![visible(
            1,
            attributed(1, &[("TemporalNamespaceDivision", keyword("scheduler"))]),
        )],
    );
    assert_eq!(list(store, "").0, [] as [i64; 0]);
    assert_eq!(
        list(store, "TemporalNamespaceDivision = 'scheduler'").0,
        [1]
    );
    apply(store, vec![visible(1, execution(1))]);
    assert_eq!(list(store, "").0, [1]);
}

pub(crate) fn pages_are_read_by_token(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(
        store,
        (1..=25)
            .map(|run| {
                visible(
                    run,
                    if run % 3 == 0 {
                        closed(run, 0)
                    } else {
                        execution(run)
                    },
                )
            })
            .collect(),
    );
    let all = list(store, "").0;
    assert_eq!(all.len(), 25);
    let mut read = Vec::new();
    let mut next = None;
    loop {
        let page = store
            .list(&schema(), &SPACE, "", 10, next.as_deref())
            .unwrap();
        assert!(page.executions.len() <= 10);
        read.extend(page.executions.iter().map(|run| run.run.0));
        // A run that starts meanwhile belongs before what was read.
        apply(
            store,
            vec![visible(
                100 + read.len() as i64,
                execution(100 + read.len() as i64),
            )],
        );
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(read, all);
    assert!(matches!(
        store.list(&schema(), &SPACE, "", 10, Some(b"nonsense")),
        Err(Error::InvalidPageToken)
    ));
}

pub(crate) fn namespaces_do_not_see_each_other(backend: &mut dyn Backend) {
    let store = backend.store();
    apply(
        store,
        vec![
            visible(1, execution(1)),
            visible(
                2,
                Execution {
                    namespace: OTHER_SPACE,
                    ..execution(2)
                },
            ),
        ],
    );
    assert_eq!(list(store, "").0, [1]);
    assert_eq!(store.count(&schema(), &OTHER_SPACE, "").unwrap().total, 1);
    assert_eq!(store.count(&schema(), &[9; 16], "").unwrap().total, 0);
}
