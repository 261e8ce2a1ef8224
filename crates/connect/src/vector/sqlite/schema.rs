//! The file of an embedded index: opening it, its tables, its format.

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::super::Error;
use super::{failed, unavailable};

/// Marks the file as ours, in the SQLite header ("TdVx").
const APPLICATION_ID: i64 = 0x5464_5678;
/// The format that is written; a newer one is refused. Format 1 had no `model.embedder`.
const FORMAT: i64 = 2;
/// How long a process waits for another one that writes.
const BUSY: Duration = Duration::from_secs(30);

/// Vectors lie apart from texts, so that a search reads vectors only. They are rows of a plain
/// table, which costs searches and pays elsewhere: at 100,000 vectors of 384 dimensions a `vec0`
/// table answers in about 65 ms where this takes about 115 ms (two cores, exact search both), but
/// filling it takes longer for the vectors alone than this does with texts and metadata, it gives
/// 4,096 matches at most, and vectors of length zero have no place in its order.
const SCHEMA: &str = "
CREATE TABLE model (
  one INTEGER PRIMARY KEY CHECK (one = 1), model TEXT NOT NULL, revision TEXT NOT NULL,
  dimension INTEGER NOT NULL, embedder TEXT
);
-- Without a hash a document is not processed: some of its chunks were removed.
CREATE TABLE documents (no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, hash TEXT);
CREATE TABLE chunks (
  no INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (no), id TEXT NOT NULL,
  position INTEGER NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL,
  UNIQUE (document, id)
);
-- Little-endian 32-bit floats.
CREATE TABLE vectors (chunk INTEGER PRIMARY KEY REFERENCES chunks (no), vector BLOB NOT NULL);
";

/// Makes sqlite-vec's functions a part of every connection that is opened from now on.
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[expect(
            unsafe_code,
            reason = "SQLite takes an extension's entry point as a function without its types; \
                      this one has the signature that SQLite calls"
        )]
        // SAFETY: `sqlite3_vec_init` is an extension entry point of the linked sqlite-vec.
        unsafe {
            rusqlite::ffi::sqlite3_auto_extension(Some(std::mem::transmute::<
                *const (),
                unsafe extern "C" fn(
                    *mut rusqlite::ffi::sqlite3,
                    *mut *mut std::ffi::c_char,
                    *const rusqlite::ffi::sqlite3_api_routines,
                ) -> std::ffi::c_int,
            >(
                sqlite_vec::sqlite3_vec_init as *const (),
            )));
        }
    });
}

/// Opens the file, which `create` makes if it is not there or empty; `None` if it is and should not
/// be made. A file that is not ours or of a newer format stays as it is.
pub(super) fn connect(name: &str, path: &Path, create: bool) -> Result<Option<Connection>, Error> {
    register();
    if create && let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| unavailable(name, format!("cannot make {}: {e}", folder.display())))?;
    }
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let mut conn = Connection::open_with_flags(path, flags).map_err(|e| failed(name, e))?;
    conn.busy_timeout(BUSY).map_err(|e| failed(name, e))?;
    if !is_ours(&conn, name, path)? {
        if !create {
            return Ok(None);
        }
        make(&mut conn).map_err(|e| failed(name, e))?;
        // Another process may have been faster.
        is_ours(&conn, name, path)?;
    }
    upgrade(&mut conn).map_err(|e| failed(name, e))?;
    conn.pragma_update(None, "synchronous", "FULL")
        .map_err(|e| failed(name, e))?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(Some(conn))
}

/// Whether the file is an index; `false` if it is empty, an error if it is something else.
fn is_ours(conn: &Connection, name: &str, path: &Path) -> Result<bool, Error> {
    let number = |pragma| conn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let look = || {
        let tables = "SELECT count(*) FROM sqlite_schema";
        let tables: i64 = conn.query_row(tables, [], |row| row.get(0))?;
        Ok((number("application_id")?, number("user_version")?, tables))
    };
    match look().map_err(|e: rusqlite::Error| failed(name, e))? {
        (APPLICATION_ID, 1..=FORMAT, _) => Ok(true),
        (APPLICATION_ID, newer, _) => Err(Error::Invalid(format!(
            "the vector index {name} has format {newer} and this binary knows {FORMAT}: use the \
             version of tidemill that wrote {}; the file is left as it is",
            path.display()
        ))),
        (0, 0, 0) => Ok(false),
        _ => Err(Error::Invalid(format!(
            "{} is a SQLite file of something else than a vector index: name another index",
            path.display()
        ))),
    }
}

fn make(conn: &mut Connection) -> rusqlite::Result<()> {
    // SQLite does not wait by itself when two processes change the journal mode at once.
    let began = Instant::now();
    while let Err(error) = conn.pragma_update(None, "journal_mode", "WAL") {
        let busy = error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
        if !busy || began.elapsed() > BUSY {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let format: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if format == 0 {
        tx.execute_batch(SCHEMA)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", FORMAT)?;
    }
    tx.commit()
}

/// Brings a file of an earlier format up to this one's.
fn upgrade(conn: &mut Connection) -> rusqlite::Result<()> {
    let format = |conn: &Connection| {
        conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
    };
    if format(conn)? == FORMAT {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if format(&tx)? == 1 {
        tx.execute_batch("ALTER TABLE model ADD COLUMN embedder TEXT")?;
        tx.pragma_update(None, "user_version", FORMAT)?;
    }
    tx.commit()
}
