//! The pages of a file: sealed when they are written, checked when they are read.

use crc32fast::Hasher;

/// Bytes at the end of each page that are not SQLite's: a mark, and a CRC-32.
pub const TRAILER: usize = 8;

/// That a trailer is one. Nothing that SQLite puts at the end of a page without one looks like it.
const MARK: [u8; 4] = [0xF7, b'T', b'c', 0x01];

const MAGIC: &[u8] = b"SQLite format 3\0";
/// As much of the first page as SQLite reads before it knows how large pages are.
const HEADER: usize = 100;
/// The place of the page size in the header (1 means 64 KiB), and of the number of bytes that a page has
/// at its end for others than SQLite.
const PAGE_SIZE: usize = 16;
const RESERVED: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Sound,
    /// Its last bytes are zeros: it was never written, or by a program that knows no checksums.
    Unsealed,
    Damaged,
}

/// Writes the checksum of a page, the `number`th of its file from 1 on, to its end.
pub fn seal(page: &mut [u8], number: u64) {
    let (body, trailer) = page.split_at_mut(page.len() - TRAILER);
    trailer.copy_from_slice(&trailer_of(body, number));
}

pub fn check(page: &[u8], number: u64) -> Found {
    let (body, trailer) = page.split_at(page.len() - TRAILER);
    if trailer == trailer_of(body, number) {
        Found::Sound
    } else if trailer == [0; TRAILER] {
        Found::Unsealed
    } else {
        Found::Damaged
    }
}

/// With the number, so that a page in the place of another one is noticed, and one of zeros anywhere.
fn trailer_of(body: &[u8], number: u64) -> [u8; TRAILER] {
    let mut hasher = Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(body);
    let mut trailer = [0; TRAILER];
    trailer[..4].copy_from_slice(&MARK);
    trailer[4..].copy_from_slice(&hasher.finalize().to_be_bytes());
    trailer
}

/// Whether the pages of a file that begins with these bytes carry checksums.
pub(crate) fn has_checksums(header: &[u8]) -> bool {
    header.len() > RESERVED && header.starts_with(MAGIC) && usize::from(header[RESERVED]) == TRAILER
}

fn page_size(header: &[u8]) -> u64 {
    match u16::from_be_bytes([header[PAGE_SIZE], header[PAGE_SIZE + 1]]) {
        1 => 65536,
        size => u64::from(size),
    }
}

/// Whether pages can have this size; nothing else that SQLite writes has it.
pub(crate) fn is_page_size(bytes: usize) -> bool {
    bytes >= 512 && bytes.is_power_of_two()
}

/// Whether a read or write of so many bytes is one of a page: SQLite reads its header in parts, and
/// pages whole.
fn is_page(bytes: usize, offset: u64) -> bool {
    is_page_size(bytes) && offset.is_multiple_of(bytes as u64)
}

/// One open data file.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// `None` until something was read or written: a file that is empty will have checksums.
    checked: Option<bool>,
    /// Pages are sealed here: SQLite's own copy is not ours to write to.
    sealed: Vec<u8>,
}

impl Pages {
    /// Looks at what was read; an error is a damage. `more` reads other bytes of the file.
    pub(crate) fn read(
        &mut self,
        data: &mut [u8],
        offset: u64,
        more: &mut dyn FnMut(&mut [u8], u64) -> bool,
    ) -> Result<(), String> {
        if offset == 0
            && data.len() >= HEADER
            && data.starts_with(MAGIC)
            && self.checked != Some(true)
        {
            let checked = has_checksums(data);
            let mut mark = [0; MARK.len()];
            // One changed byte of the header must not turn off the checks.
            if !checked
                && let Some(at) = page_size(data).checked_sub(TRAILER as u64)
                && more(&mut mark, at)
                && mark == MARK
            {
                return Err("its header says that it has no checksums, and it has".into());
            }
            self.checked = Some(checked);
        }
        if self.checked != Some(true) || !is_page(data.len(), offset) {
            return Ok(());
        }
        let number = offset / data.len() as u64 + 1;
        match check(data, number) {
            Found::Sound => {
                // So it is in SQLite's log, and in the file if another program copies the log there,
                // which is told from damage then.
                let body = data.len() - TRAILER;
                data[body..].fill(0);
                Ok(())
            }
            Found::Unsealed => Err(format!(
                "page {number} has no checksum: it was overwritten with zeros, or another program wrote it"
            )),
            Found::Damaged => Err(format!(
                "page {number} is not as it was written: its checksum differs"
            )),
        }
    }

    /// What to write in place of `data`; an error says that SQLite and this file disagree on whether
    /// there are checksums.
    pub(crate) fn write(&mut self, data: &[u8], offset: u64) -> Result<Option<&[u8]>, ()> {
        let checked = *self.checked.get_or_insert(true);
        if !is_page(data.len(), offset) {
            return Ok(None);
        }
        if offset == 0 && data.starts_with(MAGIC) && has_checksums(data) != checked {
            return Err(());
        }
        if !checked {
            return Ok(None);
        }
        self.sealed.clear();
        self.sealed.extend_from_slice(data);
        seal(&mut self.sealed, offset / data.len() as u64 + 1);
        Ok(Some(&self.sealed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page: Vec<u8> = (0..4096u32).map(|n| (n % 251) as u8).collect();
        seal(&mut page, 7);
        page
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let mut page = page();
        for byte in 0..page.len() {
            for bit in 0..8 {
                page[byte] ^= 1 << bit;
                assert_eq!(check(&page, 7), Found::Damaged, "byte {byte}, bit {bit}");
                page[byte] ^= 1 << bit;
            }
        }
        assert_eq!(check(&page, 7), Found::Sound);
    }

    #[test]
    fn a_page_in_the_place_of_another_is_damage() {
        assert_eq!(check(&page(), 8), Found::Damaged);
    }

    #[test]
    fn zeros_are_no_page() {
        assert_eq!(check(&[0; 4096], 7), Found::Unsealed);
        let mut torn = page();
        torn[3584..].fill(0);
        assert_eq!(check(&torn, 7), Found::Unsealed);
    }

    #[test]
    fn only_whole_pages_are_pages() {
        assert!(is_page(4096, 8192) && is_page(65536, 0));
        for (bytes, offset) in [(100, 0), (16, 24), (4096, 56), (8, 4088)] {
            assert!(!is_page(bytes, offset), "{bytes} at {offset}");
        }
    }
}
