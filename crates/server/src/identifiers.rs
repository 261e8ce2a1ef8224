//! The server's source of identifiers: randomness, and counters that go on where the store's
//! records end.

use std::sync::atomic::{AtomicI64, Ordering};

use tidemill_engine::Ids;
use tidemill_store::RunNo;

pub(crate) struct Identifiers {
    run_no: AtomicI64,
    task_seq: AtomicI64,
}

impl Identifiers {
    /// Goes on after the largest numbers that the store has seen.
    pub(crate) fn after(run: RunNo, task_seq: i64) -> Self {
        Self {
            run_no: AtomicI64::new(run.0),
            task_seq: AtomicI64::new(task_seq),
        }
    }
}

impl Ids for Identifiers {
    fn random(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }

    fn task_seq(&self) -> i64 {
        self.task_seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn run_no(&self) -> i64 {
        self.run_no.fetch_add(1, Ordering::Relaxed) + 1
    }
}
