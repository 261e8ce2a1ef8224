//! What threads of matching and of long polls share. A seam: `tests/models` builds those modules with
//! locks and deadlines of which every interleaving can be tried.

pub(crate) use std::sync::atomic;

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use tokio::sync::{Notify, oneshot, watch};
pub(crate) use tokio::time::timeout_at;

pub(crate) use crate::core::blocking_on;
