//! What the data file takes, and whether it is as it was written.
//!
//! SQLite checks the structure of every page and that tables and indexes agree, and with each page that it
//! reads its checksum is compared. The histories' own order is checked here. In a file of a version that
//! knew no checksums, a changed byte within a value is not seen.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tidemill_checksums::DAMAGED;

use super::{Writer, schema};
use crate::log::disk::OsDisk;
use crate::logged::codec;
use crate::{Error, Examination, Size, log};

/// Findings of one kind that are told; more only repeat what is known by then.
const FINDINGS_MAX: i64 = 100;

pub(super) fn examine(
    conn: &Connection,
    path: Option<&Path>,
    complete: bool,
) -> Result<Examination, Error> {
    let mut found = Examination {
        path: path.map(Path::to_owned),
        page_bytes: number(conn, "PRAGMA page_size")?,
        beside: path.map(beside).unwrap_or_default(),
        ..Examination::default()
    };
    found.checksums = tidemill_checksums::is_checked(conn)?;
    found.bytes = found.page_bytes * number(conn, "PRAGMA page_count")?;
    found.format = match schema::format(conn) {
        Ok(format) => format,
        Err(error) => {
            found.damage.push(format!("meta: {error}"));
            number(conn, "PRAGMA user_version")?
        }
    };
    found.free_bytes = found.page_bytes * number(conn, "PRAGMA freelist_count")?;
    if complete {
        integrity(conn, &mut found.damage);
        let sizes = "SELECT name, sum(pgsize) FROM dbstat WHERE aggregate = TRUE GROUP BY name ORDER BY 2 DESC, 1";
        match pairs(conn, sizes) {
            Ok(sizes) => found.tables = sizes,
            Err(error) => found.damage.push(format!("sizes of tables: {error}")),
        }
        records(conn, &mut found.damage);
    }
    let mut count = |what: &str, sql: &str| match number(conn, sql) {
        Ok(number) => number,
        Err(error) => {
            found.damage.push(format!("{what}: {error}"));
            0
        }
    };
    let all = count("executions", "SELECT count(*) FROM executions");
    found.runs_open = count(
        "executions_list",
        "SELECT count(*) FROM namespaces n CROSS JOIN executions e INDEXED BY executions_list
         ON e.namespace = n.no AND COALESCE(close_time, 9223372036854775807) = 9223372036854775807",
    );
    found.runs_closed = (all - found.runs_open).max(0);
    found.effects = count("outbox", "SELECT count(*) FROM outbox");
    Ok(found)
}

/// What a file that was not closed has in the log beside it.
pub(super) fn log(tables: &Writer, path: &Path, found: &mut Examination) {
    let (applied, id) = match tables.log() {
        Ok((applied, Some(id))) => (applied, id),
        Ok((_, None)) => return,
        // That the record cannot be read was found before.
        Err(_) => return,
    };
    let count = &mut |_, payload| {
        found.unapplied += 1;
        codec::decode(payload).map(drop)
    };
    match log::replay(&OsDisk::beside(path), &id, applied, u64::MAX, count) {
        Ok(Some(_)) => {}
        Ok(None) => found.damage.push(
            "log: the file was not closed, and the log beside it (its name and \"-log-1\" or another number) is missing".into(),
        ),
        Err(error) => found.damage.push(format!("log: {error}")),
    }
}

fn number(conn: &Connection, sql: &str) -> Result<i64, Error> {
    Ok(conn.query_row(sql, [], |row| row.get(0))?)
}

fn pairs(conn: &Connection, sql: &str) -> Result<Vec<Size>, Error> {
    let mut statement = conn.prepare(sql)?;
    let read = statement.query_map([], |row| {
        Ok(Size {
            name: row.get(0)?,
            bytes: row.get(1)?,
        })
    })?;
    Ok(read.collect::<Result<_, _>>()?)
}

/// SQLite's own check. It names trees by their root page; people know them as tables.
pub(super) fn integrity(conn: &Connection, damage: &mut Vec<String>) {
    let trees: HashMap<i64, String> = pairs(conn, "SELECT name, rootpage FROM sqlite_schema")
        .unwrap_or_default()
        .into_iter()
        .map(|tree| (tree.bytes, tree.name))
        .collect();
    // What was found before an error counts: the first rows are about pages, and a damaged one ends the
    // comparison of tables and indexes that comes after.
    let mut check = || -> Result<(), Error> {
        let mut statement = conn.prepare(&format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let text: String = row.get(0)?;
            let lines = text
                .lines()
                .filter(|line| *line != "ok" && !line.starts_with("***"));
            damage.extend(lines.map(|line| named(line, &trees)));
        }
        Ok(())
    };
    if let Err(error) = check() {
        damage.push(format!("the check of all pages ended early: {error}"));
    }
}

/// What SQLite says of a page that it was refused, and of one among those of a long value.
const REFUSED: &str = "unable to get the page. error code=";
const REFUSED_OVERFLOW: &str = "failed to get page ";
const CHECKSUM: &str = "is not as it was written, its checksum differs";

/// `Tree 7 page 45 cell 3: ...` as `history: page 45 cell 3: ...`.
fn named(line: &str, trees: &HashMap<i64, String>) -> String {
    let line = &match line.split_once(REFUSED_OVERFLOW) {
        Some((place, page)) => format!("{place}page {page} {CHECKSUM}"),
        None => line.replace(&format!(": {REFUSED}{DAMAGED}"), &format!(" {CHECKSUM}")),
    };
    let tree = line.strip_prefix("Tree ").and_then(|rest| {
        let (number, rest) = rest.split_once(' ')?;
        let name = trees.get(&number.parse().ok()?)?;
        Some(format!("{name}: {rest}"))
    });
    tree.unwrap_or_else(|| line.to_owned())
}

/// Whether the records of a run are all there.
fn records(conn: &Connection, damage: &mut Vec<String>) {
    let checks = [
        (
            "history",
            "SELECT 'run ' || run || ': events ' || (before + 1) || ' to ' || (first_event_id - 1) || ' are not there' FROM (
               SELECT run, first_event_id, coalesce(lag(last_event_id) OVER (PARTITION BY run ORDER BY first_event_id), 0) AS before FROM history
             ) WHERE first_event_id <> before + 1",
        ),
        (
            "history",
            "SELECT 'run ' || e.run || ' has none' FROM executions e WHERE NOT EXISTS (SELECT 1 FROM history h WHERE h.run = e.run)",
        ),
        (
            "tasks",
            "SELECT 'task ' || t.seq || ' is of run ' || t.run || ', which is not there' FROM tasks t
             WHERE NOT EXISTS (SELECT 1 FROM executions e WHERE e.run = t.run)",
        ),
        (
            "due",
            "SELECT 'a wake-up is of run ' || d.run || ', which is not there' FROM due d
             WHERE NOT EXISTS (SELECT 1 FROM executions e WHERE e.run = d.run)",
        ),
    ];
    for (table, sql) in checks {
        let check = || -> Result<Vec<String>, Error> {
            let mut statement = conn.prepare(&format!("{sql} LIMIT {FINDINGS_MAX}"))?;
            let found = statement.query_map([], |row| row.get(0))?;
            Ok(found.collect::<Result<_, _>>()?)
        };
        match check() {
            Ok(found) => damage.extend(found.iter().map(|text| format!("{table}: {text}"))),
            Err(error) => damage.push(format!("{table}: {error}")),
        }
    }
}

/// The files whose names begin with the data file's.
pub(super) fn beside(path: &Path) -> Vec<Size> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<Size> = entries
        .filter_map(|entry| {
            let other = entry.file_name().to_string_lossy().into_owned();
            let rest = other.strip_prefix(&*name)?;
            let bytes = entry.metadata().ok()?.len() as i64;
            // The shared index of a log holds nothing that is not in the log.
            let belongs = rest.starts_with('-') && rest != "-shm";
            (belongs && bytes > 0).then_some(Size { name: other, bytes })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_named_as_tables() {
        let trees = HashMap::from([(7, "history".to_owned())]);
        for (line, expected) in [
            (
                "Tree 7 page 45 cell 3: Rowid 9 out of order",
                "history: page 45 cell 3: Rowid 9 out of order",
            ),
            ("Tree 8 page 45: x", "Tree 8 page 45: x"),
            (
                &format!("Tree 7 page 45: unable to get the page. error code={DAMAGED}"),
                "history: page 45 is not as it was written, its checksum differs",
            ),
            (
                "Tree 7 page 45 cell 3: failed to get page 46",
                "history: page 45 cell 3: page 46 is not as it was written, its checksum differs",
            ),
            (
                "row 5 missing from index history_of_run",
                "row 5 missing from index history_of_run",
            ),
        ] {
            assert_eq!(named(line, &trees), expected);
        }
    }
}
