//! What was written to a file and is not known to be on disk, so that a flush that failed can be done
//! again.
//!
//! A system whose flush (`fsync`) failed may give up what was to be written: it takes it for written, a
//! later flush succeeds, and after a power failure it is not there. To flush once more is no answer,
//! then; all of it has to be written once more before. What it was is read from the file, that is from
//! the system's memory, and compared with what is known to have been written: a system may have put what
//! the disk holds in its place.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// What is rewritten at once: the largest page. SQLite's own functions write less than 128 KiB.
const PIECE: u64 = if cfg!(test) { 16 } else { 64 << 10 };

/// With more writes that were not flushed (a gigabyte of pages), no sums are kept: some megabytes.
const MAX: usize = if cfg!(test) { 64 } else { 1 << 18 };

/// A file, as one of its handles reaches it.
pub(crate) trait Medium {
    fn read(&mut self, data: &mut [u8], offset: u64) -> io::Result<()>;
    fn write(&mut self, data: &[u8], offset: u64) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
}

/// One file, for all its handles in this process.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    /// One flush after the other: what another one is about to give up, none must take for flushed.
    flushing: Mutex<()>,
    writes: Mutex<Writes>,
    /// A flush failed: what is in `done` may not be on its way to the disk. Changes with `writes` locked.
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct Writes {
    done: Stretches,
    /// Those that a flush which is under way covers. A later write may stand in `done` as well.
    covered: Stretches,
}

/// By place. They do not overlap.
#[derive(Debug, Default)]
struct Stretches(BTreeMap<u64, Written>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    bytes: u64,
    /// CRC-32; `None` if it is not known what was written.
    sum: Option<u32>,
}

impl Unflushed {
    /// For a file of `bytes` that an earlier process wrote, who knows with which flushes.
    pub(crate) fn inherited(bytes: u64) -> Self {
        let unflushed = Unflushed::default();
        unflushed.writes.lock().done.add(0, bytes, None);
        unflushed.failed.store(bytes > 0, Ordering::Relaxed);
        unflushed
    }

    /// Writes so many bytes with this CRC-32, and says whether that succeeded.
    pub(crate) fn write(
        &self,
        bytes: usize,
        sum: u32,
        offset: u64,
        write: impl FnOnce() -> bool,
    ) -> bool {
        let mut writes = self.writes.lock();
        let written = write();
        // Of a write that failed a part may have been done.
        writes
            .done
            .add(offset, bytes as u64, written.then_some(sum));
        written
    }

    /// Cuts the file to this size, and says whether that succeeded.
    pub(crate) fn truncate(&self, size: u64, truncate: impl FnOnce() -> bool) -> bool {
        let mut writes = self.writes.lock();
        let truncated = truncate();
        if truncated {
            writes.done.truncate(size);
            writes.covered.truncate(size);
        }
        truncated
    }

    /// Looks at what was read: an error if it is not what was written last, which the system gave up.
    pub(crate) fn read(&self, data: &[u8], offset: u64) -> Result<(), String> {
        if !self.failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.writes.lock().done.0.get(&offset) {
            Some(written) if written.contradicts(data) => Err(given_up(offset)),
            _ => Ok(()),
        }
    }

    /// When this succeeds, everything that was written before is on disk.
    pub(crate) fn flush(&self, file: &mut impl Medium) -> io::Result<()> {
        let _turn = self.flushing.lock();
        if self.failed.load(Ordering::Relaxed) {
            self.rewrite(file)?;
        }
        {
            let writes = &mut *self.writes.lock();
            self.failed.store(false, Ordering::Relaxed);
            writes.covered = std::mem::take(&mut writes.done);
        }
        let flushed = file.flush();
        let writes = &mut *self.writes.lock();
        let covered = std::mem::take(&mut writes.covered);
        if flushed.is_err() {
            self.failed.store(true, Ordering::Relaxed);
            let later = std::mem::replace(&mut writes.done, covered);
            for (offset, written) in later.0 {
                writes.done.add(offset, written.bytes, written.sum);
            }
        }
        flushed
    }

    /// After a failure, has the system take everything for unwritten.
    fn rewrite(&self, file: &mut impl Medium) -> io::Result<()> {
        let until = self.writes.lock().done.end();
        let mut data = Vec::new();
        let mut at = 0;
        // Locked against writes piece by piece: what is read and written again is always the last.
        loop {
            let writes = self.writes.lock();
            let Some((start, written)) = writes.done.from(at) else {
                return Ok(());
            };
            if start >= until {
                return Ok(());
            }
            let end = start + written.bytes;
            let whole = start >= at && written.sum.is_some();
            at = at.max(start);
            let piece = if whole { end - at } else { PIECE.min(end - at) };
            data.resize(piece as usize, 0);
            file.read(&mut data, at)?;
            if whole && written.contradicts(&data) {
                return Err(io::Error::other(given_up(at)));
            }
            file.write(&data, at)?;
            at += piece;
        }
    }
}

fn given_up(offset: u64) -> String {
    format!(
        "what was written at {offset} the system gave up after a flush that failed: see the system's log for the disk, then restart"
    )
}

impl Written {
    fn contradicts(self, data: &[u8]) -> bool {
        self.bytes == data.len() as u64 && self.sum.is_some_and(|sum| sum != crc32fast::hash(data))
    }
}

impl Stretches {
    fn add(&mut self, offset: u64, bytes: u64, sum: Option<u32>) {
        if bytes == 0 {
            return;
        }
        let (mut from, mut to, mut sum) = (offset, offset + bytes, sum);
        // SQLite writes to the same places again and again. Otherwise it becomes one stretch, of which
        // nobody knows the sum.
        while let Some((start, end)) = self.last_before(to)
            && end > from
        {
            self.0.remove(&start);
            if (start, end) != (offset, offset + bytes) {
                (from, to, sum) = (from.min(start), to.max(end), None);
            }
        }
        let bytes = to - from;
        self.0.insert(from, Written { bytes, sum });
        if self.0.len() > MAX {
            self.forget_sums();
        }
    }

    /// The first one that ends after `offset`, and where it begins.
    fn from(&self, offset: u64) -> Option<(u64, Written)> {
        if let Some((start, end)) = self.last_before(offset)
            && end > offset
        {
            return Some((start, self.0[&start]));
        }
        let (start, written) = self.0.range(offset..).next()?;
        Some((*start, *written))
    }

    fn end(&self) -> u64 {
        self.0
            .last_key_value()
            .map_or(0, |(start, written)| start + written.bytes)
    }

    /// Where the last one that begins before `offset` begins and ends.
    fn last_before(&self, offset: u64) -> Option<(u64, u64)> {
        let (start, written) = self.0.range(..offset).next_back()?;
        Some((*start, start + written.bytes))
    }

    /// Neighbours become one.
    fn forget_sums(&mut self) {
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (start, written) in std::mem::take(&mut self.0) {
            let end = start + written.bytes;
            match joined.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => joined.push((start, end)),
            }
        }
        self.0 = joined
            .into_iter()
            .map(|(start, end)| {
                (
                    start,
                    Written {
                        bytes: end - start,
                        sum: None,
                    },
                )
            })
            .collect();
    }

    fn truncate(&mut self, size: u64) {
        self.0.split_off(&size);
        if let Some((start, end)) = self.last_before(size)
            && end > size
        {
            let bytes = size - start;
            self.0.insert(start, Written { bytes, sum: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the system holds in memory, and what is on the disk.
    #[derive(Default)]
    struct Disk {
        held: Vec<u8>,
        dirty: Vec<bool>,
        synced: Vec<u8>,
        failing: bool,
        /// After a failed flush the system reads from the disk again.
        forgetful: bool,
        /// Written while the next flush is under way.
        meanwhile: Vec<(u64, Vec<u8>)>,
    }

    impl Disk {
        fn put(&mut self, data: &[u8], offset: u64) {
            let (begin, end) = (offset as usize, offset as usize + data.len());
            for bytes in [&mut self.held, &mut self.synced] {
                bytes.resize(bytes.len().max(end), 0);
            }
            self.dirty.resize(self.held.len(), false);
            self.held[begin..end].copy_from_slice(data);
            self.dirty[begin..end].fill(true);
        }

        fn truncate(&mut self, size: u64) {
            for bytes in [&mut self.held, &mut self.synced] {
                bytes.truncate(size as usize);
            }
            self.dirty.truncate(size as usize);
        }
    }

    /// A file with all that knows of it.
    #[derive(Default)]
    struct File {
        disk: Disk,
        unflushed: Unflushed,
    }

    struct Handle<'a>(&'a mut Disk, &'a Unflushed);

    impl Medium for Handle<'_> {
        fn read(&mut self, data: &mut [u8], offset: u64) -> io::Result<()> {
            let begin = offset as usize;
            data.copy_from_slice(&self.0.held[begin..begin + data.len()]);
            Ok(())
        }

        fn write(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
            self.0.put(data, offset);
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            let disk = &mut *self.0;
            for (at, dirty) in disk.dirty.iter_mut().enumerate() {
                if std::mem::take(dirty) && !disk.failing {
                    disk.synced[at] = disk.held[at];
                }
            }
            if disk.failing && disk.forgetful {
                disk.held = disk.synced.clone();
            }
            for (offset, data) in std::mem::take(&mut disk.meanwhile) {
                let sum = crc32fast::hash(&data);
                self.1.write(data.len(), sum, offset, || {
                    disk.put(&data, offset);
                    true
                });
            }
            if disk.failing {
                return Err(io::Error::other("failed"));
            }
            Ok(())
        }
    }

    impl File {
        fn write(&mut self, data: &[u8], offset: u64) {
            let disk = &mut self.disk;
            let sum = crc32fast::hash(data);
            self.unflushed.write(data.len(), sum, offset, || {
                disk.put(data, offset);
                true
            });
        }

        fn flush(&mut self, failing: bool) -> io::Result<()> {
            self.disk.failing = failing;
            self.unflushed
                .flush(&mut Handle(&mut self.disk, &self.unflushed))
        }

        fn truncate(&mut self, size: u64) {
            let disk = &mut self.disk;
            self.unflushed.truncate(size, || {
                disk.truncate(size);
                true
            });
        }
    }

    #[test]
    fn what_a_failed_flush_gave_up_the_next_one_writes() {
        let mut file = File::default();
        file.write(b"before", 0);
        file.flush(false).unwrap();
        file.write(b"one", 0);
        file.write(b"two", 10);
        assert!(file.flush(true).is_err());
        assert!(file.flush(true).is_err());
        file.write(b"three", 20);
        assert!(file.disk.synced.starts_with(b"before\0\0"));
        file.flush(false).unwrap();
        assert_eq!(file.disk.synced, file.disk.held);
        assert_eq!(&file.disk.held[..14], b"oneore\0\0\0\0two\0");
        assert_eq!(&file.disk.held[20..], b"three");
    }

    #[test]
    fn what_came_while_a_flush_failed_is_not_undone() {
        let mut file = File::default();
        file.write(b"old", 0);
        file.disk.meanwhile = vec![(0, b"new".into()), (5, b"more".into())];
        assert!(file.flush(true).is_err());
        file.flush(false).unwrap();
        assert_eq!(file.disk.synced, b"new\0\0more");
        // And what comes while one succeeds is left to the next.
        file.disk.meanwhile = vec![(0, b"NEW".into())];
        file.flush(false).unwrap();
        assert!(file.flush(true).is_err());
        file.flush(false).unwrap();
        assert_eq!(file.disk.synced, b"NEW\0\0more");
    }

    #[test]
    fn what_the_system_no_longer_holds_fails_flushes_and_reads_until_it_is_written_again() {
        let mut file = File::default();
        file.write(b"old", 0);
        file.flush(false).unwrap();
        file.write(b"new", 0);
        file.disk.forgetful = true;
        assert!(file.flush(true).is_err());
        for _ in 0..2 {
            let error = file.flush(false).unwrap_err();
            assert!(error.to_string().contains("written at 0"), "{error}");
        }
        assert!(file.unflushed.read(b"old", 0).is_err());
        assert!(file.unflushed.read(b"new", 0).is_ok());
        file.write(b"new", 0);
        file.flush(false).unwrap();
        assert_eq!(file.disk.synced, b"new");
        assert!(
            file.unflushed.read(b"old", 0).is_ok(),
            "is not compared any more"
        );
    }

    #[test]
    fn what_was_cut_off_is_not_missed() {
        let mut file = File::default();
        file.write(b"0123456789", 0);
        file.write(b"abc", 10);
        assert!(file.flush(true).is_err());
        file.truncate(4);
        file.flush(false).unwrap();
        assert_eq!(file.disk.synced, b"0123");
    }

    #[test]
    fn a_write_that_failed_leaves_who_knows_what() {
        let mut file = File::default();
        file.write(b"0123", 0);
        file.disk.put(b"xx", 0);
        file.unflushed
            .write(4, crc32fast::hash(b"xxxx"), 0, || false);
        assert!(file.flush(true).is_err());
        file.flush(false).unwrap();
        assert_eq!(file.disk.synced, b"xx23");
    }

    #[test]
    fn what_an_earlier_process_wrote_is_written_again() {
        let mut file = File::default();
        file.disk.held = b"from an earlier process".into();
        file.disk.synced = vec![0; file.disk.held.len()];
        file.disk.dirty = vec![false; file.disk.held.len()];
        file.unflushed = Unflushed::inherited(file.disk.held.len() as u64);
        file.flush(false).unwrap();
        assert_eq!(file.disk.synced, b"from an earlier process");
    }

    /// Against a list of bytes that says which of them have to be on the disk after a flush that succeeds.
    #[test]
    fn random_writes_cuts_and_failures() {
        for seed in 0..2_000 {
            let mut random = numbers(seed);
            let mut file = File::default();
            for step in 0..200u64 {
                match random(20) {
                    0..12 => {
                        let bytes = 1 + random(40) as usize;
                        file.write(&vec![step as u8; bytes], random(4_000));
                    }
                    12 => file.truncate(random(4_000)),
                    13..16 => {
                        for _ in 0..random(3) {
                            let data = vec![step as u8; 1 + random(40) as usize];
                            file.disk.meanwhile.push((random(4_000), data));
                        }
                        assert!(file.flush(true).is_err());
                    }
                    _ => {
                        file.flush(false).unwrap();
                        assert!(
                            file.disk.synced == file.disk.held,
                            "seed {seed}, step {step}"
                        );
                    }
                }
            }
        }
    }

    /// A linear congruential generator.
    fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        }
    }
}
