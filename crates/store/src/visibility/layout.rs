//! What filters need of the tables: the indexes, and how an attribute is written.
//!
//! The compiler names indexes in its SQL (`INDEXED BY`), because SQLite without statistics picks
//! bad ones here. A missing index is therefore an error of the statement, never a slow query.

use rusqlite::types::Value;

use crate::AttributeValue;

/// The indexes that compiled filters use. Every one is worth its writes:
///
/// - `executions_workflow`, `executions_run_id`: find a run; also the current run of an id.
/// - `executions_list`: the order of every list. Status and division stand in it so that rows
///   that a filter on them drops are never read.
/// - `executions_status`, `executions_type`: counts by status, and the runs of a rare status or
///   type. They hold no time, so closing a run moves its entry only from status to status.
/// - `executions_division`: the server's own runs, which are few; other runs are not in it.
/// - `executions_parent`: the children of a run; runs without a parent are not in it.
/// - `attributes_run`: one attribute of a run, for tests along `executions_list`; also what
///   rewriting and deleting a run's attributes needs.
pub const INDEXES: &str = "\
CREATE INDEX executions_workflow ON executions(namespace, workflow_id);
CREATE INDEX executions_run_id ON executions(run_id);
CREATE INDEX executions_list ON executions(namespace, COALESCE(close_time, 9223372036854775807), start_time, status, division);
CREATE INDEX executions_status ON executions(namespace, status, division);
CREATE INDEX executions_type ON executions(namespace, workflow_type, status, division);
CREATE INDEX executions_division ON executions(namespace, division) WHERE division IS NOT NULL;
CREATE INDEX executions_parent ON executions(namespace, parent_workflow_id) WHERE parent_workflow_id IS NOT NULL;
CREATE INDEX attributes_run ON attributes(run, name);
";

/// When a run was closed, for ordering: open runs come after all closed ones. Must be written as
/// in `executions_list`, or SQLite does not recognise it.
pub(super) const SORT_TIME: &str = "COALESCE(e.close_time, 9223372036854775807)";
pub(super) const OPEN: i64 = i64::MAX;

/// The values of the attributes table's rows for one attribute of a run: one per scalar, one per
/// element of a KeywordList, one per token of a Text, without duplicates.
/// `TemporalNamespaceDivision` has no rows: it is the column `division`.
pub fn index_values(value: &AttributeValue) -> Vec<Value> {
    let texts = |texts: Vec<String>| texts.into_iter().map(Value::Text).collect();
    match value {
        AttributeValue::Bool(value) => vec![Value::Integer(i64::from(*value))],
        AttributeValue::Int(value) | AttributeValue::Datetime(value) => {
            vec![Value::Integer(*value)]
        }
        // SQLite has no NaN: it would become NULL, which the column refuses.
        AttributeValue::Double(value) if value.is_nan() => Vec::new(),
        AttributeValue::Double(value) => vec![Value::Real(*value)],
        AttributeValue::Keyword(value) => vec![Value::Text(value.clone())],
        AttributeValue::KeywordList(values) => {
            let mut values = values.clone();
            values.sort_unstable();
            values.dedup();
            texts(values)
        }
        AttributeValue::Text(value) => {
            let mut tokens = tokens(value);
            // A text of punctuation is still a value: the empty token, which nothing equals.
            if tokens.is_empty() {
                tokens.push(String::new());
            }
            texts(tokens)
        }
    }
}

/// The tokens of a text: maximal runs of letters and digits, in lower case, sorted, each once.
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|token| !token.is_empty())
        .map(str::to_lowercase)
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_tokens() {
        let rows: [(&str, &[&str]); 6] = [
            ("The quick, QUICK fox!", &["fox", "quick", "the"]),
            ("a-b_c.d2", &["a", "b", "c", "d2"]),
            ("Größe ÉTÉ", &["größe", "été"]),
            ("日本 語", &["日本", "語"]),
            ("... !?", &[]),
            ("", &[]),
        ];
        for (text, expected) in rows {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn values_become_rows() {
        let text = |text: &str| Value::Text(text.to_owned());
        let rows = [
            (AttributeValue::Bool(true), vec![Value::Integer(1)]),
            (AttributeValue::Int(-4), vec![Value::Integer(-4)]),
            (AttributeValue::Double(0.5), vec![Value::Real(0.5)]),
            (AttributeValue::Double(f64::NAN), vec![]),
            (AttributeValue::Datetime(9), vec![Value::Integer(9)]),
            (AttributeValue::Keyword(String::new()), vec![text("")]),
            (
                AttributeValue::KeywordList(vec!["b".into(), "a".into(), "b".into()]),
                vec![text("a"), text("b")],
            ),
            (AttributeValue::KeywordList(vec![]), vec![]),
            (
                AttributeValue::Text("b A".into()),
                vec![text("a"), text("b")],
            ),
            (AttributeValue::Text("!".into()), vec![text("")]),
        ];
        for (value, expected) in rows {
            assert_eq!(index_values(&value), expected, "{value:?}");
        }
    }
}
