//! Random requests, releases, cancellations and kills, checked against what the test knows.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use super::{Holder, Lease, Leases, Never, Offered, Request};
use crate::Device;
use crate::simulated::{Model, Settings, Simulated};

const GIB: u64 = 1 << 30;
const STEPS: usize = 3_000;

/// Xorshift: the same seed gives the same run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

struct Waiting {
    acquire: Pin<Box<dyn Future<Output = Result<Lease, Never>>>>,
    request: Request,
}

struct Holding {
    lease: Lease,
    request: Request,
    /// What it took of its promises.
    models: Vec<Model>,
}

struct World {
    random: Random,
    devices: Vec<Simulated>,
    leases: Arc<Leases>,
    waiting: Vec<Waiting>,
    holding: Vec<Holding>,
    attempts: BTreeMap<String, u32>,
    granted: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let device = |number| {
            Simulated::new(Settings {
                name: format!("sim:{number}"),
                memory: 80 * GIB,
                ..Settings::default()
            })
        };
        let devices: Vec<_> = (0..4).map(device).collect();
        let offered = devices.iter().map(|device| Offered {
            device: Arc::new(device.clone()),
            memory: None,
        });
        Self {
            random: Random(seed),
            leases: Leases::new(offered.collect()),
            devices,
            waiting: Vec::new(),
            holding: Vec::new(),
            attempts: BTreeMap::new(),
            granted: 0,
        }
    }

    fn request(&mut self) {
        let random = &mut self.random;
        let request = Request {
            devices: random.one_of(&[1, 1, 1, 2, 3, 4]),
            share: random.one_of(&[0.1, 0.25, 1.0 / 3.0, 0.5, 1.0]),
            memory: random.one_of(&[0, 0, 5, 20, 45, 80]) * GIB,
            on: None,
        };
        let on = format!("sim:{}", random.below(4));
        let request = match request.devices == 1 && random.below(3) == 0 {
            true => Request {
                on: Some(on),
                ..request
            },
            false => request,
        };
        let name = format!("run/{}", random.below(60));
        // Often a new attempt, sometimes the same, rarely one that is late.
        let attempt = self.attempts.entry(name.clone()).or_insert(1);
        *attempt += u32::from(random.below(3) == 0);
        let attempt = *attempt - u32::from(random.below(10) == 0);
        let leases = Arc::clone(&self.leases);
        let asked = request.clone();
        let acquire = async move {
            let holder = Holder { name, attempt };
            leases.acquire(asked, holder, |_| ()).await
        };
        self.waiting.push(Waiting {
            // So many are polled in one go that they would be told to wait for that.
            acquire: Box::pin(tokio::task::unconstrained(acquire)),
            request,
        });
    }

    /// Sees who was granted or refused. Twice: a new attempt that comes to the queue in the first pass
    /// ends the lease of an older one, for somebody who was looked at before.
    fn look(&mut self) {
        self.look_once();
        self.look_once();
    }

    fn look_once(&mut self) {
        let mut still = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            match waiting.acquire.as_mut().now_or_never() {
                None => still.push(waiting),
                Some(Err(refused)) => assert!(refused.0.contains("gave way"), "{refused}"),
                Some(Ok(lease)) => {
                    let wanted = waiting.request.devices as usize;
                    assert_eq!(lease.devices().len(), wanted);
                    self.granted += 1;
                    self.holding.push(Holding {
                        lease,
                        request: waiting.request,
                        models: Vec::new(),
                    });
                }
            }
        }
        self.waiting = still;
    }

    /// A holder takes the memory that it was promised, which has to be there.
    async fn take_memory(&mut self) {
        if self.holding.is_empty() {
            return;
        }
        let place = self.random.below(self.holding.len());
        let tells = self.random.below(2) == 0;
        let Holding {
            lease,
            request,
            models,
        } = &mut self.holding[place];
        if !models.is_empty() || !lease.is_live() {
            return;
        }
        for device in lease.devices() {
            let device: &Simulated = device.as_any().downcast_ref().unwrap();
            models.push(device.load(request.memory).await.expect("it was promised"));
        }
        if tells {
            lease.used(request.memory);
        }
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..8 if self.waiting.len() < 40 => self.request(),
            0..11 => {
                if !self.holding.is_empty() {
                    let place = self.random.below(self.holding.len());
                    let Holding { lease, models, .. } = self.holding.swap_remove(place);
                    drop(models);
                    drop(lease);
                }
            }
            11..13 => {
                if !self.waiting.is_empty() {
                    let place = self.random.below(self.waiting.len());
                    self.waiting.swap_remove(place);
                }
            }
            13 => {
                let name = format!("run/{}", self.random.below(60));
                self.leases.revoke(&name);
            }
            14 => {
                // Only what nobody was promised: nothing helps against those who take more.
                let place = self.random.below(4);
                let gib = self.random.below(60) as u64;
                let device = &self.devices[place];
                device.set_foreign(0);
                let ledger = self.leases.ledger(device.name()).unwrap();
                device.set_foreign((gib * GIB).min(ledger.free().unwrap()));
            }
            15 => tokio::time::sleep(Duration::from_millis(201)).await,
            _ => self.take_memory().await,
        }
        self.look();
        // What was taken from a revoked holder is given back by it, sooner or later.
        for holding in &mut self.holding {
            if !holding.lease.is_live() {
                holding.models.clear();
            }
        }
        self.check();
    }

    fn check(&self) {
        let live = || {
            self.holding
                .iter()
                .filter(|holding| holding.lease.is_live())
        };
        assert_eq!(self.leases.live().len(), live().count());
        assert_eq!(self.leases.waiting().len(), self.waiting.len());
        for device in &self.devices {
            let on_it = || {
                live().filter(|holding| {
                    let mut devices = holding.lease.devices().iter();
                    devices.any(|leased| leased.name() == device.name())
                })
            };
            let share: f64 = on_it().map(|holding| holding.request.share).sum();
            assert!(share < 1.000_01, "{share} of {}", device.name());
            let promised: u64 = on_it().map(|holding| holding.request.memory).sum();
            assert!(promised <= 80 * GIB, "{promised} of {}", device.name());
            let ledger = self.leases.ledger(device.name()).unwrap();
            assert_eq!(ledger.promised(), promised);
        }
    }

    /// Whoever waits gets what he waits for when the others leave.
    async fn drain(&mut self) {
        for device in &self.devices {
            device.set_foreign(0);
        }
        while !self.waiting.is_empty() || !self.holding.is_empty() {
            let before = self.waiting.len();
            let had = self.holding.len();
            self.holding.clear();
            tokio::time::sleep(Duration::from_millis(201)).await;
            self.look();
            self.check();
            assert!(
                had > 0 || self.waiting.len() < before,
                "stuck: {:?}",
                self.leases.waiting()
            );
        }
        for device in &self.devices {
            let memory = device.memory().unwrap();
            assert_eq!(memory.free, memory.total);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_over_committed_leaked_or_stuck() {
    for seed in 1..=4_u64 {
        println!("seed {seed}");
        let mut world = World::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..STEPS {
            world.step().await;
        }
        world.drain().await;
        assert!(world.granted > STEPS / 20, "{} granted", world.granted);
    }
}
