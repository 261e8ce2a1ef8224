//! SQLite files whose pages carry checksums, so that a page that is not as it was written is an error
//! and never an answer.
//!
//! SQLite can leave bytes at the end of each page to whoever writes it to disk. A file that
//! [`make_checked`] was called for has [`TRAILER`] such bytes: a checksum over the page and its number,
//! written with each page and compared with each page that is read. A read that does not fit fails with
//! [`DAMAGED`], and [`last_damage`] tells which page it was. A file that was made without those bytes is
//! read and written as ever, unchecked.
//!
//! Pages in SQLite's write-ahead log have no such checksum: SQLite's own sums over the log, which it
//! compares when it recovers, would not fit then. What this process wrote to a log it remembers the sums
//! of, and compares them.
//!
//! **A flush that succeeds means that all of it is on disk**, though one before it failed: what that one was
//! to write is written again first (`unflushed.rs`). [`Flusher`] does the same beside SQLite.
//!
//! SQLite takes all this as a virtual file system (VFS) that stands before the system's own.

mod flusher;
mod frames;
mod pages;
mod shared;
mod unflushed;
mod vfs;

use std::cell::RefCell;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

pub use self::flusher::Flusher;
pub use self::pages::{Found, TRAILER, check, seal};

/// Opens a file so that what is read from it is checked if it has checksums; or a database in memory,
/// under SQLite's name for it.
///
/// No other program may write to a file that has checksums: it leaves pages which they do not fit.
pub fn open(path: impl AsRef<Path>, flags: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags_and_vfs(path, flags, vfs::register()?)
}

/// A file that is empty will have checksums, and what `VACUUM INTO` copies this one to. A file that has
/// pages does not change. An empty file cannot be written to without this.
pub fn make_checked(conn: &Connection) -> rusqlite::Result<()> {
    vfs::reserve(conn, TRAILER as i32).map(|_| ())
}

/// Whether the file's pages have checksums, or will have them because of [`make_checked`].
pub fn is_checked(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(vfs::reserve(conn, -1)? == TRAILER as i32)
}

/// The extended code of a read that was refused; its primary one is `SQLITE_CORRUPT`. A transaction goes on
/// after it; of the statement that failed, it may hold a part, so roll back to before it. (After
/// `SQLITE_CORRUPT` itself SQLite lets the transaction write no more, after a failed read it ends it.)
pub const DAMAGED: i32 = rusqlite::ffi::SQLITE_CORRUPT | 0x7D << 8;

thread_local! {
    static DAMAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What the last [`DAMAGED`] on this thread was about. It is told once.
pub fn last_damage() -> Option<String> {
    DAMAGE.take()
}

fn note(damage: String) {
    DAMAGE.set(Some(damage));
}
