//! On tokio's paused clock: time passes only when nothing can run, so every wait is exact and free.

mod batchers;
mod cancelling;
mod errors;
mod leaving;
mod memory;
mod order;
mod random;
mod stats;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;

type Respond = dyn Fn(&[u64]) -> Results + Send + Sync;
type Results = Result<Vec<Result<u64, Error>>, Error>;

/// Runs batches of numbers; the result of `n` is `n + 1000`, unless it is told otherwise.
struct Fake {
    start: Instant,
    latency: Duration,
    respond: Box<Respond>,
    /// Admits as many batches as it has permits.
    gate: Semaphore,
    refuse: Mutex<Option<Error>>,
    admissions: Mutex<Vec<(usize, u64)>>,
    calls: Mutex<Vec<Call>>,
    permits: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    running_most: AtomicUsize,
    admitting: Arc<AtomicUsize>,
}

#[derive(Clone, Debug, PartialEq)]
struct Call {
    at: Duration,
    items: Vec<u64>,
}

/// Counts down when it goes, however it goes.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl Execute<u64, u64> for Fake {
    type Permit = Counted;

    fn scope(&self) -> String {
        "fake on sim:0".to_owned()
    }

    fn waits_for(&self) -> Option<String> {
        Some("needs 82 GiB, 30 GiB free on sim:0".to_owned())
    }

    async fn admit(&self, items: usize, cost: u64) -> Result<Counted, Error> {
        let _admitting = Counted::new(&self.admitting);
        self.admissions.lock().push((items, cost));
        if let Some(error) = self.refuse.lock().take() {
            return Err(error);
        }
        self.gate.acquire().await.unwrap().forget();
        Ok(Counted::new(&self.permits))
    }

    async fn execute(&self, _: &mut Counted, items: Vec<u64>) -> Results {
        let running = Counted::new(&self.running);
        self.running_most.fetch_max(running.0.load(SeqCst), SeqCst);
        self.calls.lock().push(Call {
            at: self.start.elapsed(),
            items: items.clone(),
        });
        sleep(self.latency).await;
        (self.respond)(&items)
    }
}

impl Fake {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            latency: Duration::ZERO,
            respond: Box::new(|items| Ok(items.iter().map(|item| Ok(item + 1000)).collect())),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            refuse: Mutex::default(),
            admissions: Mutex::default(),
            calls: Mutex::default(),
            permits: Arc::default(),
            running: Arc::default(),
            running_most: AtomicUsize::new(0),
            admitting: Arc::default(),
        }
    }

    fn slow(latency: u64) -> Self {
        Self {
            latency: ms(latency),
            ..Self::new()
        }
    }

    /// It admits nothing until it is told to.
    fn closed() -> Self {
        Self {
            gate: Semaphore::new(0),
            ..Self::new()
        }
    }

    fn responding(respond: impl Fn(&[u64]) -> Results + Send + Sync + 'static) -> Self {
        Self {
            respond: Box::new(respond),
            ..Self::new()
        }
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// The items of each call.
    fn batches(&self) -> Vec<Vec<u64>> {
        self.calls().into_iter().map(|call| call.items).collect()
    }

    fn sizes(&self) -> Vec<usize> {
        self.calls().iter().map(|call| call.items.len()).collect()
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// 4 items, 10 ms.
fn limits() -> Limits {
    Limits {
        items: 4,
        delay: ms(10),
        cost: None,
        padded: false,
        queue: 1000,
        lanes: 1,
    }
}

fn batcher(limits: Limits, fake: Fake) -> (Arc<Batcher<u64, u64>>, Arc<Fake>) {
    let fake = Arc::new(fake);
    let batcher = Batcher::new(limits, fake.clone(), Arc::default()).unwrap();
    (Arc::new(batcher), fake)
}

fn items(values: impl IntoIterator<Item = u64>) -> Vec<Item<u64>> {
    values.into_iter().map(Item::new).collect()
}

fn costing(value: u64, cost: u64) -> Item<u64> {
    Item {
        cost,
        ..Item::new(value)
    }
}

fn urgent(value: u64, priority: u8) -> Item<u64> {
    Item {
        priority,
        ..Item::new(value)
    }
}

fn expiring(value: u64, after_ms: u64) -> Item<u64> {
    Item {
        deadline: Some(Instant::now() + ms(after_ms)),
        ..Item::new(value)
    }
}

type Submitted = JoinHandle<Result<u64, Error>>;

/// Submits from a task of its own, which is waiting when this returns.
async fn submit(batcher: &Arc<Batcher<u64, u64>>, item: Item<u64>) -> Submitted {
    let batcher = batcher.clone();
    let task = tokio::spawn(async move { batcher.submit(item).await });
    tokio::task::yield_now().await;
    task
}

/// Lets everything happen that needs no time, and what is due within the next millisecond.
async fn settle() {
    sleep(ms(1)).await;
}

fn failed<O>(result: &Result<O, Error>) -> Option<Kind> {
    result.as_ref().err().map(|error| error.kind)
}
