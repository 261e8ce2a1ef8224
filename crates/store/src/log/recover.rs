//! Reading a log back.
//!
//! The newest segment names the one before it, and where that one ends. From the segment that holds the
//! first frame that is wanted, frames are read forward. Nothing is ever skipped: a frame that is not
//! there ends the log if nothing stands behind it (the power went while it was written, and nobody was
//! told that it is durable), and is damage if something does.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::disk::{Disk, LogFile};
use super::frame::{self, Frame};
use super::segment::{self, Head};
use super::{LogId, io_error};
use crate::Error;

/// A file with a head of this log.
struct Segment {
    file: u64,
    handle: Box<dyn LogFile>,
    head: Head,
}

/// Hands the payloads of the frames after `after`, up to `up_to`, to `apply`, in order, and returns the
/// LSN of the last frame that was read. `None` when there is no segment of this log.
pub fn replay(
    disk: &dyn Disk,
    id: &LogId,
    after: u64,
    up_to: u64,
    apply: &mut dyn FnMut(u64, Bytes) -> Result<(), Error>,
) -> Result<Option<u64>, Error> {
    let mut segments = BTreeMap::new();
    let mut headless = Vec::new();
    for file in disk.list().map_err(io_error)? {
        let handle = disk.open(file).map_err(io_error)?;
        let head = Head::decode(&handle.read(0, segment::FIRST as usize).map_err(io_error)?)?;
        match head {
            Some(head) if head.log == *id => {
                segments.insert(head.sequence, Segment { file, handle, head });
            }
            Some(_) => {
                return Err(Error::Corrupt(format!(
                    "{} belongs to the log of another data file: move it away if the data file was restored or copied",
                    disk.name(file)
                )));
            }
            None => headless.push((file, handle)),
        }
    }
    // A head is durable before what stands behind it: a frame behind a head that is none was lost with it.
    let lost = |last: u64| {
        for (file, handle) in &headless {
            let bytes = contents(&**handle)?;
            if frame::find(id, &bytes, segment::FIRST as usize, last + 1).is_some() {
                return Err(damaged(disk, *file, 0));
            }
        }
        Ok(())
    };
    let Some(chain) = chain(disk, segments, after)? else {
        return lost(after).map(|()| None);
    };

    let mut last = 0;
    for (at, segment) in chain.iter().enumerate() {
        let end = chain.get(at + 1).map(|next| next.head.previous_end);
        last = read_segment(disk, id, segment, end, &mut |frame| {
            if frame.lsn <= after || frame.lsn > up_to {
                return Ok(());
            }
            apply(frame.lsn, frame.payload()?)
        })?;
        if let Some(next) = chain.get(at + 1)
            && next.head.first_lsn != last + 1
        {
            return Err(damaged(disk, next.file, 0));
        }
    }
    lost(last.max(after))?;
    Ok(Some(last))
}

/// The segments from the one that holds the first frame after `after` to the newest, in order.
fn chain(
    disk: &dyn Disk,
    mut segments: BTreeMap<u64, Segment>,
    after: u64,
) -> Result<Option<Vec<Segment>>, Error> {
    let Some((_, newest)) = segments.pop_last() else {
        return Ok(None);
    };
    let mut chain = vec![newest];
    while let Some(Segment { file, head, .. }) = chain.last()
        && head.first_lsn > after + 1
    {
        let Some(before) = segments.remove(&head.previous) else {
            return Err(Error::Corrupt(format!(
                "{} begins with commit {}, but the data file ends with {after}: what is between is missing",
                disk.name(*file),
                head.first_lsn
            )));
        };
        chain.push(before);
    }
    chain.reverse();
    Ok(Some(chain))
}

/// Reads the frames of a segment up to `end`, or as far as there are any, and returns the last LSN.
fn read_segment(
    disk: &dyn Disk,
    id: &LogId,
    segment: &Segment,
    end: Option<u64>,
    each: &mut dyn FnMut(Frame) -> Result<(), Error>,
) -> Result<u64, Error> {
    let bytes = contents(&*segment.handle)?;
    let mut chain = segment.head.chain;
    let mut next = segment.head.first_lsn;
    let mut at = segment::FIRST as usize;
    while end.is_none_or(|end| (at as u64) < end) {
        let frame = frame::decode(id, &bytes, at)
            .filter(|frame| frame.lsn == next && frame.previous == chain);
        let Some(frame) = frame else {
            if end.is_some() || frame::find(id, &bytes, at, next).is_some() {
                return Err(damaged(disk, segment.file, at as u64));
            }
            break;
        };
        chain = frame.crc;
        at += frame.size;
        next += 1;
        each(frame)?;
    }
    if end.is_some_and(|end| at as u64 != end) {
        return Err(damaged(disk, segment.file, at as u64));
    }
    Ok(next - 1)
}

/// The largest LSN of any frame in any file that has a head, whatever log it belongs to.
pub fn last_of_any(disk: &dyn Disk) -> Result<u64, Error> {
    let mut last = 0;
    for file in disk.list().map_err(io_error)? {
        let bytes = contents(&*disk.open(file).map_err(io_error)?)?;
        let Some(head) = Head::decode(&bytes)? else {
            continue;
        };
        let mut at = segment::FIRST as usize;
        let mut next = head.first_lsn;
        while let Some(frame) = frame::decode(&head.log, &bytes, at)
            && frame.lsn == next
        {
            last = last.max(next);
            next += 1;
            at += frame.size;
        }
    }
    Ok(last)
}

fn contents(handle: &dyn LogFile) -> Result<Bytes, Error> {
    let len = usize::try_from(handle.size().map_err(io_error)?).unwrap_or(usize::MAX);
    Ok(Bytes::from(handle.read(0, len).map_err(io_error)?))
}

fn damaged(disk: &dyn Disk, file: u64, at: u64) -> Error {
    Error::Corrupt(format!(
        "{} is damaged at byte {at}, and later commits stand behind it: restore data file and log from a backup",
        disk.name(file)
    ))
}
