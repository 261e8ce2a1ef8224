//! Which models a device holds: loaded once, kept while there is room, never dropped while in use.

use std::fmt;

/// What tells one loaded model from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub name: String,
    /// What exactly it is, such as a hash of its files; empty when nothing tells.
    pub revision: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}@{}", self.name, self.revision),
        }
    }
}
