mod opening;
mod power;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use super::*;
use crate::log::sim::SimDisk;

/// A store that puts nothing into the tables unless it is told to, or a read needs it.
fn open(conn: Connection, disk: &SimDisk) -> Result<LoggedStore, Error> {
    let options = Options {
        delay: Duration::from_secs(3600),
        bytes: usize::MAX / 8,
    };
    LoggedStore::over(
        SqliteStore::over(conn)?,
        None,
        Arc::new(disk.clone()),
        options,
    )?
    .tended()
}

fn empty() -> Connection {
    Connection::open_in_memory().unwrap()
}

/// What the tables hold now; nothing may be staged.
fn copy(store: &LoggedStore) -> Connection {
    let writer = store.shared.sqlite.writer();
    assert!(writer.holds_nothing());
    copy_of(writer.conn())
}

fn copy_of(conn: &Connection) -> Connection {
    let mut copy = Connection::open_in_memory().unwrap();
    Backup::new(conn, &mut copy)
        .unwrap()
        .run_to_completion(10_000, Duration::ZERO, None)
        .unwrap();
    copy
}

/// Everything that the store's callers can see, whatever numbers stand for it in the tables.
const CONTENT: [&str; 9] = [
    "SELECT n.id, e.* FROM executions e JOIN namespaces n ON n.no = e.namespace ORDER BY e.run",
    "SELECT n.id, a.name, a.value, a.run FROM attributes a JOIN namespaces n ON n.no = a.namespace ORDER BY 1, 2, 3, 4",
    "SELECT run, first_event_id, last_event_id, bytes FROM history ORDER BY 1, 2",
    "SELECT run, kind, id, value FROM state WHERE kind <> -2 ORDER BY 1, 2, 3",
    "SELECT time, run FROM due ORDER BY 1, 2",
    "SELECT n.id, q.name, q.kind, t.priority, t.seq, t.run, t.scheduled_event_id, t.stamp, t.created, s.run
     FROM tasks t JOIN queues q ON q.id = t.queue JOIN namespaces n ON n.no = q.namespace
     LEFT JOIN state s ON s.run = t.run AND s.kind = -2 AND s.id = t.seq AND s.value = q.id << 8 | t.priority ORDER BY t.seq",
    "SELECT run, id, value FROM outbox ORDER BY 1, 2",
    "SELECT id, name, value FROM namespaces WHERE value IS NOT NULL ORDER BY id",
    "SELECT n.id, r.name, r.kind, r.value FROM queue_records r JOIN namespaces n ON n.no = r.namespace ORDER BY 1, 2, 3",
];

fn content(conn: &Connection) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, sql) in CONTENT.iter().enumerate() {
        let mut statement = conn.prepare(sql).unwrap();
        let columns = statement.column_count();
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let values: Vec<_> = (0..columns)
                .filter(|column| names[*column] != "namespace")
                .map(|column| row.get::<_, rusqlite::types::Value>(column).unwrap())
                .collect();
            rows.push(format!("{table}: {values:?}"));
        }
    }
    rows
}

/// What the store shows, staged commits included.
fn shown(store: &LoggedStore) -> Vec<String> {
    store.shared.read_staged(|conn| Ok(content(conn))).unwrap()
}
