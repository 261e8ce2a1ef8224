//! What happened, line by line. Two runs of a seed have the same trace, byte for byte.

use std::collections::VecDeque;
use std::fmt::Display;

use crate::host;

/// Lines that are kept to be shown when a seed fails.
const KEPT: usize = 100_000;

pub(crate) struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    loud: bool,
}

impl Trace {
    pub(crate) fn new(loud: bool) -> Self {
        Trace {
            hash: FNV_OFFSET,
            lines: VecDeque::new(),
            loud,
        }
    }

    pub(crate) fn say(&mut self, what: impl Display) {
        let line = format!("{:>12.3} {what}", host::now() as f64 / 1e6);
        self.hash = fnv(self.hash, line.as_bytes());
        if self.loud {
            println!("{line}");
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines).into()
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// A short name for a message's content.
pub(crate) fn digest(message: &impl prost::Message) -> String {
    format!("{:016x}", digest_bytes(&message.encode_to_vec()))
}

pub(crate) fn digest_bytes(bytes: &[u8]) -> u64 {
    fnv(FNV_OFFSET, bytes)
}
