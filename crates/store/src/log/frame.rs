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

use std::ops::Range;

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

/// Puts a frame into `out`, in place of what is there; returns its checksum, and where in `out` it
/// lies: so that a direct write can take it from there. `None` for a payload that is too large for
/// the format.
pub(super) fn encode(
    id: &LogId,
    lsn: u64,
    previous: u32,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<(u32, Range<usize>)> {
    let compress = (COMPRESS_MIN..=COMPRESS_MAX).contains(&payload.len());
    let most = match compress {
        true => lz4_flex::block::get_maximum_output_size(payload.len()),
        false => payload.len(),
    };
    out.clear();
    // With all the room from the beginning, the bytes stay where they are.
    out.reserve(MEMORY_ALIGN + HEADER + most + ALIGN);
    let start = out.as_ptr().align_offset(MEMORY_ALIGN);
    let body = start + HEADER;
    out.resize(body, 0);
    let mut plain = 0;
    if compress {
        out.resize(body + most, 0);
        // It cannot fail with that much room.
        if let Ok(len) = lz4_flex::block::compress_into(payload, &mut out[body..])
            && len < payload.len()
        {
            out.truncate(body + len);
            plain = payload.len();
        } else {
            out.truncate(body);
        }
    }
    if plain == 0 {
        out.extend_from_slice(payload);
    }
    let stored = u32::try_from(out.len() - body).ok()?;
    let frame = &mut out[start..];
    frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    frame[4..8].copy_from_slice(&stored.to_le_bytes());
    frame[8..16].copy_from_slice(&lsn.to_le_bytes());
    frame[16..20].copy_from_slice(&previous.to_le_bytes());
    frame[20..24].copy_from_slice(&u32::try_from(plain).ok()?.to_le_bytes());
    let crc = checksum(id, frame);
    frame[28..32].copy_from_slice(&crc.to_le_bytes());
    let size = frame.len().next_multiple_of(ALIGN);
    out.resize(start + size, 0);
    Some((crc, start..start + size))
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
