//! Flushing a file beside SQLite.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::shared::Shared;
use crate::unflushed::Medium;

/// A handle that flushes a file which SQLite writes to: a data file, or the log beside it.
#[derive(Debug)]
pub struct Flusher {
    file: File,
    shared: Arc<Shared>,
}

impl Flusher {
    /// For the file at `path`, with no symbolic links in it; `file` may be read and written. Have it open since
    /// before the file is written to, so that the system tells it of each write that fails; and as long as a
    /// connection has the file open, because with any handle that a process closes it loses its locks on the file.
    ///
    /// # Errors
    ///
    /// If no connection of this process has that file open.
    pub fn new(path: &Path, file: File) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let shared = Shared::existing(&name)
            .ok_or_else(|| io::Error::other("no connection has this file open"))?;
        Ok(Flusher { file, shared })
    }

    /// Forces to disk what was written to the file before, by any handle of this process, and by SQLite through
    /// [`open`](crate::open). If a flush failed before, all that was written since the last one that succeeded
    /// is written again first: the system may have given it up.
    ///
    /// # Errors
    ///
    /// The disk's; and one that stays, if the system no longer has what it gave up.
    pub fn flush(&self) -> io::Result<()> {
        self.shared.unflushed.flush(&mut &self.file)
    }
}

impl Medium for &File {
    fn read(&mut self, data: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(data, offset)
    }

    fn write(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
