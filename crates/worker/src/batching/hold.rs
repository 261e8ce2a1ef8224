//! Devices for a task that works on its own.

use std::sync::Arc;

use tidemill_device::lease::{Holder, Lease};
use tidemill_pipeline::task::{Input, TaskInput};
use tidemill_stages::{Context, Error, ErrorKind};
use tokio_util::task::AbortOnDropHandle;

use super::devices::request;
use crate::run::Life;

/// What a task holds until it is dropped.
pub(crate) struct Held {
    _lease: Arc<Lease>,
    _watch: AbortOnDropHandle<()>,
}

/// Waits for the devices that the task asked for, or for one if it runs in a class that has devices.
/// Their names are then in `cx`, and the task is cancelled when a later attempt of it takes them.
pub(crate) async fn hold(
    task: &TaskInput,
    life: &Life,
    cx: &mut Context,
) -> Result<Option<Held>, Error> {
    let demand = task.demands.device.as_ref();
    let Some(leases) = life.devices.leases() else {
        return match demand {
            None => Ok(None),
            Some(_) => Err(Error::unavailable(format!(
                "it asks for a device, and this worker offers `{}` without any: start a worker with \
                 --offer {}:device=...",
                life.devices.class(),
                life.devices.class(),
            ))),
        };
    };
    let place = match &task.input {
        Input::Value(_) => String::new(),
        Input::Chunk(chunk) => format!("/{}", chunk.index),
        Input::Part(digest) => format!("/{digest}"),
    };
    let holder = Holder {
        name: format!("{}/{}{place}", task.run.id, task.stage),
        attempt: life.attempt,
    };
    let progress = life.progress.clone();
    let waiting = move |reason: String| progress(format!("waiting: {reason}"));
    let lease = tokio::select! {
        lease = leases.acquire(request(demand), holder, waiting) => lease,
        () = life.cancelled.cancelled() => return Err(Error::cancelled()),
    };
    let lease =
        Arc::new(lease.map_err(|never| Error::new(ErrorKind::Unavailable, never.to_string()))?);
    cx.devices = lease.devices().to_vec();
    let (watched, cancelled) = (lease.clone(), life.cancelled.clone());
    let watch = tokio::spawn(async move {
        watched.ended().await;
        cancelled.cancel();
    });
    Ok(Some(Held {
        _lease: lease,
        _watch: AbortOnDropHandle::new(watch),
    }))
}
