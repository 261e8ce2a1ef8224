//! The store that is durable by a log beside the data file.
//!
//! ```text
//! commits --> SQLite's open transaction (checked, staged) --> log, flushed: durable, acknowledged
//!                       |
//!                       +-- every two seconds, by size, or for a read: COMMIT without a flush
//! ```
//!
//! SQLite writes whole pages, and a commit of a few hundred bytes touches five of them. The log writes
//! what the commits say and no more. The tables take many groups of commits in one transaction, which
//! writes each page once.
//!
//! **Every group is applied before it is logged**: what contradicts the tables is rejected, and what is in
//! the log fits them, always. After a crash the log's frames after `applied_lsn` are applied again. Frames
//! are released when SQLite's own log, with what came of them, was forced to disk.
//!
//! **Reads see what was acknowledged.** Other connections than the writer's do not see what is staged.
//! So a read of something that is pending goes to the writer's connection, and a read over many runs
//! has what is staged committed first.
//!
//! The decision record is `docs/decisions/0006-a-log-beside-the-data-file.md`.

pub(crate) mod codec;
mod pending;
mod reads;
mod thread;

#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;
use tidemill_checksums::Flusher;

use self::pending::Pending;
use self::thread::Thread;
use crate::log::disk::{Disk, OsDisk};
use crate::log::{self, Draft, Log, LogId};
use crate::sqlite::{SqliteStore, Writer};
use crate::sync::{Mutex, MutexGuard};
use crate::{Commit, Error};

/// When what is staged goes into the tables.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// So long after the first commit that is staged, at the latest.
    pub delay: Duration,
    /// When that many bytes were logged.
    pub bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            delay: Duration::from_secs(2),
            bytes: 8 << 20,
        }
    }
}

/// What a frame of the log holds, or an error. For fuzzers.
#[doc(hidden)]
pub fn decode_group(payload: Bytes) -> Result<Vec<Commit>, Error> {
    codec::decode(payload)
}

/// What [`decode_group`] reads.
#[doc(hidden)]
pub fn encode_group(commits: &[&Commit]) -> Vec<u8> {
    let mut payload = Vec::new();
    codec::encode(commits, &mut payload);
    payload
}

/// Past so many times [`Options::bytes`], commits wait until the tables have caught up: what is staged
/// has to fit the writer's cache.
const BEHIND_MAX: usize = 2;

/// So long after an attempt to get over a failure of the tables, commits fail without another one.
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 200 });

/// The log is trimmed when it has so many segments besides the one that is written: a flush of SQLite's
/// log for about 16 MB of ours.
const TRIM_SEGMENTS: usize = if cfg!(test) { 1 } else { 4 };

/// A store in an SQLite file with a log beside it.
pub struct LoggedStore {
    shared: Arc<Shared>,
    thread: Option<Thread>,
}

struct Shared {
    /// The group that is being committed, as it will be in the log. Locked before the front, so that what
    /// holds that does not keep a group from being encoded.
    draft: Mutex<Draft>,
    front: Mutex<Front>,
    pending: Mutex<Pending>,
    orders: thread::Orders,
    sqlite: SqliteStore,
    log: Log,
    id: LogId,
    disk: Arc<dyn Disk>,
    /// A handle on SQLite's log, which has been open since before it was written, so that it hears of
    /// every write that fails.
    wal: Option<Flusher>,
    options: Options,
}

/// The order of groups. Locked before the writer.
struct Front {
    /// The last frame that is staged, or was before the transaction was lost.
    staged: u64,
    /// The last frame that is in the tables.
    applied: u64,
    /// Logged since then.
    bytes: usize,
    /// The last attempt to get over a lost transaction, and why it failed.
    failed: Option<(Instant, String)>,
}

impl LoggedStore {
    /// Opens the data file, as [`SqliteStore::open`] does, and applies what a crash left in its log.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let sqlite = SqliteStore::open_for_log(path)?;
        let path = sqlite.path().unwrap_or(path).to_owned();
        let disk = OsDisk::beside(&path);
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&wal)
            .and_then(|file| Flusher::new(Path::new(&wal), file))
            .map_err(|fault| Error::Io(fault.to_string()))
            .and_then(|wal| Self::over(sqlite, Some(wal), Arc::new(disk), options)?.tended())
            .map_err(|error| match error {
                Error::Io(reason) => Error::Unusable {
                    path: path.display().to_string(),
                    reason,
                },
                other => other,
            })
    }

    fn over(
        sqlite: SqliteStore,
        wal: Option<Flusher>,
        disk: Arc<dyn Disk>,
        options: Options,
    ) -> Result<Self, Error> {
        let (log, id) = {
            let mut writer = sqlite.writer();
            let last = recover(&mut writer, &*disk, options)?;
            log::remove_all(&*disk)?;
            let id = writer.random_id()?;
            let log = Log::create(disk.clone(), id, last + 1)?;
            writer.set_log(Some(&id))?;
            writer.set_flushing(false)?;
            (log, id)
        };
        let last = log.last_lsn();
        let shared = Arc::new(Shared {
            draft: Mutex::default(),
            front: Mutex::new(Front {
                staged: last,
                applied: last,
                bytes: 0,
                failed: None,
            }),
            pending: Mutex::default(),
            orders: thread::Orders::default(),
            sqlite,
            log,
            id,
            disk,
            wal,
            options,
        });
        Ok(LoggedStore {
            shared,
            thread: None,
        })
    }

    /// With the thread that puts what is staged into the tables, in time.
    fn tended(mut self) -> Result<Self, Error> {
        self.thread = Some(Thread::start(self.shared.clone())?);
        Ok(self)
    }

    /// Opens the data file with a log on any disk and without a thread, for a simulation: somebody
    /// calls [`tend`](Self::tend) now and then.
    #[doc(hidden)]
    pub fn open_on(path: &Path, disk: Arc<dyn Disk>, options: Options) -> Result<Self, Error> {
        Self::over(SqliteStore::open_for_log(path)?, None, disk, options)
    }

    /// What the thread does when it is time. Says whether SQLite's log counts as flushed now: the log
    /// forgot what it holds.
    #[doc(hidden)]
    pub fn tend(&self) -> bool {
        self.shared.tend()
    }

    /// See [`SqliteStore::limit_pages`].
    #[doc(hidden)]
    pub fn limit_pages(&self, pages: Option<u32>) -> Result<(), Error> {
        self.shared.sqlite.limit_pages(pages)
    }

    /// Puts what is staged into the tables.
    #[doc(hidden)]
    pub fn flush(&self) -> Result<(), Error> {
        self.shared.flush()
    }
}

/// Applies the frames that the tables do not hold and ends the log that they came from. Returns the last
/// LSN that was ever used.
fn recover(writer: &mut Writer, disk: &dyn Disk, options: Options) -> Result<u64, Error> {
    let (applied, id) = writer.log()?;
    let Some(id) = id else {
        // What a clean stop did not get to remove, or the log of another file of this name.
        let last = log::last_of_any(disk)?;
        if last > applied {
            return Err(Error::Corrupt(format!(
                "the data file needs no log, but there is one beside it with later commits ({last} after {applied}): if the file was restored from a backup, move the log away"
            )));
        }
        return Ok(applied);
    };
    let mut bytes = 0;
    let mut last = applied;
    let found = log::replay(disk, &id, applied, u64::MAX, &mut |lsn, payload| {
        bytes += payload.len();
        let commits = codec::decode(payload)?;
        writer
            .stage(&commits.iter().collect::<Vec<_>>(), || Ok(()))
            .map_err(|error| unfit(lsn, error))?;
        last = lsn;
        if bytes > options.bytes {
            bytes = 0;
            writer.commit_staged(lsn)?;
        }
        Ok(())
    })?;
    if found.is_none() {
        return Err(Error::Corrupt(
            "the data file's server was not stopped cleanly, and the log beside it (its name and \"-log-1\" or another number) is missing: put it back"
                .into(),
        ));
    }
    writer.commit_staged(last)?;
    writer.set_log(None)?;
    Ok(last)
}

/// A frame was applied before it was logged, to tables of the same content.
fn unfit(lsn: u64, error: Error) -> Error {
    match error {
        Error::Rejected(reason) => Error::Corrupt(format!(
            "commit {lsn} of the log does not fit the data file ({reason}): they are not of the same moment, restore both from one backup"
        )),
        other => other,
    }
}

impl Shared {
    /// The front with the writer, in whose transaction is what is staged.
    fn front(&self) -> Result<(MutexGuard<'_, Front>, MutexGuard<'_, Writer>), Error> {
        let mut front = self.front.lock();
        let mut writer = self.sqlite.writer();
        self.regain(&mut front, &mut writer)?;
        Ok((front, writer))
    }

    fn apply(&self, commits: &[&Commit]) -> Result<(), Error> {
        let draft = &mut *self.draft.lock();
        draft.put(|out| codec::encode(commits, out));
        let (mut front, mut writer) = self.front()?;
        let front = &mut *front;
        if front.bytes > BEHIND_MAX * self.options.bytes {
            self.write_out(front, &mut writer)?;
        }
        let mut lsn = 0;
        writer.stage(commits, || {
            lsn = self.log.append(draft)?;
            Ok(())
        })?;
        front.staged = lsn;
        let bytes_before = front.bytes;
        front.bytes += draft.payload_bytes();
        draft.clear();
        if self.pending.lock().add(commits) {
            self.orders.staged();
        }
        if bytes_before < self.options.bytes && front.bytes >= self.options.bytes {
            self.orders.hurry();
        }
        Ok(())
    }

    /// Puts what is staged into the tables, if anything is.
    fn flush(&self) -> Result<(), Error> {
        if !self.pending.lock().any() {
            return Ok(());
        }
        let (mut front, mut writer) = self.front()?;
        self.write_out(&mut front, &mut writer)
    }

    fn write_out(&self, front: &mut Front, writer: &mut Writer) -> Result<(), Error> {
        if front.staged > front.applied {
            writer.commit_staged(front.staged)?;
            front.applied = front.staged;
            front.bytes = 0;
        }
        self.pending.lock().clear();
        Ok(())
    }

    /// A group that fails takes the transaction along, and SQLite gives it up when it runs out of room or cannot
    /// write. What was staged in it is in the log: it is staged again, and committed at once, so that groups that
    /// fail after this one have nothing to take along while the cause lasts.
    fn regain(&self, front: &mut Front, writer: &mut Writer) -> Result<(), Error> {
        if !writer.holds_nothing() || front.staged == front.applied {
            return Ok(());
        }
        if let Some((when, reason)) = &front.failed
            && when.elapsed() < RETRY
        {
            return Err(Error::Io(reason.clone()));
        }
        let regained = log::replay(
            &*self.disk,
            &self.id,
            front.applied,
            front.staged,
            &mut |lsn, payload| {
                let commits = codec::decode(payload)?;
                writer
                    .stage(&commits.iter().collect::<Vec<_>>(), || Ok(()))
                    .map_err(|error| unfit(lsn, error))
            },
        )
        .and_then(|_| self.write_out(front, writer));
        front.failed = regained.as_ref().err().map(|error| {
            // A part would be taken for the whole.
            writer.discard();
            let reason = match error {
                Error::Io(reason) => reason.clone(),
                other => other.to_string(),
            };
            (Instant::now(), reason)
        });
        regained
    }

    /// Reads what is stored and what is staged.
    fn read_staged<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (_front, writer) = self.front()?;
        read(writer.conn())
    }

    /// Forgets frames whose effect is on disk. Says whether it came to that.
    fn trim(&self) -> bool {
        self.log.prepare();
        if self.log.sealed() < TRIM_SEGMENTS {
            return false;
        }
        let applied = self.front.lock().applied;
        // Everything up to there is in SQLite's log or, if that began again meanwhile, in the data file,
        // which SQLite forces to disk before it does that.
        if let Some(wal) = &self.wal {
            self.orders.count_sync();
            if let Err(fault) = wal.flush() {
                self.log.keep(fault.to_string());
                return false;
            }
        }
        self.log.release(applied);
        true
    }

    fn tend(&self) -> bool {
        if let Err(error) = self.flush() {
            // It stays staged, or in the log. The next time comes.
            self.orders.staged();
            self.log.keep(error.to_string());
        }
        self.trim()
    }

    /// A clean stop: the data file alone is all there is afterwards. If that cannot be, the log stays.
    fn close(&self) {
        let Ok((mut front, mut writer)) = self.front() else {
            return;
        };
        if self.write_out(&mut front, &mut writer).is_ok() && writer.set_log(None).is_ok() {
            let _ = log::remove_all(&*self.disk);
        }
    }
}

impl Drop for LoggedStore {
    fn drop(&mut self) {
        // Waits for the thread.
        drop(self.thread.take());
        self.shared.close();
    }
}
