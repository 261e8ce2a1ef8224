//! An append-only log of payloads, each durable when [`Log::append`] returns.
//!
//! ```text
//! segment 1: head | frame 1 | frame 2 | ...      segment 2: head | frame 9 | ...      spare
//! ```
//!
//! A frame is numbered (LSN, from 1 on without a gap) and carries the checksum of the one before.
//! Segments are files of a fixed size, written with zeros in advance and used again once what they
//! hold is not needed any more: appending changes no file's size and allocates nothing, so it costs one
//! short flush, and a full disk is noticed between two segments.
//!
//! **After a failed write or flush nothing is written to that segment any more**, since nobody knows
//! what of it is on disk. The next one says where the valid part ends.
//!
//! What a payload means is the caller's business.

pub mod disk;
mod frame;
mod recover;
mod segment;
#[doc(hidden)]
pub mod sim;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use self::disk::{BLOCK, Disk, LogFile};
pub use self::frame::Draft;
pub use self::recover::{last_of_any, replay};
use self::segment::{FIRST, Head};
use crate::Error;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Which log a file belongs to; random.
pub type LogId = [u8; 16];

/// The size of segments. The first one is smaller, for an engine that has little to do.
const SEGMENT_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };
const FIRST_SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 256 << 10 };
/// Files are kept for use again up to this size in all. What large values need comes free all at once,
/// and a file that is made anew is written twice.
const SPARES_BYTES: u64 = 16 * SEGMENT_BYTES;
/// Zeros are written in pieces of this.
const ZEROS: usize = if cfg!(test) { 16 << 10 } else { 128 << 10 };
/// With more, whoever should take over what the log holds has been failing for long.
const SEALED_MAX: usize = 64;

/// The end of a log, where frames are appended.
pub struct Log {
    disk: Arc<dyn Disk>,
    id: LogId,
    state: Mutex<State>,
    syncs: AtomicU64,
}

struct State {
    current: Option<Open>,
    /// Segments that are still needed, oldest first.
    sealed: VecDeque<Sealed>,
    spares: Vec<Spare>,
    next_file: u64,
    next_sequence: u64,
    next_lsn: u64,
    /// The checksum of the last frame.
    chain: u32,
    /// The last segment that was written to, and where it ends.
    tail: (u64, u64),
    /// Why [`Log::release`] does not come, if somebody said so.
    kept_for: Option<String>,
}

struct Open {
    spare: Spare,
    end: u64,
}

struct Spare {
    file: u64,
    handle: Box<dyn LogFile>,
    bytes: u64,
}

struct Sealed {
    spare: Spare,
    last_lsn: u64,
}

impl Log {
    /// Begins a new log on a disk that has none ([`remove_all`]), whose first frame will be
    /// `first_lsn`. Its first segment is durable when this returns.
    pub fn create(disk: Arc<dyn Disk>, id: LogId, first_lsn: u64) -> Result<Self, Error> {
        let log = Log {
            disk,
            id,
            state: Mutex::new(State {
                current: None,
                sealed: VecDeque::new(),
                spares: Vec::new(),
                next_file: 1,
                next_sequence: 1,
                next_lsn: first_lsn,
                chain: 0,
                tail: (0, 0),
                kept_for: None,
            }),
            syncs: AtomicU64::new(0),
        };
        {
            let state = &mut *log.state.lock();
            let first = log
                .create_file(state.next_file, FIRST_SEGMENT_BYTES)
                .map_err(io_error)?;
            state.next_file += 1;
            state.spares.push(first);
            log.begin_segment(state, 0)?;
        }
        Ok(log)
    }

    /// As [`append`](Self::append), of bytes that lie somewhere.
    pub fn append_bytes(&self, payload: &[u8]) -> Result<u64, Error> {
        let mut draft = Draft::default();
        draft.put(|out| out.extend_from_slice(payload));
        self.append(&mut draft)
    }

    /// Appends a frame and returns its LSN. It is durable then; after an error it counts as never
    /// appended.
    pub fn append(&self, draft: &mut Draft) -> Result<u64, Error> {
        let state = &mut *self.state.lock();
        let lsn = state.next_lsn;
        let (crc, frame) = draft
            .frame(&self.id, lsn, state.chain)
            .ok_or_else(|| Error::Io("a commit is larger than 4 GiB".into()))?;
        let size = frame.len() as u64;
        // A frame that no segment has room for makes an empty one larger.
        if !state
            .current
            .as_ref()
            .is_some_and(|open| open.end == FIRST || open.end + size <= open.spare.bytes)
        {
            self.begin_segment(state, size)?;
        }
        let Some(open) = &mut state.current else {
            return Err(Error::Io("the log has no segment".into()));
        };
        let file = &open.spare.handle;
        if let Err(fault) = file
            .write(frame, open.end)
            .and_then(|()| self.sync(&**file))
        {
            // If the process ends before the next segment is there, this frame had better not be found.
            let _ = file.write(&[0; BLOCK], open.end);
            seal(state);
            return Err(io_error(fault));
        }
        open.end += size;
        open.spare.bytes = open.spare.bytes.max(open.end);
        state.tail.1 = open.end;
        state.chain = crc;
        state.next_lsn += 1;
        Ok(lsn)
    }

    /// Says that frames up to this one are not needed any more.
    pub fn release(&self, lsn: u64) {
        let mut removed = Vec::new();
        {
            let state = &mut *self.state.lock();
            state.kept_for = None;
            // The newest segment stays, whatever it holds: it says that there is a log, and where it ends.
            while (state.current.is_some() || state.sealed.len() > 1)
                && state
                    .sealed
                    .front()
                    .is_some_and(|sealed| sealed.last_lsn <= lsn)
            {
                let Some(Sealed { spare, .. }) = state.sealed.pop_front() else {
                    break;
                };
                let kept: u64 = state.spares.iter().map(|spare| spare.bytes).sum();
                if spare.bytes >= SEGMENT_BYTES && kept + spare.bytes <= SPARES_BYTES {
                    state.spares.push(spare);
                } else {
                    removed.push(spare.file);
                }
            }
        }
        for file in removed {
            // What stays lies about until the log is removed as a whole, and is never read.
            let _ = self.disk.remove(file);
        }
    }

    /// Says why nothing can be released for now: what a log that is full at last tells.
    pub fn keep(&self, reason: String) {
        self.state.lock().kept_for = Some(reason);
    }

    /// How many segments [`release`](Self::release) may be able to free.
    pub fn sealed(&self) -> usize {
        self.state.lock().sealed.len()
    }

    /// Makes the next segment ready if the current one is half full, so that no commit waits for
    /// that. Without a spare, the commit that needs it makes it.
    pub fn prepare(&self) {
        let file = {
            let state = &mut *self.state.lock();
            let half_full = state
                .current
                .as_ref()
                .is_none_or(|open| open.end > open.spare.bytes / 2);
            if !half_full || !state.spares.is_empty() {
                return;
            }
            state.next_file += 1;
            state.next_file - 1
        };
        if let Ok(spare) = self.create_file(file, SEGMENT_BYTES) {
            self.state.lock().spares.push(spare);
        }
    }

    /// The LSN of the last frame.
    pub fn last_lsn(&self) -> u64 {
        self.state.lock().next_lsn - 1
    }

    /// How often data was forced to disk.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn sync(&self, file: &dyn LogFile) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync()
    }

    /// A durable file of zeros. Zeros, because a flush of blocks that were only reserved has to
    /// write down each time that they hold data now.
    fn create_file(&self, file: u64, bytes: u64) -> io::Result<Spare> {
        let made = self.disk.create(file).and_then(|handle| {
            let zeros = vec![0; ZEROS];
            for at in (0..bytes).step_by(ZEROS) {
                handle.write(&zeros, at)?;
            }
            self.sync(&*handle)?;
            self.syncs.fetch_add(1, Ordering::Relaxed);
            self.disk.sync_folder()?;
            Ok(handle)
        });
        match made {
            Ok(handle) => Ok(Spare {
                file,
                handle,
                bytes,
            }),
            Err(fault) => {
                let _ = self.disk.remove(file);
                Err(fault)
            }
        }
    }

    /// Seals the current segment and opens another one, whose first frame has this size.
    fn begin_segment(&self, state: &mut State, size: u64) -> Result<(), Error> {
        seal(state);
        if state.sealed.len() >= SEALED_MAX {
            let reason = state.kept_for.as_deref().unwrap_or("that takes too long");
            return Err(Error::Io(format!(
                "the log is full: what it holds cannot be written into the data file: {reason}"
            )));
        }
        // The first that has room; a frame that none has room for makes one larger.
        let fits = |spare: &Spare| FIRST + size <= spare.bytes;
        let found = state.spares.iter().position(fits);
        let spare = match found.or(state.spares.len().checked_sub(1)) {
            Some(index) => state.spares.swap_remove(index),
            None => {
                state.next_file += 1;
                // Zeros in advance gain nothing for one large frame.
                let bytes = if size > SEGMENT_BYTES / 2 {
                    0
                } else {
                    SEGMENT_BYTES
                };
                self.create_file(state.next_file - 1, bytes)
                    .map_err(io_error)?
            }
        };
        let head = Head {
            log: self.id,
            sequence: state.next_sequence,
            previous: state.tail.0,
            previous_end: state.tail.1,
            first_lsn: state.next_lsn,
            chain: state.chain,
        };
        state.next_sequence += 1;
        if let Err(fault) = spare
            .handle
            .write(&head.encode(), 0)
            .and_then(|()| self.sync(&*spare.handle))
        {
            let _ = self.disk.remove(spare.file);
            return Err(io_error(fault));
        }
        state.tail = (head.sequence, FIRST);
        state.current = Some(Open { spare, end: FIRST });
        Ok(())
    }
}

/// Nothing is appended to the current segment any more.
fn seal(state: &mut State) {
    if let Some(Open { spare, .. }) = state.current.take() {
        state.sealed.push_back(Sealed {
            spare,
            last_lsn: state.next_lsn - 1,
        });
    }
}

/// Removes the files of a log that is not needed any more.
pub fn remove_all(disk: &dyn Disk) -> Result<(), Error> {
    let files = disk.list().map_err(io_error)?;
    for file in &files {
        disk.remove(*file).map_err(io_error)?;
    }
    if !files.is_empty() {
        disk.sync_folder().map_err(io_error)?;
    }
    Ok(())
}

fn io_error(fault: io::Error) -> Error {
    let advice = match fault.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ": free some disk space, commits go on as soon as there is some"
        }
        ErrorKind::ReadOnlyFilesystem => ": mount the file system writable, commits go on then",
        _ => ": see the system's log for the disk, commits go on when it works",
    };
    Error::Io(format!("log: {fault}{advice}"))
}
