//! Runs filters on a connection.

use bytes::Bytes;
use rusqlite::{Connection, Row, params_from_iter};

use super::compile::{CountQuery, ListQuery, Sql, io};
use super::cursor::Position;
use super::plan::{Grouping, compile_count, compile_list};
use super::{Schema, literal};
use crate::{AttributeValue, Error, ExecutionCount, ExecutionPage, ListedExecution, RunNo};

/// Lists runs of a namespace. See [`compile_list`] for the order and the arguments.
pub fn list(
    connection: &Connection,
    schema: &Schema,
    namespace: i64,
    filter: &str,
    page_size: usize,
    page: Option<&[u8]>,
) -> Result<ExecutionPage, Error> {
    let mut probe = |sql: &Sql| sql.count(connection);
    let query = compile_list(schema, namespace, filter, page_size, page, &mut probe)?;
    run_list(connection, &query)
}

/// Runs a compiled list.
pub(super) fn run_list(connection: &Connection, query: &ListQuery) -> Result<ExecutionPage, Error> {
    let mut statement = connection.prepare_cached(&query.sql.text).map_err(io)?;
    let mut rows = statement
        .query(params_from_iter(&query.sql.params))
        .map_err(io)?;

    let mut executions = Vec::new();
    let mut last = None;
    let mut next = None;
    while let Some(row) = rows.next().map_err(io)? {
        if executions.len() == query.page_size {
            next = last.map(|last| Bytes::from(query.next_token(last)));
            break;
        }
        let (execution, position) = listed(row)?;
        executions.push(execution);
        last = Some(position);
    }
    Ok(ExecutionPage { executions, next })
}

/// Counts runs of a namespace, by group when the filter ends in `GROUP BY`. The group of runs
/// without a division is the empty keyword.
pub fn count(
    connection: &Connection,
    schema: &Schema,
    namespace: i64,
    filter: &str,
) -> Result<ExecutionCount, Error> {
    let mut probe = |sql: &Sql| sql.count(connection);
    let query = compile_count(schema, namespace, filter, &mut probe)?;
    run_count(connection, &query)
}

/// Runs a compiled count.
pub(super) fn run_count(
    connection: &Connection,
    query: &CountQuery,
) -> Result<ExecutionCount, Error> {
    let Some(group_by) = query.group_by else {
        return Ok(ExecutionCount {
            total: query.sql.count(connection)?,
            groups: Vec::new(),
        });
    };
    let mut statement = connection.prepare_cached(&query.sql.text).map_err(io)?;
    let mut rows = statement
        .query(params_from_iter(&query.sql.params))
        .map_err(io)?;
    let mut groups = Vec::new();
    while let Some(row) = rows.next().map_err(io)? {
        let group = match group_by {
            Grouping::Status => literal::status_name(row.get(0).map_err(io)?).to_owned(),
            Grouping::Division => row
                .get::<_, Option<String>>(0)
                .map_err(io)?
                .unwrap_or_default(),
        };
        groups.push((AttributeValue::Keyword(group), row.get(1).map_err(io)?));
    }
    Ok(ExecutionCount {
        total: groups.iter().map(|(_, count)| count).sum(),
        groups,
    })
}

fn listed(row: &Row<'_>) -> Result<(ListedExecution, Position), Error> {
    let run: i64 = row.get(0).map_err(io)?;
    let run_id: Vec<u8> = row.get(1).map_err(io)?;
    let workflow_id: String = row.get(2).map_err(io)?;
    let close_time = row.get(4).map_err(io)?;
    let info: Vec<u8> = row.get(6).map_err(io)?;
    let execution = ListedExecution {
        run: RunNo(run),
        run_id: run_id
            .try_into()
            .map_err(|_| Error::Corrupt(format!("run {run} has no valid run id")))?,
        workflow_id: workflow_id.into(),
        status: row.get(3).map_err(io)?,
        close_time,
        history_length: row.get(5).map_err(io)?,
        info: info.into(),
    };
    let position = Position::new(close_time, row.get(7).map_err(io)?, run);
    Ok((execution, position))
}
