//! When batches leave: one task for each batcher, which gathers, waits for a lane and for
//! admission, and cuts.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::time::Instant;

use super::batcher::{Phase, Shared, State, expired};
use super::splitting;
use super::{Error, Execute, Kind, SafeSizes};

/// Runs until the batcher is closed.
pub(super) async fn dispatch<I, O, E>(
    shared: Arc<Shared<I, O>>,
    execute: Arc<E>,
    safe: Arc<SafeSizes>,
) where
    I: Clone + Send + 'static,
    O: Send + 'static,
    E: Execute<I, O>,
{
    // Nobody waits for ever for a dispatcher that is gone.
    let _closing = Closing(&shared);
    let dispatcher = Dispatcher {
        shared: &shared,
        execute: &*execute,
        safe: &safe,
    };
    loop {
        let permit = match dispatcher.next().await {
            Next::Begin(permit) => permit,
            Next::Again => continue,
            Next::Closed => return,
        };
        // What fits may have changed while it was waiting.
        dispatcher.measure();
        let batch = shared.cut();
        if batch.is_empty() {
            continue;
        }
        let ending = Ending(shared.clone());
        let (execute, safe) = (execute.clone(), safe.clone());
        tokio::spawn(async move {
            splitting::run(&ending.0, &*execute, &safe, permit, batch).await;
        });
    }
}

struct Closing<'a, I, O>(&'a Shared<I, O>);

impl<I, O> Drop for Closing<'_, I, O> {
    fn drop(&mut self) {
        self.0.close("the batcher stopped");
    }
}

/// A batch in execution.
struct Ending<I, O>(Arc<Shared<I, O>>);

impl<I, O> Drop for Ending<I, O> {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Dispatcher<'a, I, O, E> {
    shared: &'a Shared<I, O>,
    execute: &'a E,
    safe: &'a SafeSizes,
}

enum Next<P> {
    Begin(P),
    /// Nothing waits any more, or all that waited got an error.
    Again,
    Closed,
}

/// Whether to go on waiting.
enum Wait {
    Over,
    /// Until something changes, or this time comes.
    Until(Option<Instant>),
    Empty,
    Closed,
}

impl<I, O, E: Execute<I, O>> Dispatcher<'_, I, O, E> {
    /// Returns when a batch may begin.
    async fn next(&self) -> Next<E::Permit> {
        self.measure();
        let delay = self.shared.limits.delay;
        loop {
            let wait = self.look(Phase::Gathering, |state| {
                let leaves = state.queue.oldest()?.checked_add(delay);
                let due = leaves.is_some_and(|leaves| leaves <= Instant::now());
                Some(match due || state.full() {
                    true => Wait::Over,
                    false => Wait::Until(leaves),
                })
            });
            match wait {
                Wait::Over => break,
                Wait::Until(at) => self.wait(at).await,
                Wait::Empty => self.wait(None).await,
                Wait::Closed => return Next::Closed,
            }
        }
        loop {
            let wait = self.look(Phase::Lane, |state| {
                Some(match state.running < self.shared.limits.lanes {
                    true => Wait::Over,
                    false => Wait::Until(None),
                })
            });
            match wait {
                Wait::Over => break,
                Wait::Until(at) => self.wait(at).await,
                Wait::Empty => return Next::Again,
                Wait::Closed => return Next::Closed,
            }
        }
        self.admission().await
    }

    async fn admission(&self) -> Next<E::Permit> {
        self.measure();
        let size = {
            let state = self.shared.state.lock();
            let chosen = state.next(self.shared.limits.delay);
            state.bounds.size(chosen.load)
        };
        let admission = async { self.execute.admit(size.items, size.cost).await };
        let admission = AssertUnwindSafe(admission).catch_unwind();
        tokio::pin!(admission);
        loop {
            let until = match self.look(Phase::Admission, |_| Some(Wait::Until(None))) {
                Wait::Over => None,
                Wait::Until(at) => at,
                Wait::Empty => return Next::Again,
                Wait::Closed => return Next::Closed,
            };
            let admitted = tokio::select! {
                biased;
                admitted = &mut admission => admitted,
                () = self.wait(until) => continue,
            };
            let error = match admitted {
                Ok(Ok(permit)) => return Next::Begin(permit),
                Ok(Err(error)) => error,
                Err(panic) => Error::new(Kind::Failed, panicked("admission", &*panic)),
            };
            self.shared.refuse_all(&error);
            return Next::Again;
        }
    }

    /// What is to be done now; takes out whose deadline has passed. `decide` says `None` when
    /// nothing waits.
    fn look(&self, phase: Phase, decide: impl FnOnce(&State<I, O>) -> Option<Wait>) -> Wait {
        let mut state = self.shared.state.lock();
        let overdue = self.shared.take_overdue(&mut state);
        state.phase = phase;
        let wait = match () {
            () if state.closed.is_some() => Wait::Closed,
            () if state.queue.is_empty() => Wait::Empty,
            () => match decide(&state) {
                None => Wait::Empty,
                Some(Wait::Until(at)) => {
                    let deadline = state.queue.next_deadline();
                    Wait::Until(at.into_iter().chain(deadline).min())
                }
                Some(wait) => wait,
            },
        };
        drop(state);
        if !overdue.is_empty() {
            let what = self.waits_for(phase);
            for item in overdue {
                let submitted = item.value.waiter.submitted().unwrap_or(item.since);
                item.value.waiter.answer(Err(expired(submitted, &what)));
            }
        }
        wait
    }

    async fn wait(&self, until: Option<Instant>) {
        let changed = self.shared.changed.notified();
        match until {
            None => changed.await,
            Some(until) => {
                let _ = tokio::time::timeout_at(until, changed).await;
            }
        }
    }

    /// How large the next batch may be.
    fn measure(&self) {
        let allowed = self.safe.allowed(&self.execute.scope());
        self.shared.state.lock().bounds = self.shared.limits.bounds().within(allowed);
    }

    fn waits_for(&self, phase: Phase) -> String {
        let scope = self.execute.scope();
        match phase {
            Phase::Gathering => format!("others to fill a batch of {scope}"),
            Phase::Lane => {
                let lanes = self.shared.limits.lanes;
                format!("one of the {lanes} batches in execution of {scope} to end")
            }
            Phase::Admission => match self.execute.waits_for() {
                Some(reason) => format!("admission of a batch of {scope}: {reason}"),
                None => format!("admission of a batch of {scope}"),
            },
        }
    }
}

/// What a panic said.
pub(super) fn panicked(what: &str, panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    match said {
        Some(said) => format!("{what} panicked: {said}"),
        None => format!("{what} panicked"),
    }
}
