//! A run's row in `executions` and its rows in `attributes`.

use std::collections::BTreeSet;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Statement, ToSql, params};

use crate::visibility::layout::index_values;
use crate::{AttributeValue, Error, Execution};

/// The attribute that hides a run from lists that do not ask for it. It is a column and has no
/// rows, since nearly every list has a condition on it.
const DIVISION: &str = "TemporalNamespaceDivision";

/// Writes the row and replaces the run's attributes.
pub(super) fn put(
    conn: &Connection,
    run: i64,
    namespace: i64,
    execution: &Execution,
) -> Result<(), Error> {
    let division = division(execution);
    let unchanged: Option<bool> = conn
        .prepare_cached("SELECT status = ?2 AND start_time = ?3 AND close_time IS ?4 AND delete_after IS ?5 AND division IS ?6 FROM executions WHERE run = ?1")?
        .query_row(params![run, execution.status, execution.start_time, execution.close_time, execution.delete_after, division], |row| row.get(0))
        .optional()?;
    match unchanged {
        None => insert(conn, run, namespace, division, execution)?,
        Some(unchanged) => update(conn, run, division, execution, unchanged)?,
    }
    put_attributes(
        conn,
        run,
        namespace,
        &execution.attributes,
        unchanged.is_none(),
    )
}

fn insert(
    conn: &Connection,
    run: i64,
    namespace: i64,
    division: Option<&str>,
    execution: &Execution,
) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO executions (run, namespace, workflow_id, run_id, workflow_type, task_queue, status, start_time, execution_time, close_time,
           history_length, history_size_bytes, execution_duration, state_transition_count,
           parent_workflow_id, parent_run_id, root_workflow_id, root_run_id, division, delete_after, info)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
    )?
    .execute(params![
        run,
        namespace,
        &*execution.workflow_id,
        execution.run_id,
        execution.workflow_type,
        execution.task_queue,
        execution.status,
        execution.start_time,
        execution.execution_time,
        execution.close_time,
        execution.history_length,
        execution.history_size_bytes,
        execution.execution_duration,
        execution.state_transition_count,
        execution.parent_workflow_id,
        execution.parent_run_id,
        execution.root_workflow_id,
        execution.root_run_id,
        division,
        execution.delete_after,
        &execution.info[..],
    ])?;
    Ok(())
}

/// SQLite rewrites every index that holds an assigned column, changed or not: a new memo, which
/// changes none of the indexed columns, must not cost four indexes. Namespace, ids, type and parent
/// are who the run is and stay as they were inserted.
const UPDATE_UNINDEXED: &str = "UPDATE executions SET task_queue = ?2, execution_time = ?3, history_length = ?4, history_size_bytes = ?5, execution_duration = ?6,
   state_transition_count = ?7, info = ?8
 WHERE run = ?1";

const UPDATE: &str = "UPDATE executions SET task_queue = ?2, execution_time = ?3, history_length = ?4, history_size_bytes = ?5, execution_duration = ?6,
   state_transition_count = ?7, info = ?8, status = ?9, start_time = ?10, close_time = ?11, delete_after = ?12, division = ?13
 WHERE run = ?1";

fn update(
    conn: &Connection,
    run: i64,
    division: Option<&str>,
    execution: &Execution,
    unindexed_only: bool,
) -> Result<(), Error> {
    let mut statement = conn.prepare_cached(if unindexed_only {
        UPDATE_UNINDEXED
    } else {
        UPDATE
    })?;
    bind_unindexed(&mut statement, run, execution)?;
    if !unindexed_only {
        statement.raw_bind_parameter(9, execution.status)?;
        statement.raw_bind_parameter(10, execution.start_time)?;
        statement.raw_bind_parameter(11, execution.close_time)?;
        statement.raw_bind_parameter(12, execution.delete_after)?;
        statement.raw_bind_parameter(13, division)?;
    }
    statement.raw_execute()?;
    Ok(())
}

fn bind_unindexed(
    statement: &mut Statement<'_>,
    run: i64,
    execution: &Execution,
) -> Result<(), Error> {
    statement.raw_bind_parameter(1, run)?;
    statement.raw_bind_parameter(2, &execution.task_queue)?;
    statement.raw_bind_parameter(3, execution.execution_time)?;
    statement.raw_bind_parameter(4, execution.history_length)?;
    statement.raw_bind_parameter(5, execution.history_size_bytes)?;
    statement.raw_bind_parameter(6, execution.execution_duration)?;
    statement.raw_bind_parameter(7, execution.state_transition_count)?;
    statement.raw_bind_parameter(8, &execution.info[..])?;
    Ok(())
}

fn division(execution: &Execution) -> Option<&str> {
    execution
        .attributes
        .iter()
        .find_map(|(name, value)| match value {
            AttributeValue::Keyword(division) if name == DIVISION => Some(&**division),
            _ => None,
        })
}

/// One value as `attributes` stores it; ordered, so that old and new rows can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scalar {
    Int(i64),
    /// The bits of the number: equal bits are equal rows, and no other order is needed.
    Real(u64),
    Text(String),
}

impl Scalar {
    fn new(value: Value) -> Result<Self, Error> {
        Ok(match value {
            Value::Integer(value) => Scalar::Int(value),
            // Zero has two sets of bits, but is one key to SQLite.
            Value::Real(value) => Scalar::Real((value + 0.0).to_bits()),
            Value::Text(text) => Scalar::Text(text),
            other => {
                return Err(Error::Corrupt(format!(
                    "an attribute's value is {}",
                    other.data_type()
                )));
            }
        })
    }
}

impl ToSql for Scalar {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Scalar::Int(value) => ToSqlOutput::Owned(Value::Integer(*value)),
            Scalar::Real(bits) => ToSqlOutput::Owned(Value::Real(f64::from_bits(*bits))),
            Scalar::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

/// Writes only the difference: most upserts, and nearly every close, leave the attributes alone.
fn put_attributes(
    conn: &Connection,
    run: i64,
    namespace: i64,
    attributes: &[(String, AttributeValue)],
    fresh: bool,
) -> Result<(), Error> {
    let mut wanted: BTreeSet<(String, Scalar)> = BTreeSet::new();
    for (name, value) in attributes.iter().filter(|(name, _)| name != DIVISION) {
        for value in index_values(value) {
            wanted.insert((name.clone(), Scalar::new(value)?));
        }
    }
    let stored = if fresh {
        BTreeSet::new()
    } else {
        stored_attributes(conn, run)?
    };
    for (name, value) in stored.difference(&wanted) {
        conn.prepare_cached(
            "DELETE FROM attributes WHERE namespace = ?1 AND name = ?2 AND value = ?3 AND run = ?4",
        )?
        .execute(params![namespace, name, value, run])?;
    }
    for (name, value) in wanted.difference(&stored) {
        conn.prepare_cached(
            "INSERT INTO attributes (namespace, name, value, run) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![namespace, name, value, run])?;
    }
    Ok(())
}

fn stored_attributes(conn: &Connection, run: i64) -> Result<BTreeSet<(String, Scalar)>, Error> {
    let mut statement = conn.prepare_cached("SELECT name, value FROM attributes WHERE run = ?1")?;
    let mut rows = statement.query([run])?;
    let mut stored = BTreeSet::new();
    while let Some(row) = rows.next()? {
        stored.insert((row.get(0)?, Scalar::new(row.get(1)?)?));
    }
    Ok(stored)
}
