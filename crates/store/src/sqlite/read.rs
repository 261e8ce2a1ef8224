//! Rows into records. Every function reads on the connection that it is given, in a read
//! transaction of the caller's where it takes more than one statement.

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::schema::{KIND_DUE, KIND_TASK, META_RUN_HIGH_WATER};
use crate::{
    Error, HistoryBatch, NamespaceId, NamespaceWrite, Nanos, OutboxRow, QueueName, QueueRecord,
    RunId, RunIdentity, RunNo, StateRow, StoredRun, StoredTask, TaskKey, TaskRow,
};

type Read<T> = rusqlite::Result<T>;

/// The columns of an identity, as [`identity`] reads them; `e` is the run, `n` its namespace.
macro_rules! identity {
    () => {
        "e.run, n.id, e.workflow_id, e.run_id"
    };
}

fn identity(row: &Row<'_>, at: usize) -> Read<RunIdentity> {
    Ok(RunIdentity {
        run: RunNo(row.get(at)?),
        namespace: row.get(at + 1)?,
        workflow_id: row.get(at + 2)?,
        run_id: row.get(at + 3)?,
    })
}

fn collect<T>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> Read<T>,
) -> Result<Vec<T>, Error> {
    Ok(conn
        .prepare_cached(sql)?
        .query_map(params, read)?
        .collect::<Read<_>>()?)
}

fn first<T>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnOnce(&Row<'_>) -> Read<T>,
) -> Result<Option<T>, Error> {
    Ok(conn
        .prepare_cached(sql)?
        .query_row(params, read)
        .optional()?)
}

fn bytes(row: &Row<'_>, at: usize) -> Read<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(at)?.as_blob()?))
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A namespace's number; `None` for one that nothing was ever written of.
pub(super) fn namespace(conn: &Connection, id: &NamespaceId) -> Result<Option<i64>, Error> {
    first(
        conn,
        "SELECT no FROM namespaces WHERE id = ?1",
        [id],
        |row| row.get(0),
    )
}

pub(super) fn namespaces(conn: &Connection) -> Result<Vec<NamespaceWrite>, Error> {
    collect(
        conn,
        "SELECT id, name, value FROM namespaces WHERE value IS NOT NULL ORDER BY no",
        [],
        |row| {
            Ok(NamespaceWrite {
                id: row.get(0)?,
                name: row.get(1)?,
                value: Some(bytes(row, 2)?),
            })
        },
    )
}

/// Those of namespaces that have a record themselves: what was written of another by a caller who
/// came too late means nothing.
pub(super) fn queue_records(conn: &Connection) -> Result<Vec<QueueRecord>, Error> {
    collect(
        conn,
        "SELECT n.id, q.name, q.kind, q.value FROM queue_records q CROSS JOIN namespaces n ON n.no = q.namespace
         WHERE n.value IS NOT NULL ORDER BY q.namespace, q.name, q.kind",
        [],
        |row| {
            Ok(QueueRecord {
                queue: QueueName { namespace: row.get(0)?, name: row.get(1)?, kind: row.get(2)? },
                value: bytes(row, 3)?,
            })
        },
    )
}

pub(super) fn high_water(conn: &Connection) -> Result<(RunNo, i64), Error> {
    let kept: Option<i64> = first(
        conn,
        "SELECT value FROM meta WHERE key = ?1",
        [META_RUN_HIGH_WATER],
        |row| row.get(0),
    )?;
    let newest: Option<i64> = first(conn, "SELECT max(run) FROM executions", [], |row| {
        row.get(0)
    })?
    .flatten();
    let mut seq = 0;
    for queue in collect(conn, "SELECT id FROM queues", [], |row| {
        row.get::<_, i64>(0)
    })? {
        // The last task of each priority, without reading the others.
        let mut below = i64::MAX;
        while let Some((priority, last)) = first(
            conn,
            "SELECT priority, seq FROM tasks WHERE queue = ?1 AND priority < ?2 ORDER BY priority DESC, seq DESC LIMIT 1",
            params![queue, below],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )? {
            below = priority;
            seq = seq.max(last);
        }
    }
    Ok((RunNo(kept.max(newest).unwrap_or(0)), seq))
}

/// An index ends in the row's key: the last entry of a workflow id is its newest run.
const CURRENT_RUN: &str = concat!(
    "SELECT ",
    identity!(),
    " FROM namespaces n CROSS JOIN executions e INDEXED BY executions_workflow
     ON e.namespace = n.no WHERE n.id = ?1 AND e.workflow_id = ?2 ORDER BY e.run DESC LIMIT 1"
);

pub(crate) fn current_run(
    conn: &Connection,
    namespace: &NamespaceId,
    workflow_id: &str,
) -> Result<Option<RunIdentity>, Error> {
    first(conn, CURRENT_RUN, params![namespace, workflow_id], |row| {
        identity(row, 0)
    })
}

pub(crate) fn find_run(
    conn: &Connection,
    namespace: &NamespaceId,
    workflow_id: &str,
    run_id: &RunId,
) -> Result<Option<RunIdentity>, Error> {
    first(
        conn,
        concat!(
            "SELECT ",
            identity!(),
            " FROM executions e INDEXED BY executions_run_id CROSS JOIN namespaces n
             ON n.no = e.namespace WHERE e.run_id = ?1 AND n.id = ?2 AND e.workflow_id = ?3"
        ),
        params![run_id, namespace, workflow_id],
        |row| identity(row, 0),
    )
}

pub(crate) fn load_run(conn: &Connection, run: RunNo) -> Result<Option<StoredRun>, Error> {
    let owner = concat!(
        "SELECT ",
        identity!(),
        " FROM executions e CROSS JOIN namespaces n ON n.no = e.namespace WHERE e.run = ?1"
    );
    let Some(owner) = first(conn, owner, [run.0], |row| identity(row, 0))? else {
        return Ok(None);
    };
    let first_batch = first(
        conn,
        "SELECT first_event_id, last_event_id, bytes FROM history WHERE run = ?1 ORDER BY first_event_id LIMIT 1",
        [run.0],
        batch,
    )?;
    let Some(first_batch) = first_batch else {
        return Err(Error::Corrupt(format!("run {} has no history", run.0)));
    };
    let mut loaded = StoredRun {
        owner,
        state: Vec::new(),
        first_batch,
        outbox: outbox_of(conn, run)?,
        tasks: Vec::new(),
        due: None,
    };
    let mut places = Vec::new();
    {
        let mut statement = conn
            .prepare_cached("SELECT kind, id, value FROM state WHERE run = ?1 ORDER BY kind, id")?;
        let mut rows = statement.query([run.0])?;
        while let Some(row) = rows.next()? {
            let (kind, id): (i64, i64) = (row.get(0)?, row.get(1)?);
            match (kind, row.get_ref(2)?) {
                (KIND_DUE, ValueRef::Integer(time)) => loaded.due = Some(time),
                (KIND_TASK, ValueRef::Integer(place)) => {
                    places.push((place >> 8, place & 0xff, id))
                }
                (0..=255, ValueRef::Blob(value)) => loaded.state.push(StateRow {
                    kind: kind as u8,
                    id,
                    value: Some(Bytes::copy_from_slice(value)),
                }),
                (kind, value) => {
                    return Err(Error::Corrupt(format!(
                        "state of run {}: kind {kind} holds {}",
                        run.0,
                        value.data_type()
                    )));
                }
            }
        }
    }
    for (queue, priority, seq) in places {
        loaded.tasks.extend(task_at(conn, queue, priority, seq)?);
    }
    Ok(Some(loaded))
}

fn outbox_of(conn: &Connection, run: RunNo) -> Result<Vec<OutboxRow>, Error> {
    collect(
        conn,
        "SELECT id, value FROM outbox WHERE run = ?1 ORDER BY id",
        [run.0],
        |row| {
            Ok(OutboxRow {
                id: row.get(0)?,
                value: bytes(row, 1)?,
            })
        },
    )
}

fn task_at(
    conn: &Connection,
    queue: i64,
    priority: i64,
    seq: i64,
) -> Result<Option<TaskRow>, Error> {
    first(
        conn,
        "SELECT t.priority, t.seq, t.run, t.scheduled_event_id, t.stamp, t.created, n.id, q.name, q.kind
         FROM tasks t CROSS JOIN queues q ON q.id = t.queue CROSS JOIN namespaces n ON n.no = q.namespace
         WHERE t.queue = ?1 AND t.priority = ?2 AND t.seq = ?3",
        params![queue, priority, seq],
        |row| task(row, QueueName { namespace: row.get(6)?, name: row.get(7)?, kind: row.get(8)? }),
    )
}

fn task(row: &Row<'_>, queue: QueueName) -> Read<TaskRow> {
    Ok(TaskRow {
        key: TaskKey {
            queue,
            priority: row.get(0)?,
            seq: row.get(1)?,
        },
        run: RunNo(row.get(2)?),
        scheduled_event_id: row.get(3)?,
        stamp: row.get(4)?,
        created: row.get(5)?,
    })
}

fn batch(row: &Row<'_>) -> Read<HistoryBatch> {
    Ok(HistoryBatch {
        first_event_id: row.get(0)?,
        last_event_id: row.get(1)?,
        bytes: bytes(row, 2)?,
    })
}

pub(crate) fn read_history(
    conn: &Connection,
    run: RunNo,
    from: i64,
    to: i64,
    at_most: usize,
    reverse: bool,
) -> Result<Vec<HistoryBatch>, Error> {
    // The batch that holds `from` can only be the last one that does not begin after it: looking it
    // up gives both ends of the range to the key.
    let before = first(
        conn,
        "SELECT first_event_id, last_event_id FROM history WHERE run = ?1 AND first_event_id <= ?2 ORDER BY first_event_id DESC LIMIT 1",
        params![run.0, from],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let start: i64 = match before {
        Some((start, end)) if from <= end => start,
        _ => from,
    };
    let sql = if reverse {
        "SELECT first_event_id, last_event_id, bytes FROM history WHERE run = ?1 AND first_event_id >= ?2 AND first_event_id <= ?3 ORDER BY first_event_id DESC LIMIT ?4"
    } else {
        "SELECT first_event_id, last_event_id, bytes FROM history WHERE run = ?1 AND first_event_id >= ?2 AND first_event_id <= ?3 ORDER BY first_event_id LIMIT ?4"
    };
    collect(conn, sql, params![run.0, start, to, limit(at_most)], batch)
}

pub(super) fn due_runs(
    conn: &Connection,
    after: (Nanos, RunNo),
    until: Nanos,
    at_most: usize,
) -> Result<Vec<(Nanos, RunIdentity)>, Error> {
    collect(
        conn,
        concat!(
            "SELECT d.time, ", identity!(), " FROM due d CROSS JOIN executions e ON e.run = d.run CROSS JOIN namespaces n ON n.no = e.namespace
             WHERE (d.time, d.run) > (?1, ?2) AND d.time <= ?3 ORDER BY d.time, d.run LIMIT ?4"
        ),
        params![after.0, after.1.0, until, limit(at_most)],
        |row| Ok((row.get(0)?, identity(row, 1)?)),
    )
}

pub(super) fn queues_with_tasks(conn: &Connection) -> Result<Vec<QueueName>, Error> {
    collect(
        conn,
        "SELECT n.id, q.name, q.kind FROM queues q CROSS JOIN namespaces n ON n.no = q.namespace
         WHERE EXISTS (SELECT 1 FROM tasks t WHERE t.queue = q.id) ORDER BY q.namespace, q.name, q.kind",
        [],
        |row| Ok(QueueName { namespace: row.get(0)?, name: row.get(1)?, kind: row.get(2)? }),
    )
}

fn queue_number(conn: &Connection, queue: &QueueName) -> Result<Option<i64>, Error> {
    first(
        conn,
        "SELECT q.id FROM namespaces n CROSS JOIN queues q ON q.namespace = n.no WHERE n.id = ?1 AND q.name = ?2 AND q.kind = ?3",
        params![queue.namespace, &*queue.name, queue.kind],
        |row| row.get(0),
    )
}

pub(super) fn read_tasks(
    conn: &Connection,
    queue: &QueueName,
    from: (u8, i64),
    at_most: usize,
) -> Result<Vec<StoredTask>, Error> {
    let Some(number) = queue_number(conn, queue)? else {
        return Ok(Vec::new());
    };
    collect(
        conn,
        concat!(
            "SELECT t.priority, t.seq, t.run, t.scheduled_event_id, t.stamp, t.created, ", identity!(), "
             FROM tasks t CROSS JOIN executions e ON e.run = t.run CROSS JOIN namespaces n ON n.no = e.namespace
             WHERE t.queue = ?1 AND (t.priority, t.seq) >= (?2, ?3) ORDER BY t.priority, t.seq LIMIT ?4"
        ),
        params![number, from.0, from.1, limit(at_most)],
        |row| Ok(StoredTask { task: task(row, queue.clone())?, owner: identity(row, 6)? }),
    )
}

pub(super) fn count_tasks(
    conn: &Connection,
    queue: &QueueName,
) -> Result<(i64, Option<Nanos>), Error> {
    let Some(number) = queue_number(conn, queue)? else {
        return Ok((0, None));
    };
    let counted = first(
        conn,
        "SELECT count(*), min(created) FROM tasks WHERE queue = ?1",
        [number],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(counted.unwrap_or((0, None)))
}

pub(super) fn read_outbox(
    conn: &Connection,
    after: (RunNo, i64),
    at_most: usize,
) -> Result<Vec<(RunIdentity, OutboxRow)>, Error> {
    collect(
        conn,
        concat!(
            "SELECT o.id, o.value, ", identity!(), " FROM outbox o CROSS JOIN executions e ON e.run = o.run CROSS JOIN namespaces n ON n.no = e.namespace
             WHERE (o.run, o.id) > (?1, ?2) ORDER BY o.run, o.id LIMIT ?3"
        ),
        params![after.0.0, after.1, limit(at_most)],
        |row| Ok((identity(row, 2)?, OutboxRow { id: row.get(0)?, value: bytes(row, 1)? })),
    )
}

pub(super) fn expired_runs(
    conn: &Connection,
    now: Nanos,
    at_most: usize,
) -> Result<Vec<RunIdentity>, Error> {
    collect(
        conn,
        concat!(
            "SELECT ", identity!(), " FROM executions e INDEXED BY executions_delete_after CROSS JOIN namespaces n ON n.no = e.namespace
             WHERE e.delete_after IS NOT NULL AND e.delete_after <= ?1 ORDER BY e.delete_after, e.run LIMIT ?2"
        ),
        params![now, limit(at_most)],
        |row| identity(row, 0),
    )
}

pub(super) fn runs_of_namespace(
    conn: &Connection,
    id: &NamespaceId,
    after: RunNo,
    at_most: usize,
) -> Result<Vec<RunIdentity>, Error> {
    let Some(number) = namespace(conn, id)? else {
        return Ok(Vec::new());
    };
    collect(
        conn,
        // No index has this order: the runs of the namespace are picked from a narrow one and sorted,
        // which costs what the namespace holds, whatever else the store holds.
        "SELECT e.run, ?1, e.workflow_id, e.run_id
         FROM (SELECT run FROM executions INDEXED BY executions_status WHERE namespace = ?3 AND run > ?2 ORDER BY run LIMIT ?4) AS page
         CROSS JOIN executions e ON e.run = page.run ORDER BY e.run",
        params![id, after.0, number, limit(at_most)],
        |row| identity(row, 0),
    )
}

pub(super) fn open_runs(
    conn: &Connection,
    after: RunNo,
    at_most: usize,
) -> Result<Vec<RunIdentity>, Error> {
    collect(
        conn,
        // Along the runs: no index has the open ones of all namespaces in this order.
        concat!(
            "SELECT ",
            identity!(),
            " FROM executions e NOT INDEXED CROSS JOIN namespaces n ON n.no = e.namespace
             WHERE e.run > ?1 AND e.close_time IS NULL ORDER BY e.run LIMIT ?2"
        ),
        params![after.0, limit(at_most)],
        |row| identity(row, 0),
    )
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::super::{open, schema};
    use super::*;

    #[test]
    fn statements_are_compiled_once() {
        let mut conn = Connection::open_in_memory().unwrap();
        open::configure(&conn).unwrap();
        schema::migrate(&mut conn).unwrap();
        for n in 0..10 {
            assert_eq!(
                current_run(&conn, &[n; 16], &format!("workflow-{n}")).unwrap(),
                None
            );
        }
        let statement = conn.prepare_cached(CURRENT_RUN).unwrap();
        assert!(statement.get_status(StatementStatus::Run) >= 10);
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
