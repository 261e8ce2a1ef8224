//! Opening the data file: nobody else may have it open, and nothing is changed in a file that is
//! not ours or that a newer version wrote.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tidemill_checksums::Flusher;

use super::schema;
use super::{Durability, Options};
use crate::Error;

/// How long a connection waits for a lock. Only foreign tools (a backup, the `sqlite3` shell) can hold
/// one for long; our own connections never wait for each other beyond an instant.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// SQLite's header: its magic, `user_version` and `application_id`, at fixed places.
const HEADER_BYTES: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// An open data file.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) path: PathBuf,
    /// A handle on the data file for flushing it. POSIX locks are dropped when a process closes *any*
    /// handle of a file, so this one must live as long as there is a connection.
    pub(super) data: Flusher,
    /// Locked while this handle is open.
    pub(super) lock: File,
}

/// Opens or creates the data file.
pub(super) fn open(path: &Path, options: &Options) -> Result<Opened, Error> {
    let path = resolve(path)?;
    let lock = lock(&path)?;
    let data = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|fault| unusable(&path, &fault))?;
    check_header(&path, &data)?;

    let mut writer = tidemill_checksums::open(
        &path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|fault| refused(&path, fault))?;
    tidemill_checksums::make_checked(&writer)?;
    // The file is created in rollback mode, so that its header is complete from its first transaction
    // on: `check_header` may then trust it.
    configure(&writer)?;
    check_tables(&path, &writer)?;
    schema::migrate(&mut writer)?;
    let mode: String = writer
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|fault| refused(&path, fault))?;
    if mode != "wal" {
        return Err(Error::Unusable {
            path: display(&path),
            reason: format!(
                "its file system does not support write-ahead logging (mode {mode}): put the file on a local disk"
            ),
        });
    }
    writer.execute_batch(match options.durability {
        // `fullfsync` matters on macOS alone, where a plain fsync leaves data in the drive's cache.
        Durability::Full => {
            "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;"
        }
        Durability::Relaxed => "PRAGMA synchronous = NORMAL;",
    })?;
    // Checkpoints are run by `checkpoint`; the log gives space back after a burst.
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -49152; PRAGMA temp_store = MEMORY;")?;
    writer.set_prepared_statement_cache_capacity(128);
    let data = Flusher::new(&path, data).map_err(|fault| unusable(&path, &fault))?;
    Ok(Opened {
        writer,
        path,
        data,
        lock,
    })
}

/// What all connections have in common.
pub(super) fn configure(conn: &Connection) -> Result<(), Error> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // Without it, a statement that compares a key with a range of parameters is compiled anew each
    // time it comes out of the cache, in case other values deserve another plan. Ours never do.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// One more connection that may write, for checkpoints.
pub(super) fn checkpoint_connection(path: &Path) -> Result<Connection, Error> {
    let conn = tidemill_checksums::open(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    configure(&conn)?;
    conn.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL; PRAGMA checkpoint_fullfsync = ON; PRAGMA cache_size = 1;")?;
    Ok(conn)
}

/// A connection that only reads.
pub(super) fn reader_connection(path: &Path) -> Result<Connection, Error> {
    let conn = tidemill_checksums::open(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    configure(&conn)?;
    // What the cache holds is void after each commit of the writer; the system's cache is behind it.
    conn.execute_batch("PRAGMA cache_size = -2048; PRAGMA temp_store = MEMORY;")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// The file's real place, so that two names of one file meet at one lock.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, Error> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(fault) if fault.kind() == ErrorKind::NotFound => {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            let Some(name) = path.file_name() else {
                return Err(Error::Unusable {
                    path: display(path),
                    reason: "this does not name a file: give the path of a file".into(),
                });
            };
            match folder.canonicalize() {
                Ok(folder) => Ok(folder.join(name)),
                Err(fault) if fault.kind() == ErrorKind::NotFound => Err(Error::Unusable {
                    path: display(path),
                    reason: format!(
                        "the folder {} does not exist: create it, or choose another --data-file",
                        display(folder)
                    ),
                }),
                Err(fault) => Err(unusable(path, &fault)),
            }
        }
        Err(fault) => Err(unusable(path, &fault)),
    }
}

/// Takes the lock that says "this data file is open". A file beside the data file carries it, because
/// SQLite's own locks on the data file would be lost with any second handle. It is not removed at the
/// end: removing a lock file races with whoever is about to lock it.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    if path.is_dir() {
        return Err(Error::Unusable {
            path: display(path),
            reason: "this is a folder: give the path of a file in it".into(),
        });
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|fault| unusable(Path::new(&name), &fault))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: display(path),
        }),
        Err(TryLockError::Error(fault)) => Err(Error::Unusable {
            path: display(path),
            reason: format!("cannot lock it: {fault}; put the file on a local disk"),
        }),
    }
}

/// Refuses what is not ours before SQLite gets to see it, since opening alone may change a file.
pub(super) fn check_header(path: &Path, mut data: &File) -> Result<(), Error> {
    let not_ours = |reason: &str| Error::NotADataFile {
        path: display(path),
        reason: format!("{reason}; choose another --data-file"),
    };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    data.by_ref()
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .map_err(|fault| unusable(path, &fault))?;
    if header.is_empty() {
        return Ok(());
    }
    let leftover = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(name).is_ok_and(|file| file.len() > 0)
    };
    // A creation that was cut off: the journal takes the file back to nothing.
    let unfinished = leftover("-journal");
    if header.len() < HEADER_BYTES || &header[..16] != MAGIC {
        return if unfinished {
            Ok(())
        } else {
            Err(not_ours("it is not an SQLite file"))
        };
    }
    let field = |at: usize| {
        i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (mut found, application) = (i64::from(field(60)), field(68));
    if application != schema::APPLICATION_ID && !unfinished {
        return Err(not_ours("it is the SQLite file of another application"));
    }
    // A newer version may have raised the format in the log alone. A connection that only reads
    // leaves both files as they are.
    if leftover("-wal") {
        let conn = reader_connection(path).map_err(|fault| Error::Unusable {
            path: display(path),
            reason: fault.to_string(),
        })?;
        found = found.max(schema::format(&conn)?);
    }
    if found > schema::FORMAT {
        if !first_page_is_sound(data, &header) {
            return Err(Error::Corrupt(format!(
                "page 1 is not as it was written: its checksum differs (it names format {found}: if a newer tidemill wrote it, start that one)"
            )));
        }
        return Err(Error::NewerFormat {
            found,
            supported: schema::FORMAT,
        });
    }
    Ok(())
}

/// Bytes of a page, as the header says.
pub(super) fn page_size(header: &[u8]) -> usize {
    match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        size => usize::from(size).max(512),
    }
}

/// Compares the checksum of the page that the header is in: what is read here, SQLite did not read.
fn first_page_is_sound(data: &File, header: &[u8]) -> bool {
    if usize::from(header[20]) != tidemill_checksums::TRAILER {
        return true;
    }
    let mut page = vec![0; page_size(header)];
    data.read_exact_at(&mut page, 0).is_ok()
        && tidemill_checksums::check(&page, 1) == tidemill_checksums::Found::Sound
}

/// The same check for a file whose header could not be trusted: tables without our mark.
fn check_tables(path: &Path, conn: &Connection) -> Result<(), Error> {
    let application: i32 = conn
        .query_row("PRAGMA application_id", [], |row| row.get(0))
        .map_err(|fault| refused(path, fault))?;
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|fault| refused(path, fault))?;
    if tables > 0 && application != schema::APPLICATION_ID {
        return Err(Error::NotADataFile {
            path: display(path),
            reason: "it is the SQLite file of another application; choose another --data-file"
                .into(),
        });
    }
    Ok(())
}

pub(super) fn refused(path: &Path, fault: rusqlite::Error) -> Error {
    match Error::from(fault) {
        Error::Io(reason) => Error::Unusable {
            path: display(path),
            reason,
        },
        other => other,
    }
}

pub(super) fn unusable(path: &Path, fault: &std::io::Error) -> Error {
    let advice = match fault.kind() {
        ErrorKind::PermissionDenied => {
            "give this user the right to write the file and its folder, or choose another --data-file"
        }
        ErrorKind::ReadOnlyFilesystem => "its file system is read-only: choose another --data-file",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some disk space",
        _ => "choose another --data-file",
    };
    Error::Unusable {
        path: display(path),
        reason: format!("{fault}: {advice}"),
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
