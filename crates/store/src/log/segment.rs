//! The head of a segment. It is forced to disk before the first frame is written behind it, so a
//! segment whose head cannot be read never held anything that was acknowledged.

use super::LogId;
use crate::Error;

/// Where the first frame begins: the head has a disk sector of its own.
pub(super) const FIRST: u64 = 512;
const MAGIC: &[u8; 8] = b"TideLog\n";
/// Of segment, frames and commits together. A log lives from a start to a clean stop; a crash and an
/// update between make a newer binary read an older log. So this grows with any change, and what was
/// released stays readable.
const VERSION: u32 = 1;
const BYTES: usize = 72;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) log: LogId,
    /// Larger than that of every segment before; never used twice, failed ones included.
    pub(super) sequence: u64,
    /// The segment whose frames go on here; 0 at the log's beginning.
    pub(super) previous: u64,
    /// Where that one ends. What stands behind it failed, and was reported so.
    pub(super) previous_end: u64,
    pub(super) first_lsn: u64,
    /// The checksum of the last frame before this segment.
    pub(super) chain: u32,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIRST as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.log);
        for number in [
            self.sequence,
            self.previous,
            self.previous_end,
            self.first_lsn,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(out.len(), BYTES);
        out.resize(FIRST as usize, 0);
        out
    }

    /// `None` for bytes that are no head.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Head>, Error> {
        let Some(bytes) = bytes.get(..BYTES) else {
            return Ok(None);
        };
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..BYTES - 4]) != u32_at(BYTES - 4) {
            return Ok(None);
        }
        let version = u32_at(8);
        if version > VERSION {
            return Err(Error::NewerFormat {
                found: version.into(),
                supported: VERSION.into(),
            });
        }
        Ok(Some(Head {
            log: bytes[12..28].try_into().expect("16 bytes"),
            sequence: u64_at(28),
            previous: u64_at(36),
            previous_end: u64_at(44),
            first_lsn: u64_at(52),
            chain: u32_at(60),
        }))
    }
}
