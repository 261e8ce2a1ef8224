//! A data file that is only looked at: it and its log stay as they are, byte for byte.

use std::fs::{self, File, TryLockError};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;

use super::{SqliteStore, open, schema};
use crate::Error;

/// A store whose every commit is refused.
// Fields are dropped in this order.
pub struct ReadOnly {
    store: SqliteStore,
    _index: Option<Index>,
    /// Nobody else may change the file meanwhile.
    _lock: Option<File>,
}

/// The shared index of a log, which SQLite makes even for readers.
struct Index(PathBuf);

impl Drop for Index {
    fn drop(&mut self) {
        // What stays is made anew by whoever opens the file next.
        let _ = fs::remove_file(&self.0);
    }
}

impl Deref for ReadOnly {
    type Target = SqliteStore;

    fn deref(&self) -> &SqliteStore {
        &self.store
    }
}

impl ReadOnly {
    /// Opens a data file of this format or an older one. A file that an engine has open is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = path.canonicalize().map_err(|fault| Error::Unusable {
            path: path.display().to_string(),
            reason: fault.to_string(),
        })?;
        let lock = lock(&path)?;
        let data = File::open(&path).map_err(|fault| open::unusable(&path, &fault))?;
        if data.metadata().is_ok_and(|file| file.len() == 0) {
            return Err(Error::NotADataFile {
                path: path.display().to_string(),
                reason: "it is empty".into(),
            });
        }
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let logged = fs::metadata(beside("-wal")).is_ok_and(|log| log.len() > 0);
        let index = beside("-shm");
        let index = (logged && !index.exists()).then_some(Index(index));
        open::check_header(&path, &data)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = match logged {
            true => tidemill_checksums::open(&path, flags),
            // Without a log nothing but the file is needed: no index is made, no lock is taken.
            false => tidemill_checksums::open(immutable(&path), flags | OpenFlags::SQLITE_OPEN_URI),
        };
        let conn = conn.map_err(|fault| open::refused(&path, fault))?;
        conn.busy_timeout(open::BUSY_TIMEOUT)?;
        conn.execute_batch(
            "PRAGMA query_only = ON; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;",
        )
        .map_err(|fault| open::refused(&path, fault))?;
        // Damage is for the examination to tell.
        let found = match schema::format(&conn) {
            Err(Error::Corrupt(_)) => 0,
            found => found?,
        };
        if found > schema::FORMAT {
            return Err(Error::NewerFormat {
                found,
                supported: schema::FORMAT,
            });
        }
        conn.set_prepared_statement_cache_capacity(64);
        Ok(Self {
            store: SqliteStore::single(conn, Some(path)),
            _index: index,
            _lock: lock,
        })
    }
}

/// The lock of those who have the file open, if it was ever opened here; a copy has none.
fn lock(path: &Path) -> Result<Option<File>, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let Ok(file) = File::open(name) else {
        return Ok(None);
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: path.display().to_string(),
        }),
        // A file system without locks: whoever is there cannot be seen.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// The file as one that nobody changes.
pub(super) fn immutable(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;

    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(*byte));
            }
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_is_a_uri() {
        for (path, expected) in [
            ("/a/b.db", "file:/a/b.db?immutable=1"),
            ("/a b?c#d%", "file:/a%20b%3Fc%23d%25?immutable=1"),
        ] {
            assert_eq!(immutable(Path::new(path)), expected);
        }
    }
}
