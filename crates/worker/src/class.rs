//! One resource class of a worker: its queues, slots, devices and threads.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_pipeline::device::Advertised;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::batching::Devices;
use crate::config::Config;
use crate::core::{Cancel, Engine, Event, Queue, Serving};
use crate::host;
use crate::metrics::Snapshot;
use crate::offer::Offer;
use crate::run::Runner;
use crate::serve::Error;
use crate::slots::ClassSlots;
use crate::task::{Class, execute};

/// Threads of one class at most. Stages that wait share them; each that computes takes one.
const THREADS_MAX: usize = 64;
/// How long a class takes no tasks after one of its devices was short of memory: long enough for
/// another worker to take what was handed back.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(5);
/// Polls that a queue begins with, without devices and with: a full batch needs many tasks soon.
const POLLS_FIRST: (usize, usize) = (2, 8);

/// A class that a worker offers, for as long as the worker lives.
pub(crate) struct Offered {
    name: String,
    class: Arc<Class>,
    advertised: Arc<[Advertised]>,
    _gate: AbortOnDropHandle<Infallible>,
    // Threads outlive the tasks on them.
    _threads: Threads,
}

impl Offered {
    /// Opens its devices and starts its threads.
    pub(crate) fn open(
        offer: &Offer,
        config: &Config,
        runner: &Arc<Runner>,
    ) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Device {
            class: offer.class.clone(),
            reason,
        };
        let devices = Devices::open(offer, config.data.clone(), config.metrics.clone())
            .map_err(|e| wrong(e.to_string()))?;
        let advertised = devices.advertised().map_err(|e| wrong(e.to_string()))?;
        let threads = Threads::start(offer)?;
        let (gate, watch) = host::gate(host::Targets {
            cpu: offer.cpu_target,
            memory: None,
        });
        let class = Class {
            slots: ClassSlots::new(offer.slots, gate),
            tasks: config.metrics.tasks(&offer.class),
            devices: Arc::new(devices),
            shortage: Notify::new(),
            runner: runner.clone(),
            threads: threads.handle(),
        };
        let class = Arc::new(class);
        let watched = Arc::downgrade(&class);
        config.metrics.watch(&offer.class, move || {
            watched
                .upgrade()
                .map_or_else(Snapshot::default, |class| snapshot(&class))
        });
        Ok(Self {
            name: offer.class.clone(),
            class,
            advertised: advertised.into(),
            _gate: AbortOnDropHandle::new(tokio::spawn(watch)),
            _threads: threads,
        })
    }

    /// Takes tasks from the class's queue, and from those of the models that it holds, until `stop`
    /// fires, and returns when all tasks have ended. An error says why the engine refuses.
    pub(crate) fn serve(
        &self,
        engine: &Arc<Engine>,
        grace: Duration,
        stop: &CancellationToken,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let serving = ServingClass {
            name: self.name.clone(),
            class: self.class.clone(),
            advertised: self.advertised.clone(),
            engine: engine.clone(),
            grace,
            stop: stop.clone(),
        };
        serving.run()
    }
}

fn snapshot(class: &Class) -> Snapshot {
    Snapshot {
        slots: Some(class.slots.as_ref().into()),
        ..class.devices.snapshot()
    }
}

struct ServingClass {
    name: String,
    class: Arc<Class>,
    advertised: Arc<[Advertised]>,
    engine: Arc<Engine>,
    grace: Duration,
    stop: CancellationToken,
}

impl ServingClass {
    async fn run(self) -> Result<(), String> {
        let follow = self.class.devices.clone().follow();
        let _follow = AbortOnDropHandle::new(tokio::spawn(follow));
        let mut of_models = self.class.devices.queues();
        let mut polled: BTreeMap<String, CancellationToken> = BTreeMap::new();
        let mut queues = JoinSet::new();
        let mut paused_until: Option<Instant> = None;
        while !self.stop.is_cancelled() {
            let of_models_now = of_models.borrow_and_update().clone();
            let wanted = match paused_until {
                Some(_) => BTreeSet::new(),
                None => self.wanted(of_models_now),
            };
            polled.retain(|name, stop| {
                let keep = wanted.contains(name);
                if !keep {
                    stop.cancel();
                }
                keep
            });
            for name in wanted {
                if let Entry::Vacant(entry) = polled.entry(name.clone()) {
                    let stop = self.stop.child_token();
                    queues.spawn(self.poll(&name, stop.clone())?);
                    entry.insert(stop);
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = of_models.changed() => {}
                Some(ended) = queues.join_next() => {
                    let told = ended.map_err(|e| format!("polling failed: {e}"))?;
                    // By itself a queue ends only when the engine is gone for good.
                    if !told {
                        self.stop.cancel();
                    }
                }
                () = self.class.shortage.notified(),
                    if paused_until.is_none() && !self.advertised.is_empty() =>
                {
                    info!(class = self.name, "a device is short of memory: no tasks are taken for {} s",
                        SHORTAGE_PAUSE.as_secs());
                    paused_until = Some(Instant::now() + SHORTAGE_PAUSE);
                }
                () = until(paused_until), if paused_until.is_some() => paused_until = None,
            }
        }
        while queues.join_next().await.is_some() {}
        Ok(())
    }

    fn wanted(&self, mut of_models: BTreeSet<String>) -> BTreeSet<String> {
        of_models.insert(self.name.clone());
        of_models
    }

    /// Takes the tasks of one queue until told to stop. Ends when all of them have, and says whether it
    /// was told: by then the queue may be polled anew under the same name.
    fn poll(
        &self,
        name: &str,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = bool> + Send + use<>, String> {
        let has_devices = !self.advertised.is_empty();
        let serving = Serving {
            slots: &self.class.slots,
            devices: &self.advertised,
            polls_first: if has_devices {
                POLLS_FIRST.1
            } else {
                POLLS_FIRST.0
            },
            grace: self.grace,
        };
        let queue = self.engine.queue(name, &serving)?;
        debug!(queue = name, "polled");
        let (class, stopping) = (self.class.clone(), self.stop.clone());
        let name = name.to_owned();
        Ok(async move {
            poll(&name, class, queue, stop.clone(), stopping).await;
            stop.is_cancelled()
        })
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

type Cancels = Arc<Mutex<HashMap<Vec<u8>, watch::Sender<Option<Cancel>>>>>;

async fn poll(
    name: &str,
    class: Arc<Class>,
    queue: Queue,
    stop: CancellationToken,
    worker_stops: CancellationToken,
) {
    queue.prepare().await;
    let queue = Arc::new(queue);
    let cancels: Cancels = Arc::default();
    let mut tasks = JoinSet::new();
    let mut stopping = false;
    loop {
        let event = tokio::select! {
            event = queue.next() => event,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                debug!(queue = name, running = tasks.len(), "no more tasks are taken");
                queue.stop();
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        match event {
            None => break,
            Some(Err(reason)) => warn!(queue = name, "cannot poll any more: {reason}"),
            // The queue ends and not the worker: its tasks go on.
            Some(Ok(Event::Cancel {
                why: Cancel::Shutdown,
                ..
            })) if !worker_stops.is_cancelled() => {}
            Some(Ok(Event::Cancel { token, why })) => {
                if let Some(cancel) = cancels.lock().get(&token) {
                    cancel.send_replace(Some(why));
                }
            }
            Some(Ok(Event::Start(start))) => {
                let (cancel, cancelled) = watch::channel(None);
                let token = start.token.clone();
                cancels.lock().insert(token.clone(), cancel);
                let (class, queue, cancels) = (class.clone(), queue.clone(), cancels.clone());
                let stop = worker_stops.clone();
                tasks.spawn(async move {
                    execute(&class, &queue, start, cancelled, &stop).await;
                    cancels.lock().remove(&token);
                });
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    if let Some(queue) = Arc::into_inner(queue) {
        Queue::end(queue).await;
    }
}

/// A runtime for the stages of a class.
struct Threads(Option<Runtime>);

impl Threads {
    fn start(offer: &Offer) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(offer.slots.min(THREADS_MAX))
            .thread_name(format!("stage-{}", offer.class))
            .enable_all()
            .build()
            .map_err(|e| Error::Threads {
                class: offer.class.clone(),
                reason: e.to_string(),
            })?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> tokio::runtime::Handle {
        let runtime = self.0.as_ref().expect("it is there until the drop");
        runtime.handle().clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Not waited for: a stage that computes on after it was cancelled must not hold the process.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
