//! One group of commits as it lies in a segment.
//!
//! ```text
//! magic u32 | stored length u32 | lsn u64 | previous crc u32 | plain length u32 | 0 u32 | crc u32 | payload | padding
//! ```
//!
//! Numbers are little-endian. The checksum covers the log's id, the header before it and the stored
//! payload, so what is left of another log, or of bytes that a user made to look like a frame, is no
//! frame. It also covers the checksum of the frame before: frames form a chain. A plain length of 0
//! says that the payload is not compressed.

use bytes::Bytes;

use super::LogId;
use super::disk::{BLOCK, MEMORY_ALIGN};
use crate::Error;

pub(super) const HEADER: usize = 32;
/// Frames begin at multiples of this: none shares a block with another.
const ALIGN: usize = BLOCK;
const MAGIC: u32 = u32::from_le_bytes(*b"TiFr");

/// Smaller ones gain nothing.
const COMPRESS_MIN: usize = 256;
/// Larger ones hold large values, which mostly are compressed already, or are worth more than the
/// time that it takes.
const COMPRESS_MAX: usize = 128 << 10;

/// A frame whose checksum holds.
pub(super) struct Frame {
    pub(super) lsn: u64,
    /// The checksum of the frame before.
    pub(super) previous: u32,
    pub(super) crc: u32,
    /// With padding.
    pub(super) size: usize,
    plain: usize,
    stored: Bytes,
}

/// A payload where it will be written from: behind room for its frame's header, and compressed if that makes
/// it smaller. All of that can be done before it is known which frame it will be.
#[derive(Default)]
pub struct Draft {
    plain: Room,
    packed: Room,
    is_packed: bool,
}

/// A header's room and the bytes behind it, from where a direct write can take them.
#[derive(Default)]
struct Room {
    bytes: Vec<u8>,
    /// Of the header.
    start: usize,
    /// Of the bytes behind it; padding may follow.
    end: usize,
}

impl Room {
    /// Empty, with room for so many bytes. If more come, they may be moved to where a direct write has to copy
    /// them from.
    fn begin(&mut self, room: usize) {
        self.bytes.clear();
        self.bytes.reserve(MEMORY_ALIGN + HEADER + room + ALIGN);
        self.start = self.bytes.as_ptr().align_offset(MEMORY_ALIGN);
        self.bytes.resize(self.start + HEADER, 0);
    }

    fn body(&self) -> &[u8] {
        self.bytes
            .get(self.start + HEADER..self.end)
            .unwrap_or_default()
    }
}

impl Draft {
    /// Puts what `write` appends in place of what is there.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let Draft {
            plain,
            packed,
            is_packed,
        } = self;
        plain.begin(0);
        write(&mut plain.bytes);
        plain.end = plain.bytes.len();
        *is_packed = false;
        let payload = plain.body();
        if !(COMPRESS_MIN..=COMPRESS_MAX).contains(&payload.len()) {
            return;
        }
        let most = lz4_flex::block::get_maximum_output_size(payload.len());
        packed.begin(most);
        let body = packed.start + HEADER;
        packed.bytes.resize(body + most, 0);
        // It cannot fail with that much room.
        if let Ok(len) = lz4_flex::block::compress_into(payload, &mut packed.bytes[body..]) {
            packed.end = body + len;
            *is_packed = len < payload.len();
        }
    }

    /// Bytes of the payload.
    pub fn payload_bytes(&self) -> usize {
        self.plain.body().len()
    }

    /// The frame and its checksum. `None` for a payload that is too large for the format.
    pub(super) fn frame(&mut self, id: &LogId, lsn: u64, previous: u32) -> Option<(u32, &[u8])> {
        let plain = if self.is_packed {
            self.payload_bytes()
        } else {
            0
        };
        let room = if self.is_packed {
            &mut self.packed
        } else {
            &mut self.plain
        };
        let stored = u32::try_from(room.body().len()).ok()?;
        let frame = &mut room.bytes[room.start..room.end];
        frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..8].copy_from_slice(&stored.to_le_bytes());
        frame[8..16].copy_from_slice(&lsn.to_le_bytes());
        frame[16..20].copy_from_slice(&previous.to_le_bytes());
        frame[20..24].copy_from_slice(&u32::try_from(plain).ok()?.to_le_bytes());
        frame[24..28].fill(0);
        let crc = checksum(id, frame);
        frame[28..32].copy_from_slice(&crc.to_le_bytes());
        let size = frame.len().next_multiple_of(ALIGN);
        room.bytes.truncate(room.end);
        room.bytes.resize(room.start + size, 0);
        Some((crc, &room.bytes[room.start..]))
    }

    /// Forgets the payload, and gives back what a large one took.
    pub fn clear(&mut self) {
        const KEPT: usize = 8 << 20;
        for room in [&mut self.plain, &mut self.packed] {
            room.bytes.clear();
            room.bytes.shrink_to(KEPT);
            (room.start, room.end) = (0, 0);
        }
    }
}

/// Header and stored payload, without padding.
fn checksum(id: &LogId, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(id);
    hasher.update(&frame[..28]);
    hasher.update(&frame[HEADER..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The frame that begins at `at`, if one does.
pub(super) fn decode(id: &LogId, segment: &Bytes, at: usize) -> Option<Frame> {
    if u32_at(segment, at)? != MAGIC {
        return None;
    }
    let stored = u32_at(segment, at + 4)? as usize;
    let end = at.checked_add(HEADER + stored)?;
    let bytes = segment.get(at..end)?;
    let crc = u32_at(bytes, 28)?;
    if checksum(id, bytes) != crc {
        return None;
    }
    Some(Frame {
        lsn: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
        previous: u32_at(bytes, 16)?,
        crc,
        size: (HEADER + stored).next_multiple_of(ALIGN),
        plain: u32_at(bytes, 20)? as usize,
        stored: segment.slice(at + HEADER..end),
    })
}

/// The first frame at or after `at` with at least this LSN.
pub(super) fn find(id: &LogId, segment: &Bytes, at: usize, lsn: u64) -> Option<usize> {
    (at.next_multiple_of(ALIGN)..segment.len())
        .step_by(ALIGN)
        .find(|at| decode(id, segment, *at).is_some_and(|frame| frame.lsn >= lsn))
}

impl Frame {
    /// What was appended.
    pub(super) fn payload(self) -> Result<Bytes, Error> {
        if self.plain == 0 {
            return Ok(self.stored);
        }
        lz4_flex::block::decompress(&self.stored, self.plain)
            .map(Bytes::from)
            .map_err(|fault| Error::Corrupt(format!("log: frame {}: {fault}", self.lsn)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogId = [7; 16];

    fn payload_of(frame: &[u8]) -> Bytes {
        let bytes = Bytes::copy_from_slice(frame);
        decode(&ID, &bytes, 0).unwrap().payload().unwrap()
    }

    /// Small and compressed, small and not, large.
    #[test]
    fn a_frame_lies_where_a_direct_write_takes_it_from() {
        let mut draft = Draft::default();
        for round in 0..3 {
            for payload in [vec![1; 10], vec![2; 5_000], vec![3; 3 << 20]] {
                draft.put(|out| out.extend_from_slice(&payload));
                assert_eq!(draft.payload_bytes(), payload.len());
                let (_, frame) = draft.frame(&ID, 1, 2).unwrap();
                assert_eq!(frame.len() % ALIGN, 0);
                assert_eq!(payload_of(frame), payload);
                // The first time it grew.
                if round > 0 || payload.len() < 1 << 20 {
                    assert_eq!(frame.as_ptr().align_offset(MEMORY_ALIGN), 0);
                }
            }
        }
    }

    /// One that could not be written is a frame again, with what comes before it then.
    #[test]
    fn a_draft_can_be_another_frame() {
        let mut draft = Draft::default();
        for len in [10, 5_000, 1 << 20] {
            draft.put(|out| out.resize(out.len() + len, 9));
            for lsn in 5..8 {
                let (crc, frame) = draft.frame(&ID, lsn, lsn as u32).unwrap();
                let bytes = Bytes::copy_from_slice(frame);
                let read = decode(&ID, &bytes, 0).unwrap();
                assert_eq!((read.lsn, read.previous, read.crc), (lsn, lsn as u32, crc));
                assert_eq!(read.payload().unwrap().len(), len);
            }
        }
        draft.clear();
        assert_eq!(draft.payload_bytes(), 0);
    }
}
