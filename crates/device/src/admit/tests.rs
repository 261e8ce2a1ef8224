use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::{Admission, AdmitError, Admitted};
use crate::Device;
use crate::lease::{Holder, Offered, Request};
use crate::model::{Key, Loaded};
use crate::simulated::{Fault, Settings, Simulated};

const GIB: u64 = 1 << 30;

type Got = Result<Admitted, AdmitError<Fault>>;

struct World<const N: usize> {
    admission: Arc<Admission>,
    devices: [Simulated; N],
    reasons: Mutex<Vec<String>>,
}

/// Devices of 10 GiB; an item takes half of one, and loading a model 30 ms.
fn world<const N: usize>() -> World<N> {
    let devices: [Simulated; N] = std::array::from_fn(|number| {
        Simulated::new(Settings {
            name: format!("sim:{number}"),
            memory: 10 * GIB,
            item_memory: GIB / 2,
            load: Duration::from_millis(30),
            ..Settings::default()
        })
    });
    let offered = devices.iter().map(|device| Offered {
        device: Arc::new(device.clone()),
        memory: None,
    });
    World {
        admission: Admission::new(offered.collect()),
        devices,
        reasons: Mutex::default(),
    }
}

fn key(name: &str) -> Key {
    Key {
        name: name.to_owned(),
        revision: String::new(),
    }
}

fn simulated(device: &dyn Device) -> &Simulated {
    device.as_any().downcast_ref().unwrap()
}

impl<const N: usize> World<N> {
    /// A batch of so many GiB with a model of so many.
    async fn admit(&self, share: f64, batch: f64, model: &str, gib: u64) -> Got {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a few GiB"
        )]
        let request = Request {
            share,
            memory: (batch * GIB as f64) as u64,
            ..Request::default()
        };
        let holder = Holder {
            name: format!("batch of {model}"),
            attempt: 1,
        };
        let load = async |device: Arc<dyn Device>| {
            let model = simulated(&*device).load(gib * GIB).await?;
            Ok(Loaded {
                value: Arc::new(model),
                bytes: None,
            })
        };
        let waiting = |reason| self.reasons.lock().push(reason);
        let admission = &self.admission;
        admission
            .admit(request, holder, &key(model), gib * GIB, load, waiting)
            .await
    }

    fn reasons(&self) -> Vec<String> {
        std::mem::take(&mut *self.reasons.lock())
    }

    fn is_empty(&self) -> bool {
        let leases = self.admission.leases();
        for models in self.admission.all_models() {
            models.unload_unused();
        }
        leases.live().is_empty()
            && leases.waiting().is_empty()
            && self.devices.iter().all(|device| {
                let ledger = leases.ledger(device.name()).unwrap();
                ledger.promised() == 0 && ledger.free() == Ok(10 * GIB)
            })
    }
}

fn on(admitted: &Admitted) -> &str {
    admitted.lease.devices()[0].name()
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_where_its_model_is() {
    let world = world::<2>();
    let first = world.admit(0.5, 1.0, "a", 4).await.unwrap();
    assert_eq!(on(&first), "sim:0");
    let second = world.admit(0.5, 1.0, "a", 4).await.unwrap();
    assert_eq!(on(&second), "sim:0", "although the other one is empty");
    let third = world.admit(0.5, 1.0, "a", 4).await.unwrap();
    assert_eq!(on(&third), "sim:1", "there was no share left");
    let loads = |number: usize| world.devices[number].report().loads;
    assert_eq!((loads(0), loads(1)), (1, 1));
    drop((first, second, third));
    assert!(world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn unused_models_make_room_for_a_batch_and_its_model() {
    let world = world::<1>();
    drop(world.admit(1.0, 1.0, "a", 4).await.unwrap());
    drop(world.admit(1.0, 1.0, "b", 4).await.unwrap());
    let c = world.admit(1.0, 3.0, "c", 3).await.unwrap();
    let held = world.admission.models("sim:0").unwrap().held();
    assert_eq!(*held.borrow(), [key("b"), key("c")].into());
    assert_eq!(c.resident.bytes(), 3 * GIB);
    assert_eq!(world.reasons(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_model_in_use_is_told_and_comes_next() {
    let world = world::<1>();
    let a = world.admit(0.25, 1.0, "a", 4).await.unwrap();
    let mut b = Box::pin(world.admit(0.25, 2.0, "b", 5));
    assert!(b.as_mut().now_or_never().is_none());
    assert_eq!(world.reasons(), ["needs 7 GiB, 5 GiB free on sim:0"]);
    let mut again = Box::pin(world.admit(0.25, 1.0, "a", 4));
    assert!(again.as_mut().now_or_never().is_none());
    assert_eq!(
        world.reasons(),
        ["sim:0 is kept for batch of b, which came earlier"]
    );
    drop(a);
    let b = timeout(Duration::from_millis(40), b).await;
    let b = b.expect("after the load").unwrap();
    assert!(again.as_mut().now_or_never().is_none());
    drop(b);
    again.await.unwrap();
    assert!(world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_never_fits_is_refused_with_numbers() {
    let world = world::<1>();
    let refused = async |batch: f64, gib: u64| {
        let refused = world.admit(1.0, batch, "a", gib).now_or_never();
        refused.expect("nothing to wait for").unwrap_err()
    };
    let error = refused(1.0, 11).await;
    assert!(matches!(error, AdmitError::TooLarge(_)));
    assert_eq!(error.to_string(), "model a needs 11 GiB; sim:0 has 10 GiB");
    let error = refused(4.0, 7).await;
    assert_eq!(error.to_string(), "needs 11 GiB; sim:0 has 10 GiB");
    assert!(world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_load_gives_the_device_back() {
    let world = world::<1>();
    let admit = || {
        let holder = Holder {
            name: "batch".to_owned(),
            attempt: 1,
        };
        let half = Request {
            share: 0.5,
            ..Request::default()
        };
        let load = async |_| {
            sleep(Duration::from_millis(10)).await;
            Err(Fault::Failed("no weights".to_owned()))
        };
        let (admission, a) = (Arc::clone(&world.admission), key("a"));
        async move { admission.admit(half, holder, &a, GIB, load, |_| ()).await }
    };
    let (first, second) = tokio::join!(admit(), admit());
    for got in [first, second] {
        assert_eq!(got.unwrap_err().to_string(), "no weights");
    }
    assert_eq!(
        world.admission.models("sim:0").unwrap().counters().failed,
        1
    );
    world.admit(1.0, 1.0, "a", 4).await.unwrap();
    assert!(world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_joined_a_load_that_was_dropped_loads() {
    let world = world::<1>();
    let mut first = Box::pin(world.admit(0.5, 1.0, "a", 4));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = Box::pin(world.admit(0.5, 1.0, "a", 4));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    let second = timeout(Duration::from_millis(40), second).await;
    drop(second.expect("after a load").unwrap());
    assert_eq!(world.devices[0].report().loads, 1);
    assert!(world.is_empty());
}

/// As a worker does it, with tasks that are cancelled at any moment: no call and no load ever finds
/// too little memory, nobody waits for ever, and nothing is left behind.
#[tokio::test(start_paused = true)]
async fn batches_of_many_models_never_run_out_of_memory() {
    for share in [1.0, 0.25] {
        let world = world::<2>();
        let batch = async |number: u32| {
            sleep(Duration::from_millis(u64::from(number * 31 % 4_003))).await;
            let (model, gib) = [("a", 4), ("b", 3), ("c", 2), ("d", 5)][number as usize % 4];
            let items = number % 7 + 1;
            let batch = f64::from(items) / 2.0;
            let admitted = world.admit(share, batch, model, gib).await.unwrap();
            let device = simulated(&*admitted.lease.devices()[0]);
            device.execute(items as usize).await.unwrap();
        };
        let batch = &batch;
        let all = join_all((0..600).map(async |number: u32| {
            // Every fifth is cancelled, some of them before they began.
            let limit = match number % 5 {
                0 => Duration::from_millis(u64::from(number * 61 % 5_003)),
                _ => Duration::from_secs(600),
            };
            timeout(limit, batch(number)).await.is_ok()
        }));
        let done = all.await.into_iter().filter(|done| *done).count();
        assert!((480..600).contains(&done), "{done}");
        let reports = world.devices.each_ref().map(Simulated::report);
        assert_eq!(reports.each_ref().map(|report| report.failed), [0, 0]);
        let executions: u64 = reports.iter().map(|report| report.executions).sum();
        assert_eq!(executions, done as u64);
        assert!(world.is_empty());
    }
}
