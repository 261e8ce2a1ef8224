//! When the write-ahead log goes into the data file, and how often data is forced to disk.
//!
//! SQLite's own automatic checkpoint runs inside a commit, which then waits for a thousand pages
//! to be copied and flushed: a stall of every caller, each few hundred commits. Here a thread of
//! its own copies while commits go on. It cannot catch up with a log that grows under it, and a log
//! restarts from its beginning only when all of it was copied; so after the thread's pass the
//! writer copies the little that came meanwhile, between two transactions. The data file was
//! flushed by the thread before that, which leaves the writer two short flushes.
//!
//! A log of [`PASS_FRAMES`] pages instead of SQLite's 1000 also lets a page that many commits touch
//! be copied once for all of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::wal::CheckpointMode;
use tidemill_checksums::Flusher;

use super::open;
use crate::Error;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};

/// A pass begins when this many pages were logged since the last one: 32 MiB, which a restart after
/// a crash reads back in a fraction of a second.
const PASS_FRAMES: i64 = 8192;

/// A pass that leaves more than this (4 MiB), since so much was logged meanwhile, is followed by another one,
/// as long as each leaves half of what the one before did: commits wait for what is left to the writer.
const REST_FRAMES: i64 = PASS_FRAMES / 8;

/// How long the writer waits for reads that began before the log was copied: a log cannot restart
/// under them, and with steady reads there always is one. Reads that begin meanwhile do not count.
const READS_WAIT: Duration = Duration::from_millis(10);

/// A log that long (512 MiB) was kept from restarting by long reads at every attempt: now they are worth
/// a real wait.
const LONG_FRAMES: i64 = 16 * PASS_FRAMES;
const LONG_READS_WAIT: Duration = Duration::from_secs(1);

/// What the writer and the thread both know.
#[derive(Default)]
struct Shared {
    /// Pages in the log after the last transaction that wrote.
    frames: AtomicI64,
    /// There was such a transaction since the writer last looked.
    logged: AtomicBool,
    /// How many of them are in the data file.
    copied: AtomicI64,
    /// The thread is at work, or about to be.
    passing: AtomicBool,
    /// The thread's pass is over; the rest is the writer's.
    passed: AtomicBool,
    fsyncs: AtomicU64,
    orders: Mutex<Orders>,
    ordered: Condvar,
}

#[derive(Default)]
struct Orders {
    pass: bool,
    stop: bool,
}

impl Shared {
    /// Accounts for a checkpoint that copied up to page `copied`: SQLite flushes the log before it
    /// copies, and the data file if by then it has copied all there is. Says whether it did that.
    fn checkpointed(&self, copied: i32) -> bool {
        let copied = i64::from(copied);
        if copied <= self.copied.swap(copied, Ordering::Relaxed) {
            return false;
        }
        let all = copied >= self.frames.load(Ordering::Relaxed);
        self.fsyncs.fetch_add(1 + u64::from(all), Ordering::Relaxed);
        all
    }
}

/// Reads the flush count without the writer's lock.
#[derive(Clone)]
pub(super) struct Fsyncs(Arc<Shared>);

impl Fsyncs {
    pub(super) fn get(&self) -> u64 {
        self.0.fsyncs.load(Ordering::Relaxed)
    }
}

/// The writer's side.
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    /// Every commit flushes the log.
    synchronous: bool,
    /// Pages in the log after the commit before the last one.
    frames_before: i64,
    /// Pages that were in the log when the last pass began.
    passed_at: i64,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Takes over the log of `writer`, which may hold what a crash left.
    pub(super) fn start(
        path: &Path,
        data: Arc<Flusher>,
        writer: &mut Connection,
        synchronous: bool,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        // From an empty log on, the flush count is known exactly.
        let (_, copied) = writer.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE)?;
        if copied > 0 {
            shared.fsyncs.fetch_add(2, Ordering::Relaxed);
        }
        let gauge = shared.clone();
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, frames: i32| {
            gauge.frames.store(i64::from(frames), Ordering::Relaxed);
            gauge.logged.store(true, Ordering::Relaxed);
            Ok(())
        }))?;
        let conn = open::checkpoint_connection(path)?;
        let orders = shared.clone();
        let thread = thread::Builder::new()
            .name("tidemill-checkpoint".into())
            .spawn(move || run(&orders, &conn, &data))
            .map_err(|fault| Error::Io(format!("cannot start the checkpoint thread: {fault}")))?;
        Ok(Checkpointer {
            shared,
            synchronous,
            frames_before: i64::MAX,
            passed_at: 0,
            thread: Some(thread),
        })
    }

    pub(super) fn fsyncs(&self) -> Fsyncs {
        Fsyncs(self.shared.clone())
    }

    /// To be called after each transaction.
    pub(super) fn committed(&mut self, writer: &Connection) {
        let shared = &self.shared;
        if !shared.logged.swap(false, Ordering::Relaxed) {
            return;
        }
        let frames = shared.frames.load(Ordering::Relaxed);
        let restarted = frames <= self.frames_before;
        self.frames_before = frames;
        if restarted {
            self.passed_at = 0;
            shared.copied.store(0, Ordering::Relaxed);
        }
        // A commit flushes the log once; a log that begins again flushes its new header too.
        shared.fsyncs.fetch_add(
            u64::from(self.synchronous) + u64::from(restarted),
            Ordering::Relaxed,
        );

        if shared.passed.swap(false, Ordering::Acquire) {
            self.finish(writer, frames);
        } else if frames - self.passed_at >= PASS_FRAMES
            && !shared.passing.swap(true, Ordering::Relaxed)
        {
            self.passed_at = frames;
            shared.orders.lock().pass = true;
            shared.ordered.notify_one();
        }
    }

    /// Copies what the thread left. Failure costs nothing but a longer log: what is committed is in it.
    fn finish(&self, writer: &Connection, frames: i64) {
        let wait = if frames < LONG_FRAMES {
            READS_WAIT
        } else {
            LONG_READS_WAIT
        };
        // Setting a timeout cannot fail on an open connection.
        let _ = writer.busy_timeout(wait);
        let finished = writer.wal_checkpoint_v2(None::<&str>, CheckpointMode::RESTART);
        let _ = writer.busy_timeout(open::BUSY_TIMEOUT);
        // Kept from restarting the log, it may have copied all the same. A passive checkpoint tells.
        if let Ok((_, copied)) =
            finished.or_else(|_| writer.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE))
        {
            self.shared.checkpointed(copied);
        }
        self.shared.passing.store(false, Ordering::Relaxed);
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.shared.orders.lock().stop = true;
        self.shared.ordered.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// The thread: for each order a pass, or some.
fn run(shared: &Shared, conn: &Connection, data: &Flusher) {
    loop {
        {
            let mut orders = shared.orders.lock();
            while !orders.pass && !orders.stop {
                shared.ordered.wait(&mut orders);
            }
            if orders.stop {
                return;
            }
            orders.pass = false;
        }
        let mut left = i64::MAX;
        while let Ok((_, copied)) = conn.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
            let flushed = shared.checkpointed(copied);
            let before = left;
            left = shared.frames.load(Ordering::Relaxed) - i64::from(copied);
            if left >= REST_FRAMES && left <= before / 2 {
                continue;
            }
            // With commits beside it, SQLite leaves the data file's flush to the pass that copies the
            // last page. That is the writer's, so most of it is done here. Should it fail, that one will
            // do it all.
            if !flushed && data.flush().is_ok() {
                shared.fsyncs.fetch_add(1, Ordering::Relaxed);
            }
            break;
        }
        shared.passed.store(true, Ordering::Release);
    }
}
