//! What all handles that this process has on one file know together.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::frames::Frames;
use crate::unflushed::Unflushed;

#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// For a log.
    pub(crate) frames: Frames,
    pub(crate) unflushed: Unflushed,
}

/// By the names that SQLite resolved. No hash map: the first use of one draws from the system's randomness, which a
/// simulation would have once, and not when it is repeated.
static FILES: Mutex<BTreeMap<CString, Weak<Shared>>> = Mutex::new(BTreeMap::new());

impl Shared {
    /// Made with the first handle.
    pub(crate) fn of(name: &CStr, first: impl FnOnce() -> Shared) -> Arc<Shared> {
        let mut files = FILES.lock();
        if let Some(shared) = files.get(name).and_then(Weak::upgrade) {
            return shared;
        }
        files.retain(|_, shared| shared.strong_count() > 0);
        let shared = Arc::new(first());
        files.insert(name.to_owned(), Arc::downgrade(&shared));
        shared
    }

    /// `None` if there is no handle.
    pub(crate) fn existing(name: &CStr) -> Option<Arc<Shared>> {
        FILES.lock().get(name)?.upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_handles_of_a_file_know_the_same_until_the_last_one_is_closed() {
        let first = Shared::of(c"/a/b-wal", Shared::default);
        first.frames.write(512, crc32fast::hash(&[1; 512]), 56);
        let second = Shared::of(c"/a/b-wal", || unreachable!());
        assert!(second.frames.read(&[2; 512], 56).is_err());
        let other = Shared::of(c"/a/c-wal", Shared::default);
        assert!(other.frames.read(&[2; 512], 56).is_ok());
        drop((first, second));
        let again = Shared::of(c"/a/b-wal", Shared::default);
        assert!(again.frames.read(&[2; 512], 56).is_ok());
    }
}
