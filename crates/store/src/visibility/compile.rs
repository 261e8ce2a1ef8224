//! A typed filter to SQL. Everything a client wrote becomes a parameter; the SQL text consists of
//! the constants in this file and in `plan`.
//!
//! A comparison is compiled in one of two forms. As a *test* it asks of the row `e` at hand
//! whether it fits. As a *set* it lists the runs that fit, from an index. `plan` decides which.

use std::ops::Bound;

use rusqlite::types::Value;

use super::check::{Filter, Predicate, Test};
use super::cursor::{self, Position};
use super::layout::{OPEN, SORT_TIME};
use super::schema::{Column, Target};
use crate::{AttributeType, Error};

/// Joining more terms than this nests them: SQLite limits the depth of an expression, and a chain
/// of a thousand `AND`s is a thousand deep.
const CHAIN_MAX: usize = 64;

/// SQL text and the values of its `?` parameters, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sql {
    pub text: String,
    pub params: Vec<Value>,
}

/// A compiled list. The statement yields one row more than the page holds when there are more.
/// Its columns: run, run_id, workflow_id, status, close_time, history_length, info, start_time.
#[derive(Clone, Debug)]
pub struct ListQuery {
    pub sql: Sql,
    /// Rows of one page.
    pub page_size: usize,
    pub(super) binding: u64,
}

impl ListQuery {
    /// The token for the page after the one whose last row stands at `last`.
    pub fn next_token(&self, last: Position) -> Vec<u8> {
        cursor::encode(self.binding, last)
    }
}

/// A compiled count. The statement yields the count, or rows of (group, count) when grouped.
#[derive(Clone, Debug)]
pub struct CountQuery {
    pub sql: Sql,
    pub group_by: Option<super::plan::Grouping>,
}

impl Sql {
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(super) fn param(&mut self, value: Value) -> &mut Self {
        self.text.push('?');
        self.params.push(value);
        self
    }

    pub(super) fn append(&mut self, other: &Sql) -> &mut Self {
        self.text.push_str(&other.text);
        self.params.extend(other.params.iter().cloned());
        self
    }
}

/// Compiles filters for one namespace.
#[derive(Clone, Copy)]
pub(super) struct Compiler {
    pub(super) namespace: i64,
}

impl Compiler {
    /// ` AND <filter>` for each filter.
    pub(super) fn and_all<'a>(self, sql: &mut Sql, filters: impl Iterator<Item = &'a Filter>) {
        let filters: Vec<&Filter> = filters.collect();
        if !filters.is_empty() {
            sql.push(" AND ");
            self.joined(sql, &filters, " AND ");
        }
    }

    fn joined(self, sql: &mut Sql, filters: &[&Filter], by: &str) {
        if filters.len() > CHAIN_MAX {
            let (left, right) = filters.split_at(filters.len() / 2);
            sql.push("(");
            self.joined(sql, left, by);
            sql.push(")").push(by).push("(");
            self.joined(sql, right, by);
            sql.push(")");
            return;
        }
        for (at, filter) in filters.iter().enumerate() {
            sql.push(if at == 0 { "" } else { by });
            self.filter(sql, filter);
        }
    }

    fn filter(self, sql: &mut Sql, filter: &Filter) {
        let (terms, by) = match filter {
            Filter::All(terms) => (terms, " AND "),
            Filter::Any(terms) => (terms, " OR "),
            Filter::Test(test) => return self.test(sql, test),
        };
        sql.push("(");
        self.joined(sql, &terms.iter().collect::<Vec<_>>(), by);
        sql.push(")");
    }

    /// The form that tests the row `e`.
    fn test(self, sql: &mut Sql, test: &Test) {
        let name = match &test.target {
            Target::Column(Column::CloseTime) => return close_time(sql, &test.predicate),
            Target::Column(column) => return predicate(sql, operand(*column), &test.predicate),
            Target::Attribute(name) => name,
        };
        // An attribute's absence, and "none of its elements is", are rows that do not exist.
        let (exists, condition) = match &test.predicate {
            Predicate::Null => (false, Predicate::NotNull),
            Predicate::NotIn(values) if is_set(test.kind) => (false, Predicate::In(values.clone())),
            other => (true, other.clone()),
        };
        sql.push(if exists { "EXISTS" } else { "NOT EXISTS" });
        sql.push("(SELECT 1 FROM attributes AS a INDEXED BY attributes_run WHERE a.run = e.run");
        sql.push(" AND a.name = ").param(Value::Text(name.clone()));
        sql.push(" AND a.namespace = ")
            .param(Value::Integer(self.namespace));
        self.value(sql, test.kind, &condition);
        sql.push(")");
    }

    /// ` AND <condition on a.value>`. Rows that an attribute of another type and the same name
    /// left behind do not count: to SQLite every text is larger than every number. A bound that
    /// excludes them already must stay alone, or SQLite may seek by the wrong one of the two.
    fn value(self, sql: &mut Sql, kind: AttributeType, condition: &Predicate) {
        let is_text = matches!(
            kind,
            AttributeType::Keyword | AttributeType::KeywordList | AttributeType::Text
        );
        let guarded = match condition {
            Predicate::In(_) => true,
            Predicate::Range(from, to) => *(if is_text { from } else { to }) != Bound::Unbounded,
            _ => false,
        };
        sql.push(match (guarded, is_text) {
            (true, _) => "",
            (false, true) => " AND a.value >= ''",
            (false, false) => " AND a.value < ''",
        });
        if *condition != Predicate::NotNull {
            sql.push(" AND ");
            predicate(sql, "a.value", condition);
        }
    }

    /// The form that lists runs, where an index can: `SELECT run ...`, each run once.
    pub(super) fn set(self, test: &Test) -> Option<Sql> {
        let mut sql = Sql::default();
        let (index, column) = match &test.target {
            Target::Attribute(name) => {
                if !is_listable(&test.predicate) {
                    return None;
                }
                // A set may hold several of the values asked for, a scalar is one row.
                let distinct = if is_set(test.kind) { "DISTINCT " } else { "" };
                sql.push("SELECT ")
                    .push(distinct)
                    .push("a.run AS run FROM attributes AS a");
                sql.push(" WHERE a.namespace = ")
                    .param(Value::Integer(self.namespace));
                sql.push(" AND a.name = ").param(Value::Text(name.clone()));
                self.value(&mut sql, test.kind, &test.predicate);
                return Some(sql);
            }
            Target::Column(Column::WorkflowId) => ("executions_workflow", Column::WorkflowId),
            Target::Column(Column::RunId) => ("executions_run_id", Column::RunId),
            Target::Column(Column::WorkflowType) => ("executions_type", Column::WorkflowType),
            Target::Column(Column::Status) => ("executions_status", Column::Status),
            Target::Column(Column::Division) => ("executions_division", Column::Division),
            Target::Column(Column::ParentWorkflowId) => {
                ("executions_parent", Column::ParentWorkflowId)
            }
            Target::Column(_) => return None,
        };
        // "Is not null" is rare only for the columns that most runs leave empty.
        let sparse = matches!(column, Column::Division | Column::ParentWorkflowId);
        match &test.predicate {
            Predicate::NotNull if !sparse => return None,
            predicate if !is_listable(predicate) => return None,
            _ => {}
        }
        sql.push("SELECT e.run AS run FROM executions AS e INDEXED BY ")
            .push(index);
        sql.push(" WHERE e.namespace = ")
            .param(Value::Integer(self.namespace));
        if sparse {
            // Says that the partial index holds all rows wanted.
            sql.push(" AND ").push(operand(column)).push(" IS NOT NULL");
        }
        sql.push(" AND ");
        predicate(&mut sql, operand(column), &test.predicate);
        Some(sql)
    }
}

/// True for types whose value is a set of rows.
fn is_set(kind: AttributeType) -> bool {
    matches!(kind, AttributeType::KeywordList | AttributeType::Text)
}

fn is_listable(predicate: &Predicate) -> bool {
    matches!(
        predicate,
        Predicate::In(_) | Predicate::Range(..) | Predicate::NotNull
    )
}

fn operand(column: Column) -> &'static str {
    match column {
        Column::WorkflowId => "e.workflow_id",
        Column::RunId => "e.run_id",
        Column::WorkflowType => "e.workflow_type",
        Column::TaskQueue => "e.task_queue",
        Column::Status => "e.status",
        Column::StartTime => "e.start_time",
        Column::ExecutionTime => "e.execution_time",
        Column::CloseTime => SORT_TIME,
        Column::HistoryLength => "e.history_length",
        Column::HistorySizeBytes => "e.history_size_bytes",
        Column::ExecutionDuration => "e.execution_duration",
        Column::StateTransitionCount => "e.state_transition_count",
        Column::ParentWorkflowId => "e.parent_workflow_id",
        Column::ParentRunId => "e.parent_run_id",
        Column::RootWorkflowId => "e.root_workflow_id",
        Column::RootRunId => "e.root_run_id",
        Column::Division => "e.division",
    }
}

/// Close times are tested on the sort time, which the list index holds.
fn close_time(sql: &mut Sql, condition: &Predicate) {
    let is_open = match condition {
        Predicate::Null => " = ",
        _ => " < ",
    };
    sql.push(SORT_TIME)
        .push(is_open)
        .param(Value::Integer(OPEN));
    if !matches!(condition, Predicate::Null | Predicate::NotNull) {
        sql.push(" AND ");
        predicate(sql, SORT_TIME, condition);
    }
}

/// A condition on an operand, in parentheses where it needs them.
fn predicate(sql: &mut Sql, operand: &str, predicate: &Predicate) {
    match predicate {
        Predicate::Null => {
            sql.push(operand).push(" IS NULL");
        }
        Predicate::NotNull => {
            sql.push(operand).push(" IS NOT NULL");
        }
        Predicate::In(values) => list(sql, operand, values, " = ", " IN ("),
        Predicate::NotIn(values) if values.is_empty() => {
            sql.push(operand).push(" IS NOT NULL");
        }
        Predicate::NotIn(values) => list(sql, operand, values, " <> ", " NOT IN ("),
        Predicate::Range(from, to) => {
            bound(sql, operand, from, [" >= ", " > "]);
            if !matches!((from, to), (Bound::Unbounded, _) | (_, Bound::Unbounded)) {
                sql.push(" AND ");
            }
            bound(sql, operand, to, [" <= ", " < "]);
            if matches!((from, to), (Bound::Unbounded, Bound::Unbounded)) {
                sql.push(operand).push(" IS NOT NULL");
            }
        }
        Predicate::Outside(below, above) => {
            sql.push("(");
            bound(sql, operand, below, [" <= ", " < "]);
            sql.push(" OR ");
            bound(sql, operand, above, [" >= ", " > "]);
            sql.push(")");
        }
    }
}

fn list(sql: &mut Sql, operand: &str, values: &[Value], one: &str, many: &str) {
    sql.push(operand);
    if let [value] = values {
        sql.push(one).param(value.clone());
        return;
    }
    sql.push(many);
    for (at, value) in values.iter().enumerate() {
        sql.push(if at == 0 { "" } else { "," })
            .param(value.clone());
    }
    sql.push(")");
}

fn bound(sql: &mut Sql, operand: &str, bound: &Bound<Value>, [included, excluded]: [&str; 2]) {
    let (symbol, value) = match bound {
        Bound::Unbounded => return,
        Bound::Included(value) => (included, value),
        Bound::Excluded(value) => (excluded, value),
    };
    sql.push(operand).push(symbol).param(value.clone());
}

impl Sql {
    /// Runs a statement that yields one integer.
    pub fn count(&self, connection: &rusqlite::Connection) -> Result<i64, Error> {
        let mut statement = connection.prepare_cached(&self.text).map_err(io)?;
        let params = rusqlite::params_from_iter(&self.params);
        statement.query_row(params, |row| row.get(0)).map_err(io)
    }
}

pub(super) fn io(error: rusqlite::Error) -> Error {
    Error::Io(error.to_string())
}
