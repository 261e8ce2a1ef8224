//! The tables, and how a data file of an older format becomes one of the newest.
//!
//! Pages, not rows, are what a commit writes: keys are integers, and what changes together lies
//! together.
//!
//! `state` holds two kinds of rows that are not the engine's, under negative kinds: the run's
//! wake-up time and the places of its tasks. They answer "what is in `due` and `tasks` of this run"
//! from the page that the run's commits write anyway; an index by run on each of the two tables
//! would cost one more page per change.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::Error;

/// Marks the file as ours, in the SQLite header ("Tide").
pub(super) const APPLICATION_ID: i32 = 0x5469_6465;

/// The format that this binary writes, and the newest that it reads.
pub(super) const FORMAT: i64 = MIGRATIONS.len() as i64;

/// `state.kind` of the row that holds the run's wake-up time, as an integer.
pub(super) const KIND_DUE: i64 = -1;
/// `state.kind` of the rows that say where the run's tasks stand: `id` is the task's seq, the value
/// is `queue << 8 | priority`.
pub(super) const KIND_TASK: i64 = -2;

/// `meta` key: the format version. `PRAGMA user_version` repeats it for readers of the bare header.
const META_FORMAT: &str = "format";
/// `meta` key: no run number up to this one may be given out again.
pub(super) const META_RUN_HIGH_WATER: &str = "run_high_water";
/// `meta` key: the last frame of a log that the tables hold; it only grows, over all logs of the file.
pub(super) const META_APPLIED_LSN: &str = "applied_lsn";
/// `meta` key: the id of the log beside the file. It is there from the log's beginning to a clean stop:
/// as long as it is, the file is not all there is.
pub(super) const META_LOG: &str = "log";

/// `MIGRATIONS[n]` takes a file from format n to format n + 1; format 0 is the empty file. A format
/// that was released is never edited: add a step.
const MIGRATIONS: &[&[&str]] = &[
    &[TABLES, crate::visibility::layout::INDEXES],
    &[QUEUE_RECORDS],
    // A binary that knows no log must not touch a file that may have one.
    &[LOG],
    // Nor one that knows no checksums a file whose pages carry some.
    &[],
];

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- A namespace's number outlives its record (name and value are NULL then): runs may still use it.
CREATE TABLE namespaces (no INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, name TEXT UNIQUE, value BLOB);

CREATE TABLE executions (
  run INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL,
  workflow_id TEXT NOT NULL,
  run_id BLOB NOT NULL,
  workflow_type TEXT NOT NULL,
  task_queue TEXT NOT NULL,
  status INTEGER NOT NULL,
  start_time INTEGER NOT NULL,
  execution_time INTEGER NOT NULL,
  close_time INTEGER,
  history_length INTEGER,
  history_size_bytes INTEGER,
  execution_duration INTEGER,
  state_transition_count INTEGER,
  parent_workflow_id TEXT,
  parent_run_id TEXT,
  root_workflow_id TEXT,
  root_run_id TEXT,
  division TEXT,
  delete_after INTEGER,
  info BLOB NOT NULL
);
-- For retention; the other indexes are those of `visibility::layout`.
CREATE INDEX executions_delete_after ON executions (delete_after) WHERE delete_after IS NOT NULL;

CREATE TABLE attributes (
  namespace INTEGER NOT NULL, name TEXT NOT NULL, value NOT NULL, run INTEGER NOT NULL,
  PRIMARY KEY (namespace, name, value, run)
) WITHOUT ROWID;

-- Batches lie in the order of their commits, so that those of a transaction share pages whatever runs
-- they are of; only the small index entries are scattered. Clustered by run, a busy store wrote four
-- times the bytes. A history of a run that went on beside many others is read from many pages instead.
CREATE TABLE history (
  run INTEGER NOT NULL, first_event_id INTEGER NOT NULL, last_event_id INTEGER NOT NULL, bytes BLOB NOT NULL
);
CREATE UNIQUE INDEX history_of_run ON history (run, first_event_id);

CREATE TABLE state (
  run INTEGER NOT NULL, kind INTEGER NOT NULL, id INTEGER NOT NULL, value NOT NULL,
  PRIMARY KEY (run, kind, id)
) WITHOUT ROWID;

CREATE TABLE due (time INTEGER NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (time, run)) WITHOUT ROWID;

CREATE TABLE queues (
  id INTEGER PRIMARY KEY, namespace INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
  UNIQUE (namespace, name, kind)
);

CREATE TABLE tasks (
  queue INTEGER NOT NULL, priority INTEGER NOT NULL, seq INTEGER NOT NULL,
  run INTEGER NOT NULL, scheduled_event_id INTEGER NOT NULL, stamp INTEGER NOT NULL, created INTEGER NOT NULL,
  PRIMARY KEY (queue, priority, seq)
) WITHOUT ROWID;

CREATE TABLE outbox (
  run INTEGER NOT NULL, id INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (run, id)
) WITHOUT ROWID;
";

/// Apart from `queues`, whose rows are forgotten when a queue is empty.
const QUEUE_RECORDS: &str = "
CREATE TABLE queue_records (
  namespace INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (namespace, name, kind)
) WITHOUT ROWID;
";

const LOG: &str = "INSERT INTO meta (key, value) VALUES ('applied_lsn', 0);";

/// The format of an open data file; 0 for one that holds nothing yet.
pub(super) fn format(conn: &Connection) -> Result<i64, Error> {
    let header: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let has_meta: bool = conn.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'meta'",
        [],
        |row| row.get(0),
    )?;
    if !has_meta {
        return Ok(header);
    }
    let stored: Option<i64> = conn
        .query_row(
            "SELECT value FROM meta WHERE key = ?1",
            [META_FORMAT],
            |row| row.get(0),
        )
        .optional()?;
    Ok(header.max(stored.unwrap_or(0)))
}

/// Brings an open data file to [`FORMAT`], each step in its own transaction: a crash in between
/// leaves a file of one format or the next. A newer file is refused.
pub(super) fn migrate(conn: &mut Connection) -> Result<(), Error> {
    migrate_with(conn, MIGRATIONS)
}

fn migrate_with(conn: &mut Connection, migrations: &[&[&str]]) -> Result<(), Error> {
    let supported = migrations.len() as i64;
    let found = format(conn)?;
    if found > supported {
        return Err(Error::NewerFormat { found, supported });
    }
    for (step, scripts) in migrations.iter().enumerate().skip(found.max(0) as usize) {
        let transaction = Transaction::new(conn, TransactionBehavior::Immediate)?;
        for sql in *scripts {
            transaction.execute_batch(sql)?;
        }
        let reached = step as i64 + 1;
        transaction
            .execute("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", params![META_FORMAT, reached])?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", reached)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_run_once_each_and_in_order() {
        let mut conn = Connection::open_in_memory().unwrap();
        let steps = [
            MIGRATIONS[0],
            &["CREATE TABLE second (x);", "INSERT INTO second VALUES (1);"],
            &["INSERT INTO second VALUES (2);"],
        ];
        migrate_with(&mut conn, &steps[..1]).unwrap();
        assert_eq!(format(&conn).unwrap(), 1);
        migrate_with(&mut conn, &steps).unwrap();
        migrate_with(&mut conn, &steps).unwrap();
        assert_eq!(format(&conn).unwrap(), 3);
        let rows: Vec<i64> = conn
            .prepare("SELECT x FROM second")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(rows, [1, 2]);
    }

    #[test]
    fn a_file_without_a_log_holds_no_frame() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate_with(&mut conn, &MIGRATIONS[..2]).unwrap();
        migrate(&mut conn).unwrap();
        let applied: i64 = conn
            .query_row(
                "SELECT value FROM meta WHERE key = ?1",
                [META_APPLIED_LSN],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!((format(&conn).unwrap(), applied), (FORMAT, 0));
    }

    /// The file of a binary that knew no records of queues.
    #[test]
    fn a_file_of_the_first_format_keeps_its_data_and_takes_queue_records() {
        use super::super::{read, write};

        let mut conn = Connection::open_in_memory().unwrap();
        migrate_with(&mut conn, &MIGRATIONS[..1]).unwrap();
        conn.execute(
            "INSERT INTO namespaces (id, name, value) VALUES (?1, 'kept', x'01')",
            [[1u8; 16]],
        )
        .unwrap();
        migrate(&mut conn).unwrap();
        assert_eq!(format(&conn).unwrap(), FORMAT);
        assert_eq!(read::namespaces(&conn).unwrap()[0].name, "kept");

        let record = crate::QueueRecord {
            queue: crate::QueueName {
                namespace: [1; 16],
                name: "q".into(),
                kind: 2,
            },
            value: bytes::Bytes::from_static(b"set"),
        };
        let commit = crate::Commit {
            queues: vec![record.clone()],
            ..Default::default()
        };
        write::apply(&conn, &mut write::Known::default(), &[&commit]).unwrap();
        assert_eq!(read::queue_records(&conn).unwrap(), [record]);
    }

    #[test]
    fn a_failed_step_leaves_the_format_before_it() {
        let mut conn = Connection::open_in_memory().unwrap();
        let steps = [
            MIGRATIONS[0],
            &["CREATE TABLE second (x);", "SELECT no_such_function();"],
        ];
        assert!(migrate_with(&mut conn, &steps).is_err());
        assert_eq!(format(&conn).unwrap(), 1);
        let second: i64 = conn
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'second'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(second, 0);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        conn.execute("UPDATE meta SET value = 99 WHERE key = 'format'", [])
            .unwrap();
        assert!(matches!(
            migrate(&mut conn),
            Err(Error::NewerFormat {
                found: 99,
                supported: FORMAT
            })
        ));
    }
}
