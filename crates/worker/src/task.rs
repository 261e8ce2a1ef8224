//! One attempt of a task while it runs: on its class's threads, with a heartbeat, until it has
//! ended or was cancelled.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_stages::{Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::batching::Devices;
use crate::core::{Answer, Cancel, Queue, Start};
use crate::metrics::{Outcome, Tasks};
use crate::run::{Life, Runner, panicked};
use crate::slots::ClassSlots;

/// Longest time between heartbeats, which are also how a task hears of its cancellation.
const HEARTBEAT_MOST: Duration = Duration::from_secs(10);
const HEARTBEAT_LEAST: Duration = Duration::from_millis(100);
/// How long a cancelled stage may take to end by itself before its future is dropped.
const END_BY_ITSELF: Duration = Duration::from_secs(5);
/// How long a dropped one may go on in code that does not wait before its slot is given away.
const END_AT_ALL: Duration = Duration::from_secs(5);
/// How long a worker that stops tries to report a result to an engine that is away.
const LAST_REPORT: Duration = Duration::from_secs(10);
/// Bytes of a result that still travel in a message. What is larger should have been an artifact.
const RESULT_BYTES_MAX: usize = 1024 * 1024;

/// A failure's type when the worker stopped in the middle of a task.
const SHUTDOWN: &str = "WorkerShutdown";

/// What a class's tasks share.
pub(crate) struct Class {
    pub(crate) slots: Arc<ClassSlots>,
    pub(crate) tasks: Tasks,
    pub(crate) devices: Arc<Devices>,
    /// Told when a device was short of memory: other workers are better now.
    pub(crate) shortage: Notify,
    pub(crate) runner: Arc<Runner>,
    /// Where stages run: threads apart from those that poll and send heartbeats.
    pub(crate) threads: Handle,
}

/// Runs a task and reports it.
pub(crate) async fn execute(
    class: &Class,
    queue: &Queue,
    start: Start,
    cancel: watch::Receiver<Option<Cancel>>,
    stop: &CancellationToken,
) {
    let Start {
        token,
        activity,
        mut payloads,
        workflow_id,
        attempt,
        heartbeat_timeout,
        scheduled,
    } = start;
    debug!(activity, workflow_id, attempt, "task taken");
    let line = Arc::new(Mutex::new(None::<String>));
    let life = Life {
        cancelled: CancellationToken::new(),
        progress: {
            let line = line.clone();
            Arc::new(move |text| *line.lock() = Some(text))
        },
        devices: class.devices.clone(),
        attempt,
    };
    let cancelled = life.cancelled.clone();
    // Dropped with this future: whatever happens here, the stage does not run on unwatched.
    let _ends_with_us = cancelled.clone().drop_guard();
    let runner = class.runner.clone();
    let workflow = workflow_id.clone();
    let payload = payloads.pop().unwrap_or_default();
    let mut beat = Beat::new(queue, &token, heartbeat_timeout, &line);
    let mut cancel = cancel;
    let slot = tokio::select! {
        slot = class.slots.enter() => Some(slot),
        Ok(_) = cancel.wait_for(|why| why.is_some()) => None,
        never = beat.forever() => match never {},
    };
    if slot.is_none() {
        cancelled.cancel();
    }
    class.tasks.started(scheduled);
    let begun = Instant::now();
    let work = class
        .threads
        .spawn(async move { runner.run(&activity, &workflow, &payload, life).await });

    let result = tokio::select! {
        result = supervise(work, &mut cancel, &cancelled) => result,
        never = beat.forever() => match never {},
    };
    let answer = answer(result, *cancel.borrow());
    class.tasks.ended(outcome(&answer), begun.elapsed());
    if matches!(&answer, Answer::Failed { kind, .. } if *kind == ErrorKind::OutOfMemory.name()) {
        class.shortage.notify_one();
    }
    let give_up = async {
        let stopping = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_REPORT).await;
        };
        tokio::select! {
            Ok(_) = cancel.wait_for(|why| *why == Some(Cancel::Pointless)) => {
                debug!("nobody waits for the task's result any more");
            }
            () = stopping => warn!("the engine is away and the worker stops: a result is lost"),
        }
    };
    tokio::select! {
        () = queue.report(&token, answer, give_up) => {}
        never = beat.forever() => match never {},
    }
}

fn outcome(answer: &Answer) -> Outcome {
    match answer {
        Answer::Completed(_) => Outcome::Succeeded,
        Answer::Failed { .. } => Outcome::Failed,
        Answer::Cancelled => Outcome::Cancelled,
    }
}

type Work = tokio::task::JoinHandle<Result<Vec<u8>, Error>>;

/// Waits for the end of the work, which a cancellation hastens.
async fn supervise(
    mut work: Work,
    cancel: &mut watch::Receiver<Option<Cancel>>,
    cancelled: &CancellationToken,
) -> Result<Vec<u8>, Ended> {
    tokio::select! {
        result = &mut work => return ended(result),
        Ok(_) = cancel.wait_for(|why| why.is_some()) => {}
    }
    cancelled.cancel();
    tokio::select! {
        result = &mut work => return ended(result),
        () = sleep_until(Instant::now() + END_BY_ITSELF) => work.abort(),
    }
    match timeout(END_AT_ALL, work).await {
        Ok(result) => ended(result),
        Err(_) => {
            warn!("a cancelled stage goes on without waiting for anything; its thread is lost");
            Err(Ended::Dropped)
        }
    }
}

enum Ended {
    Failed(Error),
    Dropped,
}

fn ended(result: Result<Result<Vec<u8>, Error>, JoinError>) -> Result<Vec<u8>, Ended> {
    match result {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(Ended::Failed(error)),
        Err(error) if error.is_panic() => {
            let panic = error.into_panic();
            let what = format!("the worker panicked: {}", panicked(&*panic));
            Err(Ended::Failed(Error::failed(what)))
        }
        Err(_) => Err(Ended::Dropped),
    }
}

fn answer(result: Result<Vec<u8>, Ended>, cancel: Option<Cancel>) -> Answer {
    let error = match result {
        Ok(json) if json.len() <= RESULT_BYTES_MAX => return Answer::Completed(json),
        Ok(json) => Error::invalid(format!(
            "a result of {} bytes is too large for a message and was not kept as an artifact",
            json.len()
        )),
        Err(Ended::Failed(error)) => error,
        Err(Ended::Dropped) => Error::cancelled(),
    };
    // What a cancelled stage says of its end is its way of ending, unless its task was wrong anyway.
    match cancel {
        Some(Cancel::Requested) if error.kind != ErrorKind::Invalid => return Answer::Cancelled,
        Some(Cancel::Shutdown) if error.kind != ErrorKind::Invalid => {
            return Answer::Failed {
                kind: SHUTDOWN,
                message: "the worker stopped before the task was done".to_owned(),
                retryable: true,
                retry_after: Some(Duration::ZERO),
            };
        }
        _ => {}
    }
    Answer::Failed {
        kind: error.kind.name(),
        message: error.message,
        retryable: error.kind.is_retryable(),
        retry_after: error.retry_after,
    }
}

/// Says now and then that a task is alive.
struct Beat<'a> {
    queue: &'a Queue,
    token: &'a [u8],
    line: &'a Mutex<Option<String>>,
    ticks: tokio::time::Interval,
}

enum Never {}

impl<'a> Beat<'a> {
    fn new(
        queue: &'a Queue,
        token: &'a [u8],
        heartbeat_timeout: Duration,
        line: &'a Mutex<Option<String>>,
    ) -> Self {
        let every = if heartbeat_timeout.is_zero() {
            HEARTBEAT_MOST
        } else {
            (heartbeat_timeout / 3).clamp(HEARTBEAT_LEAST, HEARTBEAT_MOST)
        };
        // A short task ends before its first heartbeat and costs none.
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            queue,
            token,
            line,
            ticks,
        }
    }

    async fn forever(&mut self) -> Never {
        loop {
            self.ticks.tick().await;
            let line = self.line.lock().clone();
            self.queue.heartbeat(self.token, line.as_deref());
        }
    }
}
