//! The pages of a write-ahead log, which have no room for a checksum: what this process wrote is
//! remembered.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::pages::is_page_size;

/// What SQLite writes to a log besides pages: the log's header, and that of a frame.
const HEADERS: [usize; 2] = [32, 24];

/// The checksums of the pages of one log, by their places; all connections of the process share them.
/// What was there before is not among them: SQLite has compared it with its own sums at the opening.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    sums: Mutex<HashMap<u64, u32>>,
}

impl Frames {
    pub(crate) fn read(&self, data: &[u8], offset: u64) -> Result<(), String> {
        if !is_page_size(data.len()) {
            return Ok(());
        }
        let sum = self.sums.lock().get(&offset).copied();
        match sum {
            Some(sum) if sum != crc32fast::hash(data) => Err(format!(
                "the page at {offset} of the log beside the file is not as it was written: its checksum differs"
            )),
            _ => Ok(()),
        }
    }

    /// To be called before so many bytes with this CRC-32 are written: nobody reads the page before it is
    /// committed.
    pub(crate) fn write(&self, bytes: usize, sum: u32, offset: u64) {
        if is_page_size(bytes) {
            self.sums.lock().insert(offset, sum);
        } else if !HEADERS.contains(&bytes) {
            // A page in two parts: whose place this is cannot be told.
            self.sums.lock().clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_compared() {
        let frames = Frames::default();
        let mut page = vec![1; 4096];
        frames.write(page.len(), crc32fast::hash(&page), 56);
        assert!(frames.read(&page, 56).is_ok());
        page[9] ^= 1;
        assert!(frames.read(&page, 56).is_err());
        assert!(frames.read(&page, 56 + 4120).is_ok(), "not written here");
    }
}
