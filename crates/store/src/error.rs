//! The store's errors.

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list filter is wrong; the text says where and why.
    #[error("invalid query: {0}")]
    InvalidFilter(String),
    #[error("invalid page token")]
    InvalidPageToken,
    /// The data file was written by a newer version of Tidemill.
    #[error(
        "data file has format {found}, this binary reads up to {supported}: start it with the newer tidemill that wrote it"
    )]
    NewerFormat { found: i64, supported: i64 },
    #[error("{path} is not a Tidemill data file: {reason}")]
    NotADataFile { path: String, reason: String },
    /// Another process has the data file open.
    #[error(
        "data file {path} is in use by another process: stop it, or choose another --data-file"
    )]
    Locked { path: String },
    #[error("cannot use data file {path}: {reason}")]
    Unusable { path: String, reason: String },
    /// The write or read failed (disk full, I/O error). Nothing of the transaction was applied.
    #[error("store: {0}")]
    Io(String),
    /// The commit contradicts what is stored (a history batch twice, a namespace name twice): a bug
    /// of the caller. Nothing was applied, and the store is sound.
    #[error("commit rejected: {0}")]
    Rejected(String),
    /// Stored bytes are not what was written.
    #[error("store is corrupt: {0}")]
    Corrupt(String),
}
