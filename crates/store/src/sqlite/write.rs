//! Commits into rows: the only code that changes tables.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::execution;
use super::schema::{KIND_DUE, KIND_TASK, META_RUN_HIGH_WATER};
use crate::{
    Commit, Error, HistoryBatch, NamespaceId, NamespaceWrite, Nanos, QueueName, QueueRecord, RunNo,
    RunWrite, StateRow, TaskKey, TaskRow,
};

/// Sticky queues come and go with their workers: past this many known queues, the empty ones are
/// forgotten.
const QUEUES_MAX: usize = 10_000;

/// Numbers that stand for names in keys, as far as they were needed since the last failure.
#[derive(Default)]
pub(super) struct Known {
    namespaces: HashMap<NamespaceId, i64>,
    queues: HashMap<QueueName, i64>,
}

/// Applies the commits inside the transaction that the caller opened. When this fails, or the
/// transaction does later, `known` is not to be used any more: it may name rows that were rolled back.
pub(super) fn apply(
    conn: &Connection,
    known: &mut Known,
    commits: &[&Commit],
) -> Result<(), Error> {
    let mut writes = Writes { conn, known };
    let mut deleted_max = None;
    for commit in commits {
        for namespace in commit
            .namespaces
            .iter()
            .filter(|write| write.value.is_some())
        {
            writes.put_namespace(namespace)?;
        }
        for record in &commit.queues {
            writes.put_queue_record(record)?;
        }
        for run in &commit.runs {
            writes.run(run)?;
        }
        for run in &commit.deletes {
            if writes.delete_run(*run)? {
                deleted_max = deleted_max.max(Some(*run));
            }
        }
        for namespace in commit
            .namespaces
            .iter()
            .filter(|write| write.value.is_none())
        {
            writes.remove_namespace(&namespace.id)?;
        }
    }
    if let Some(deleted) = deleted_max {
        writes.keep_run_high_water(deleted)?;
    }
    if writes.known.queues.len() > QUEUES_MAX {
        forget_empty_queues(conn)?;
        writes.known.queues.clear();
    }
    Ok(())
}

/// Removes the queues that hold no task.
pub(super) fn forget_empty_queues(conn: &Connection) -> Result<(), Error> {
    conn.execute(
        "DELETE FROM queues WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.queue = queues.id)",
        [],
    )?;
    Ok(())
}

struct Writes<'a> {
    conn: &'a Connection,
    known: &'a mut Known,
}

impl Writes<'_> {
    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, Error> {
        Ok(self.conn.prepare_cached(sql)?.execute(params)?)
    }

    fn run(&mut self, write: &RunWrite) -> Result<(), Error> {
        let run = write.run.0;
        if let Some(execution) = &write.execution {
            let namespace = self.namespace(&execution.namespace)?;
            execution::put(self.conn, run, namespace, execution)?;
        }
        if let Some((source, below)) = write.copy_history {
            self.execute(
                "INSERT INTO history (run, first_event_id, last_event_id, bytes)
                 SELECT ?1, first_event_id, last_event_id, bytes FROM history WHERE run = ?2 AND last_event_id < ?3 ORDER BY first_event_id",
                params![run, source.0, below],
            )?;
        }
        for batch in &write.history {
            self.put_history(run, batch)?;
        }
        for row in &write.state {
            self.put_state(run, row)?;
        }
        if let Some(due) = write.due {
            self.put_due(run, due)?;
        }
        for task in &write.tasks_added {
            self.add_task(task)?;
        }
        for key in &write.tasks_removed {
            self.remove_task(run, key)?;
        }
        for row in &write.outbox_added {
            self.execute(
                "INSERT INTO outbox (run, id, value) VALUES (?1, ?2, ?3)",
                params![run, row.id, &row.value[..]],
            )?;
        }
        for id in &write.outbox_removed {
            self.execute(
                "DELETE FROM outbox WHERE run = ?1 AND id = ?2",
                params![run, id],
            )?;
        }
        Ok(())
    }

    /// A batch is written once: a second one in its place is the caller's bug.
    fn put_history(&self, run: i64, batch: &HistoryBatch) -> Result<(), Error> {
        self.execute(
            "INSERT INTO history (run, first_event_id, last_event_id, bytes) VALUES (?1, ?2, ?3, ?4)",
            params![run, batch.first_event_id, batch.last_event_id, &batch.bytes[..]],
        )?;
        Ok(())
    }

    fn put_state(&self, run: i64, row: &StateRow) -> Result<(), Error> {
        match &row.value {
            Some(value) => self.execute(
                "INSERT INTO state (run, kind, id, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET value = excluded.value",
                params![run, row.kind, row.id, &value[..]],
            )?,
            None => self.execute("DELETE FROM state WHERE run = ?1 AND kind = ?2 AND id = ?3", params![run, row.kind, row.id])?,
        };
        Ok(())
    }

    fn put_due(&self, run: i64, due: Option<Nanos>) -> Result<(), Error> {
        let old: Option<Nanos> = self
            .conn
            .prepare_cached("SELECT value FROM state WHERE run = ?1 AND kind = ?2 AND id = 0")?
            .query_row(params![run, KIND_DUE], |row| row.get(0))
            .optional()?;
        if old == due {
            return Ok(());
        }
        if let Some(old) = old {
            self.execute(
                "DELETE FROM due WHERE time = ?1 AND run = ?2",
                params![old, run],
            )?;
        }
        match due {
            Some(new) => {
                self.execute(
                    "INSERT INTO due (time, run) VALUES (?1, ?2)",
                    params![new, run],
                )?;
                self.execute(
                    "INSERT INTO state (run, kind, id, value) VALUES (?1, ?2, 0, ?3) ON CONFLICT DO UPDATE SET value = excluded.value",
                    params![run, KIND_DUE, new],
                )?;
            }
            None => {
                self.execute(
                    "DELETE FROM state WHERE run = ?1 AND kind = ?2 AND id = 0",
                    params![run, KIND_DUE],
                )?;
            }
        }
        Ok(())
    }

    fn add_task(&mut self, task: &TaskRow) -> Result<(), Error> {
        let TaskKey {
            queue,
            priority,
            seq,
        } = &task.key;
        let queue = self.queue(queue)?;
        self.execute(
            "INSERT INTO tasks (queue, priority, seq, run, scheduled_event_id, stamp, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![queue, priority, seq, task.run.0, task.scheduled_event_id, task.stamp, task.created],
        )?;
        self.execute(
            "INSERT INTO state (run, kind, id, value) VALUES (?1, ?2, ?3, ?4)",
            params![
                task.run.0,
                KIND_TASK,
                seq,
                queue << 8 | i64::from(*priority)
            ],
        )?;
        Ok(())
    }

    fn remove_task(&mut self, run: i64, key: &TaskKey) -> Result<(), Error> {
        let queue = self.queue(&key.queue)?;
        self.execute(
            "DELETE FROM tasks WHERE queue = ?1 AND priority = ?2 AND seq = ?3",
            params![queue, key.priority, key.seq],
        )?;
        self.execute(
            "DELETE FROM state WHERE run = ?1 AND kind = ?2 AND id = ?3",
            params![run, KIND_TASK, key.seq],
        )?;
        Ok(())
    }

    /// Removes everything of a run; false when there was no such run.
    fn delete_run(&mut self, run: RunNo) -> Result<bool, Error> {
        let run = run.0;
        {
            let mut places = self
                .conn
                .prepare_cached("SELECT kind, id, value FROM state WHERE run = ?1 AND kind < 0")?;
            let mut rows = places.query([run])?;
            while let Some(row) = rows.next()? {
                let (kind, id, value): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                if kind == KIND_DUE {
                    self.execute(
                        "DELETE FROM due WHERE time = ?1 AND run = ?2",
                        params![value, run],
                    )?;
                } else {
                    self.execute(
                        "DELETE FROM tasks WHERE queue = ?1 AND priority = ?2 AND seq = ?3",
                        params![value >> 8, value & 0xff, id],
                    )?;
                }
            }
        }
        self.execute("DELETE FROM state WHERE run = ?1", [run])?;
        self.execute("DELETE FROM history WHERE run = ?1", [run])?;
        self.execute("DELETE FROM outbox WHERE run = ?1", [run])?;
        self.execute("DELETE FROM attributes WHERE run = ?1", [run])?;
        Ok(self.execute("DELETE FROM executions WHERE run = ?1", [run])? > 0)
    }

    /// Remembers the number of a deleted run that was the newest: the rows no longer tell it.
    fn keep_run_high_water(&self, deleted: RunNo) -> Result<(), Error> {
        let newest: Option<i64> = self
            .conn
            .prepare_cached("SELECT max(run) FROM executions")?
            .query_row([], |row| row.get(0))?;
        if newest < Some(deleted.0) {
            self.execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
                params![META_RUN_HIGH_WATER, deleted.0],
            )?;
        }
        Ok(())
    }

    fn put_namespace(&mut self, write: &NamespaceWrite) -> Result<(), Error> {
        let number = self.namespace(&write.id)?;
        self.execute(
            "UPDATE namespaces SET name = ?2, value = ?3 WHERE no = ?1",
            params![number, write.name, write.value.as_deref()],
        )?;
        Ok(())
    }

    fn put_queue_record(&mut self, record: &QueueRecord) -> Result<(), Error> {
        let QueueRecord { queue, value } = record;
        let namespace = self.namespace(&queue.namespace)?;
        self.execute(
            "INSERT INTO queue_records (namespace, name, kind, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET value = excluded.value",
            params![namespace, &*queue.name, queue.kind, &value[..]],
        )?;
        Ok(())
    }

    /// Deletes a namespace's record and those of its queues, and its number too when nothing uses it.
    fn remove_namespace(&mut self, id: &NamespaceId) -> Result<(), Error> {
        let number = self.namespace(id)?;
        self.execute(
            "UPDATE namespaces SET name = NULL, value = NULL WHERE no = ?1",
            [number],
        )?;
        self.execute("DELETE FROM queue_records WHERE namespace = ?1", [number])?;
        self.execute(
            "DELETE FROM namespaces WHERE no = ?1
               AND NOT EXISTS (SELECT 1 FROM executions WHERE namespace = ?1) AND NOT EXISTS (SELECT 1 FROM queues WHERE namespace = ?1)",
            [number],
        )?;
        self.known.namespaces.remove(id);
        Ok(())
    }

    /// A namespace's number; given out on first use.
    fn namespace(&mut self, id: &NamespaceId) -> Result<i64, Error> {
        if let Some(number) = self.known.namespaces.get(id) {
            return Ok(*number);
        }
        let known: Option<i64> = self
            .conn
            .prepare_cached("SELECT no FROM namespaces WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let number = match known {
            Some(number) => number,
            None => self
                .conn
                .prepare_cached("INSERT INTO namespaces (id) VALUES (?1)")?
                .insert([id])?,
        };
        self.known.namespaces.insert(*id, number);
        Ok(number)
    }

    /// A queue's number; given out on first use.
    fn queue(&mut self, queue: &QueueName) -> Result<i64, Error> {
        if let Some(number) = self.known.queues.get(queue) {
            return Ok(*number);
        }
        let namespace = self.namespace(&queue.namespace)?;
        let known: Option<i64> = self
            .conn
            .prepare_cached(
                "SELECT id FROM queues WHERE namespace = ?1 AND name = ?2 AND kind = ?3",
            )?
            .query_row(params![namespace, &*queue.name, queue.kind], |row| {
                row.get(0)
            })
            .optional()?;
        let number = match known {
            Some(number) => number,
            None => self
                .conn
                .prepare_cached("INSERT INTO queues (namespace, name, kind) VALUES (?1, ?2, ?3)")?
                .insert(params![namespace, &*queue.name, queue.kind])?,
        };
        self.known.queues.insert(queue.clone(), number);
        Ok(number)
    }
}
