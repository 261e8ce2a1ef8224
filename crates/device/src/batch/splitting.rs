//! A batch in execution: what its calls' errors mean, and which parts of it are tried again.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;

use futures::FutureExt;

use super::answers;
use super::batcher::{Shared, Work};
use super::dispatcher::panicked;
use super::queue::Queued;
use super::selection::{Bounds, Load};
use super::{Error, Execute, Kind, SafeSizes, Size};

/// When no part succeeds in so many splits in a row, it is not for one item's sake.
const FRUITLESS_SPLITS: u32 = 3;

type Items<I, O> = Vec<Queued<Work<I, O>>>;

/// Returns when every item has its answer. `permit` is held until then.
pub(super) async fn run<I, O, E>(
    shared: &Shared<I, O>,
    execute: &E,
    safe: &SafeSizes,
    permit: E::Permit,
    items: Items<I, O>,
) where
    I: Clone + Send + 'static,
    O: Send + 'static,
    E: Execute<I, O>,
{
    let mut run = Run {
        shared,
        execute,
        safe,
        permit,
        scope: execute.scope(),
        bounds: shared.limits.bounds(),
        successes: 0,
        failures: 0,
        over: None,
    };
    let mut suspects = Vec::new();
    run.call_all(items, &mut suspects).await;
    // A half is searched to its end before the other is.
    while let Some(suspect) = suspects.pop() {
        let (successes, failures) = (run.successes, run.failures);
        let (left, right) = run.halve(suspect.items);
        let first = suspects.len();
        run.call_all(left, &mut suspects).await;
        run.call_all(right, &mut suspects).await;
        if run.successes == successes && run.failures >= failures + 2 {
            let fruitless = suspect.fruitless + 1;
            if fruitless == FRUITLESS_SPLITS {
                break;
            }
            for half in &mut suspects[first..] {
                half.fruitless = fruitless;
            }
        }
    }
    for suspect in suspects {
        let error = run.over.as_ref().unwrap_or(&suspect.error);
        refuse(suspect.items, error);
    }
}

struct Run<'a, I, O, E: Execute<I, O>> {
    shared: &'a Shared<I, O>,
    execute: &'a E,
    safe: &'a SafeSizes,
    permit: E::Permit,
    scope: String,
    bounds: Bounds,
    /// Calls of this batch.
    successes: u32,
    failures: u32,
    /// The error after which nothing more of this batch is tried.
    over: Option<Error>,
}

/// Items of a call that failed, perhaps for the sake of one of them; at least 2.
struct Suspect<I, O> {
    items: Items<I, O>,
    error: Error,
    /// So many splits in a row, of which this is the last half, had no part that succeeded.
    fruitless: u32,
}

enum Called<I, O> {
    Succeeded,
    /// Nobody waits for any of the items.
    Unwanted,
    Erred(Items<I, O>, Error),
}

impl<I, O, E> Run<'_, I, O, E>
where
    I: Clone + Send + 'static,
    O: Send + 'static,
    E: Execute<I, O>,
{
    /// Calls with all the items, in parts as large as fit. Those of failed calls become suspects.
    async fn call_all(&mut self, items: Items<I, O>, suspects: &mut Vec<Suspect<I, O>>) {
        let mut parts = vec![items];
        while let Some(mut part) = parts.pop() {
            if let Some(error) = &self.over {
                refuse(part, error);
                continue;
            }
            let rest = part.split_off(self.fitting(&part));
            if !rest.is_empty() {
                parts.push(rest);
            }
            let load = Load::of(part.iter().map(|item| item.cost));
            match self.call(part).await {
                Called::Unwanted => {}
                Called::Succeeded => {
                    self.successes += 1;
                    self.safe.fitted(&self.scope, self.bounds.size(load));
                }
                Called::Erred(items, error) => match error.kind {
                    Kind::BatchTooLarge if items.len() > 1 => {
                        let (left, right) = self.halve(items);
                        let next = self.larger(&left, &right);
                        let tried = self.bounds.size(load);
                        self.safe.too_large(&self.scope, tried, next);
                        parts.extend([right, left]);
                    }
                    Kind::BatchTooLarge => {
                        let cost = self.bounds.cost(load);
                        let message = format!(
                            "an item of cost {cost} is too large for {} even alone: {}",
                            self.scope, error.message
                        );
                        refuse(items, &Error { message, ..error });
                    }
                    Kind::Failed | Kind::Invalid => {
                        self.failures += 1;
                        match items.len() {
                            1 => refuse(items, &error),
                            _ => suspects.push(Suspect {
                                items,
                                error,
                                fruitless: 0,
                            }),
                        }
                    }
                    _ => {
                        refuse(items, &error);
                        self.over = Some(error);
                    }
                },
            }
        }
    }

    /// How many of the first items may be in one call; at least 1, if there are any.
    fn fitting(&self, items: &Items<I, O>) -> usize {
        let bounds = self.bounds.within(self.safe.allowed(&self.scope));
        let mut load = Load::default();
        for item in items {
            let more = load.and(item.cost);
            if !bounds.admit(more) {
                break;
            }
            load = more;
        }
        load.items
    }

    async fn call(&mut self, mut items: Items<I, O>) -> Called<I, O> {
        let Some(call) = answers::begin(&mut items, |item| &item.value.waiter) else {
            return Called::Unwanted;
        };
        self.shared.counters.calls.fetch_add(1, Relaxed);
        let values: Vec<I> = items.iter().map(|item| item.value.value.clone()).collect();
        let (execute, permit) = (self.execute, &mut self.permit);
        let executed = async move { execute.execute(permit, values).await };
        let result = tokio::select! {
            biased;
            result = AssertUnwindSafe(executed).catch_unwind() => result,
            () = call.unwanted() => return Called::Unwanted,
        };
        let failed = match result {
            Ok(Ok(results)) if results.len() == items.len() => {
                for (item, result) in items.into_iter().zip(results) {
                    item.value.waiter.answer(result);
                }
                return Called::Succeeded;
            }
            Ok(Ok(results)) => {
                let (results, items) = (results.len(), items.len());
                let message = format!("the call gave {results} results for {items} items");
                Error::new(Kind::Failed, message)
            }
            Ok(Err(error)) => error,
            Err(panic) => Error::new(Kind::Failed, panicked("the call", &*panic)),
        };
        Called::Erred(items, failed)
    }

    fn halve(&self, mut items: Items<I, O>) -> (Items<I, O>, Items<I, O>) {
        self.shared.counters.splits.fetch_add(1, Relaxed);
        let right = items.split_off(items.len() / 2);
        (items, right)
    }

    /// What covers both.
    fn larger(&self, left: &Items<I, O>, right: &Items<I, O>) -> Size {
        let [left, right] = [left, right].map(|half| {
            let load = Load::of(half.iter().map(|item| item.cost));
            self.bounds.size(load)
        });
        Size {
            items: left.items.max(right.items),
            cost: left.cost.max(right.cost),
        }
    }
}

fn refuse<I, O>(items: Items<I, O>, error: &Error) {
    for item in items {
        item.value.waiter.answer(Err(error.clone()));
    }
}
