//! What SQLite's errors mean to the callers of the store.

use rusqlite::ErrorCode;

use crate::Error;

impl From<rusqlite::Error> for Error {
    fn from(fault: rusqlite::Error) -> Self {
        use rusqlite::Error as Sqlite;
        match &fault {
            Sqlite::SqliteFailure(code, _) => match code.code {
                ErrorCode::ConstraintViolation => Error::Rejected(fault.to_string()),
                ErrorCode::DatabaseCorrupt if code.extended_code == tidemill_checksums::DAMAGED => {
                    let damage = tidemill_checksums::last_damage().unwrap_or_default();
                    Error::Corrupt(format!("{fault}: {damage}"))
                }
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Error::Corrupt(fault.to_string())
                }
                ErrorCode::DiskFull => Error::Io(format!(
                    "{fault}: free some disk space, commits go on as soon as there is some"
                )),
                ErrorCode::ReadOnly => Error::Io(format!(
                    "{fault}: mount the file system writable, commits go on then"
                )),
                ErrorCode::SystemIoFailure => Error::Io(format!(
                    "{fault}: see the system's log for the disk, commits go on when it works"
                )),
                _ => Error::Io(fault.to_string()),
            },
            // A column that does not hold what this module writes into it.
            Sqlite::FromSqlConversionFailure(..)
            | Sqlite::InvalidColumnType(..)
            | Sqlite::IntegralValueOutOfRange(..)
            | Sqlite::Utf8Error(..) => Error::Corrupt(fault.to_string()),
            _ => Error::Io(fault.to_string()),
        }
    }
}
