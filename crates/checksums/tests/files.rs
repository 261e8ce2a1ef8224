//! Files of SQLite's, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use tidemill_checksums::{
    DAMAGED, Flusher, Found, TRAILER, check, is_checked, last_damage, make_checked, open,
};

const PAGE: usize = 4096;
const ROWS: i64 = 200;

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Rows, an index, and values that take several pages.
fn fill(conn: &Connection) {
    conn.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT NOT NULL, value BLOB NOT NULL);
         CREATE INDEX t_name ON t (name);",
    )
    .unwrap();
    for id in 0..ROWS {
        let value = vec![id as u8; if id % 10 == 0 { 20_000 } else { 100 }];
        conn.execute(
            "INSERT INTO t VALUES (?1, ?2, ?3)",
            (id, format!("name {id}"), value),
        )
        .unwrap();
    }
}

fn made(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("a.db");
    let conn = open(&path, flags()).unwrap();
    make_checked(&conn).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    fill(&conn);
    path
}

fn checked(path: &Path) -> bool {
    is_checked(&open(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()).unwrap()
}

type Rows = Vec<(i64, String, Vec<u8>)>;

/// Everything in the table, by each row's key and by the index.
fn all(path: &Path) -> rusqlite::Result<(Rows, i64)> {
    let conn = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let rows = conn
        .prepare("SELECT id, name, value FROM t ORDER BY id")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let names = conn.query_row(
        "SELECT count(*) FROM t INDEXED BY t_name WHERE name >= 'name'",
        [],
        |row| row.get(0),
    )?;
    Ok((rows, names))
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
        && error.sqlite_error().map(|error| error.extended_code) == Some(DAMAGED)
}

#[test]
fn every_page_of_a_new_file_is_sealed() {
    let folder = TempDir::new().unwrap();
    let path = made(&folder);
    assert!(checked(&path) && sound_pages(&path) > 100);
}

/// How many pages the file has, all of them with the checksum that fits.
fn sound_pages(path: &Path) -> usize {
    let data = fs::read(path).unwrap();
    for (index, page) in data.chunks(PAGE).enumerate() {
        let number = index as u64 + 1;
        assert_eq!(check(page, number), Found::Sound, "page {number}");
    }
    data.len() / PAGE
}

/// All bytes of the file's header, and two of each page.
#[test]
fn a_changed_byte_is_an_error_or_makes_no_difference() {
    let folder = TempDir::new().unwrap();
    let path = made(&folder);
    let sound = fs::read(&path).unwrap();
    let expected = all(&path).unwrap();
    let mut places: Vec<usize> = (0..100).collect();
    for page in 0..sound.len() / PAGE {
        places.push(page * PAGE + page * 1009 % PAGE);
        places.push(page * PAGE + PAGE - 1 - page % 16);
    }
    let mut named = 0;
    for place in places {
        let mut data = sound.clone();
        data[place] ^= 1 << (place % 8);
        fs::write(&path, &data).unwrap();
        last_damage();
        match all(&path) {
            Ok(found) => assert!(found == expected, "byte {place} is served"),
            Err(_) => {
                if let Some(damage) = last_damage()
                    && damage.contains(&format!("page {} ", place / PAGE + 1))
                {
                    named += 1;
                }
            }
        }
    }
    // Of the first page SQLite itself refuses some.
    assert!(named > sound.len() / PAGE, "{named} are named");
}

#[test]
fn damage_leaves_a_transaction_open() {
    let folder = TempDir::new().unwrap();
    let path = made(&folder);
    let mut data = fs::read(&path).unwrap();
    // Within a value that takes several pages.
    let at = data
        .windows(PAGE / 2)
        .position(|bytes| bytes.iter().all(|byte| *byte == 100));
    data[at.unwrap()] ^= 1;
    fs::write(&path, data).unwrap();
    let conn = open(&path, flags()).unwrap();
    conn.execute_batch("BEGIN; CREATE TABLE other (x); INSERT INTO other VALUES (1)")
        .unwrap();
    let error = conn
        .execute("UPDATE t SET value = value || x'00'", [])
        .unwrap_err();
    assert!(is_corrupt(&error), "{error}");
    conn.execute_batch("COMMIT").unwrap();
    let kept: i64 = conn
        .query_row("SELECT x FROM other", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1);
}

#[test]
fn a_file_without_checksums_stays_one_and_is_served() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.db");
    fill(&Connection::open(&path).unwrap());
    let expected = all(&path).unwrap();
    let conn = open(&path, flags()).unwrap();
    conn.execute("UPDATE t SET name = 'name'", []).unwrap();
    conn.execute("DELETE FROM t WHERE id > 100", []).unwrap();
    drop(conn);
    assert!(!checked(&path));
    assert_eq!(all(&path).unwrap().1, 101);
    assert_eq!(expected.1, ROWS);
    // Others read and write it as well.
    let plain = Connection::open(&path).unwrap();
    plain.execute("DELETE FROM t WHERE id > 50", []).unwrap();
    drop(plain);
    assert_eq!(all(&path).unwrap().1, 51);
}

/// With a cache so small that pages are written before the first one, which says that there are checksums.
#[test]
fn a_copy_has_checksums_whatever_it_is_a_copy_of() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.db");
    fill(&Connection::open(&path).unwrap());
    let memory = open(":memory:", flags()).unwrap();
    fill(&memory);
    let sources = [
        open(made(&folder), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap(),
        open(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap(),
        memory,
    ];
    for (number, source) in sources.iter().enumerate() {
        make_checked(source).unwrap();
        source.execute_batch("PRAGMA cache_size = 5").unwrap();
        let copy = folder.path().join(format!("copy-{number}.db"));
        source
            .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
            .unwrap();
        assert!(checked(&copy), "copy {number}");
        assert!(sound_pages(&copy) > 100);
        assert_eq!(all(&copy).unwrap().1, ROWS);
    }
}

#[test]
fn an_empty_file_is_not_written_without_checksums() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.db");
    let conn = open(&path, flags()).unwrap();
    assert!(conn.execute_batch("CREATE TABLE t (x)").is_err());
    drop(conn);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn another_program_reads_the_file() {
    let folder = TempDir::new().unwrap();
    let path = made(&folder);
    let expected = all(&path).unwrap();
    let plain = Connection::open(&path).unwrap();
    let found: String = plain
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(found, "ok");
    drop(plain);
    assert_eq!(all(&path).unwrap(), expected);
}

#[test]
fn a_page_that_another_program_wrote_is_said_to_be_that() {
    let folder = TempDir::new().unwrap();
    let path = made(&folder);
    let mut data = fs::read(&path).unwrap();
    let end = data.len();
    data[end - TRAILER..].fill(0);
    fs::write(&path, data).unwrap();
    assert!(is_corrupt(&all(&path).unwrap_err()));
    assert!(last_damage().unwrap().contains("another program wrote it"));
}

/// What is in the log is read from there, by other connections too, until it is copied to the file.
#[test]
fn a_changed_page_of_the_log_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = made(&folder);
    let writer = open(&path, flags()).unwrap();
    writer
        .execute("UPDATE t SET value = zeroblob(3000) WHERE id = 1", [])
        .unwrap();
    let log = folder.path().join("a.db-wal");
    let sound = fs::read(&log).unwrap();
    let expected = all(&path).unwrap();
    let mut damaged = sound.clone();
    for frame in (32 + 24..sound.len()).step_by(PAGE + 24) {
        damaged[frame + 2000] ^= 4;
    }
    fs::write(&log, &damaged).unwrap();
    let error = all(&path).unwrap_err();
    assert!(is_corrupt(&error), "{error}");
    assert!(last_damage().unwrap().contains("log beside the file"));
    // Nor does it come to the file.
    assert!(
        writer
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .is_err()
    );
    fs::write(&log, &sound).unwrap();
    assert_eq!(all(&path).unwrap(), expected);
}

/// Another file's flushes would be of no use to SQLite.
#[test]
fn a_flusher_is_of_a_file_that_is_open() {
    let folder = TempDir::new().unwrap();
    let path = made(&folder).canonicalize().unwrap();
    let handle = || {
        fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap()
    };
    assert!(Flusher::new(&path, handle()).is_err());
    let conn = open(&path, flags()).unwrap();
    conn.execute("DELETE FROM t WHERE id = 1", []).unwrap();
    let flusher = Flusher::new(&path, handle()).unwrap();
    flusher.flush().unwrap();
}
