//! The devices of one class, who holds them and which models they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tidemill_device::batch::{Batchers, SafeSizes};
use tidemill_device::lease::{Leases, Offered, Request};
use tidemill_device::model::{self, Models};
use tidemill_device::{Admission, Error};
use tidemill_pipeline::device::Advertised;
use tidemill_pipeline::plan;
use tidemill_pipeline::resource::model_queue;
use tokio::sync::watch;

use crate::metrics::{BatcherNow, DeviceNow, Executions, Metrics, Snapshot};
use crate::offer::Offer;

/// Batchers that are kept although idle, and for how long.
const BATCHERS: usize = 256;
const BATCHER_IDLE: Duration = Duration::from_secs(60);
/// Keys whose reasons for waiting are kept although nobody listens.
const WAITING_KEPT: usize = 256;

/// What a class runs batches on. A class without devices computes on the host, and nobody waits for
/// it there.
pub(crate) struct Devices {
    class: String,
    pub(crate) homes: Homes,
    metrics: Arc<Metrics>,
    pub(crate) batchers: Batchers<Value, Value>,
    pub(crate) safe: Arc<SafeSizes>,
    /// The folder of models.
    pub(crate) data: PathBuf,
    /// By the batcher's key, what its next batch waits for.
    waiting: Mutex<BTreeMap<String, watch::Sender<Option<String>>>>,
    served: Mutex<Served>,
    queues: watch::Sender<BTreeSet<String>>,
}

/// Where a class computes.
pub(crate) enum Homes {
    /// It has no devices: nobody waits, and models stay while the host has memory.
    Host(Arc<Models>),
    Devices(Arc<Admission>),
}

/// Which queues of models this worker takes tasks from.
#[derive(Default)]
struct Served {
    /// Whatever is loaded.
    always: BTreeSet<String>,
    /// By the model, the queues that pipelines reach it by.
    names: BTreeMap<model::Key, BTreeSet<String>>,
}

impl Devices {
    pub(crate) fn open(offer: &Offer, data: PathBuf, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let mut offered = Vec::with_capacity(offer.devices.len());
        for device in &offer.devices {
            offered.push(Offered {
                device: tidemill_device::open(&device.name)?,
                memory: device.memory,
            });
        }
        let homes = match offered.is_empty() {
            true => Homes::Host(Models::new(tidemill_device::open("cpu")?, None)),
            false => Homes::Devices(Admission::new(offered)),
        };
        let always: BTreeSet<String> = offer
            .serve
            .iter()
            .map(|model| model_queue(&offer.class, model))
            .collect();
        Ok(Self {
            class: offer.class.clone(),
            homes,
            metrics,
            batchers: Batchers::new(BATCHERS, BATCHER_IDLE),
            safe: Arc::default(),
            data,
            waiting: Mutex::default(),
            queues: watch::Sender::new(always.clone()),
            served: Mutex::new(Served {
                always,
                names: BTreeMap::new(),
            }),
        })
    }

    pub(crate) fn class(&self) -> &str {
        &self.class
    }

    /// Batches that can be in execution at the same time; 1 for a class without devices.
    pub(crate) fn count(&self) -> usize {
        self.models().len()
    }

    /// Where calls on a device are counted.
    pub(crate) fn executions(&self, device: &str) -> Arc<Executions> {
        self.metrics.executions(&self.class, device)
    }

    /// What devices and batchers say of themselves now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let usage = self.leases().map(|leases| leases.usage());
        let devices = self.models().into_iter().map(|models| {
            let device = models.device();
            let name = device.name();
            let usage = usage.iter().flatten().find(|usage| usage.device == name);
            let counters = models.counters();
            DeviceNow {
                device: name.to_owned(),
                memory: device.memory().ok(),
                utilisation: device.utilisation(),
                leased: usage.map_or(Duration::ZERO, |usage| usage.leased),
                unleased: usage.map_or(Duration::ZERO, |usage| usage.idle),
                model_loads: counters.loads,
                model_unloads: counters.unloads,
                models_held: models.held().borrow().len(),
            }
        });
        let batchers = self.batchers.all().into_iter().map(|(key, batcher)| {
            let stats = batcher.stats();
            BatcherNow {
                // The first line names the model; the rest only keeps different batches apart.
                batcher: key.lines().next().unwrap_or_default().to_owned(),
                batches: stats.batches,
                items: stats.items,
                capacity: stats.batches * batcher.limits().items as u64,
                queued: stats.queued,
                oldest_wait: Duration::from_secs_f64(stats.oldest_wait_s),
                wait: Duration::from_secs_f64(stats.wait_sum_s),
            }
        });
        Snapshot {
            slots: None,
            devices: devices.collect(),
            batchers: batchers.collect(),
        }
    }

    /// As submitters are told of them: none for a class without devices.
    pub(crate) fn advertised(&self) -> Result<Vec<Advertised>, Error> {
        let Some(leases) = self.leases() else {
            return Ok(Vec::new());
        };
        let devices = leases.devices();
        let devices = devices.iter().map(|device| {
            let memory = match leases.ledger(device.name()) {
                Some(ledger) => ledger.limit()?,
                None => device.memory()?.total,
            };
            Ok(Advertised {
                name: device.name().to_owned(),
                memory,
                kind: kind(device.name()).to_owned(),
            })
        });
        devices.collect()
    }

    /// Where the batches of a key say what they wait for.
    pub(crate) fn waiting(&self, key: &str) -> watch::Sender<Option<String>> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_KEPT {
            waiting.retain(|_, sender| sender.receiver_count() > 0);
        }
        let sender = waiting.entry(key.to_owned());
        sender.or_insert_with(|| watch::Sender::new(None)).clone()
    }

    pub(crate) fn leases(&self) -> Option<&Arc<Leases>> {
        match &self.homes {
            Homes::Host(_) => None,
            Homes::Devices(admission) => Some(admission.leases()),
        }
    }

    /// The models of each device, or of the host.
    fn models(&self) -> Vec<&Arc<Models>> {
        match &self.homes {
            Homes::Host(models) => vec![models],
            Homes::Devices(admission) => admission.all_models().collect(),
        }
    }

    pub(crate) fn queue_of(&self, model: &str) -> String {
        model_queue(&self.class, model)
    }

    /// Notes that pipelines call the model so: by that name its tasks are looked for while it is
    /// loaded.
    pub(crate) fn known_as(&self, key: &model::Key, name: &str) {
        let queue = self.queue_of(name);
        let mut served = self.served.lock();
        served.names.entry(key.clone()).or_default().insert(queue);
    }

    /// The queues of models that tasks are taken from now, beside the class's own.
    pub(crate) fn queues(&self) -> watch::Receiver<BTreeSet<String>> {
        self.queues.subscribe()
    }

    /// Whether tasks are taken from this queue of a model.
    pub(crate) fn serves(&self, queue: &str) -> bool {
        self.queues.borrow().contains(queue)
    }

    /// To be called when a model was loaded or dropped.
    pub(crate) fn refresh(&self) {
        let mut queues = BTreeSet::new();
        {
            let served = self.served.lock();
            queues.extend(served.always.iter().cloned());
            for models in self.models() {
                for key in models.held().borrow().iter() {
                    queues.extend(served.names.get(key).into_iter().flatten().cloned());
                }
            }
        }
        self.queues.send_if_modified(|now| {
            let changed = *now != queues;
            *now = queues;
            changed
        });
    }

    /// Follows what the devices hold until the future is dropped.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut held: Vec<_> = self.models().iter().map(|models| models.held()).collect();
        loop {
            self.refresh();
            let changes = held.iter_mut().map(|held| Box::pin(held.changed()));
            let (changed, ..) = futures::future::select_all(changes).await;
            if changed.is_err() {
                return;
            }
        }
    }
}

/// A pipeline's demand as a request.
pub(crate) fn request(demand: Option<&plan::Device>) -> Request {
    demand.map_or_else(Request::default, |demand| Request {
        devices: demand.count,
        share: demand.share,
        memory: demand.memory,
        on: None,
    })
}

/// What stands before the number: `nvml` of `nvml:0`.
fn kind(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}
