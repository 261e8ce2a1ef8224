//! What an operator gets to know of a store.

use std::path::PathBuf;

/// What the data takes, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// `None` for a store in memory.
    pub path: Option<PathBuf>,
    pub format: i64,
    pub page_bytes: i64,
    pub bytes: i64,
    /// The file's pages carry checksums. Those of a file that was made before there were any do not, and what
    /// a value says is not checked.
    pub checksums: bool,
    /// Those of `bytes` that hold nothing.
    pub free_bytes: i64,
    /// Files beside the data file that belong to it.
    pub beside: Vec<Size>,
    /// Tables and indexes, the largest first; empty unless all was looked at.
    pub tables: Vec<Size>,
    pub runs_open: i64,
    pub runs_closed: i64,
    /// Effects on other runs that were not acknowledged.
    pub effects: i64,
    /// Groups of commits that are in the log beside a file that was not closed, and not in its tables yet:
    /// whoever opens it next puts them there.
    pub unapplied: i64,
    /// What is not as it was written, by table and page where that is known.
    pub damage: Vec<String>,
}

/// Something and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    pub name: String,
    pub bytes: i64,
}
