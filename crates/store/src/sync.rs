//! What threads of this crate share. A seam: `tests/models` builds the crate with locks and threads of
//! which every interleaving can be tried.

#[cfg(not(shuttle))]
mod real {
    pub(crate) use std::sync::{atomic, mpsc};
    pub(crate) use std::thread;

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
}

#[cfg(shuttle)]
#[path = "../../../tests/models/sync.rs"]
mod real;

pub(crate) use real::*;
