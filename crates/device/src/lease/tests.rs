use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Holder, Lease, Leases, Never, Offered, Request};
use crate::simulated::{Settings, Simulated};
use crate::{Device, Error, Memory};

const GIB: u64 = 1 << 30;

fn device(number: usize, gib: u64) -> Simulated {
    Simulated::new(Settings {
        name: format!("sim:{number}"),
        memory: gib * GIB,
        ..Settings::default()
    })
}

/// Devices of so many GiB each.
fn leases<const N: usize>(gib: [u64; N]) -> (Arc<Leases>, [Simulated; N]) {
    let mut number = 0;
    let devices = gib.map(|gib| {
        number += 1;
        device(number - 1, gib)
    });
    let offered = devices.iter().map(|device| Offered {
        device: Arc::new(device.clone()),
        memory: None,
    });
    (Leases::new(offered.collect()), devices)
}

fn holder(name: &str) -> Holder {
    Holder {
        name: name.to_owned(),
        attempt: 1,
    }
}

fn share(share: f64) -> Request {
    Request {
        share,
        ..Request::default()
    }
}

fn whole(devices: u32) -> Request {
    Request {
        devices,
        ..Request::default()
    }
}

fn memory(gib: u64) -> Request {
    Request {
        share: 0.1,
        memory: gib * GIB,
        ..Request::default()
    }
}

/// A request that waits, and the reasons that it was given.
struct Waiting {
    acquire: Pin<Box<dyn Future<Output = Result<Lease, Never>>>>,
    reasons: Arc<Mutex<Vec<String>>>,
}

impl Waiting {
    fn new(leases: &Arc<Leases>, request: Request, holder: Holder) -> Self {
        let leases = Arc::clone(leases);
        let reasons = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&reasons);
        let acquire = async move {
            let waiting = move |reason| told.lock().push(reason);
            leases.acquire(request, holder, waiting).await
        };
        let mut waiting = Self {
            acquire: Box::pin(acquire),
            reasons,
        };
        assert!(waiting.poll().is_none(), "it was granted at once");
        waiting
    }

    fn poll(&mut self) -> Option<Result<Lease, Never>> {
        self.acquire.as_mut().now_or_never()
    }

    fn granted(&mut self) -> Lease {
        self.poll().expect("it still waits").unwrap()
    }

    fn reasons(&mut self) -> Vec<String> {
        assert!(self.poll().is_none(), "it was granted");
        std::mem::take(&mut *self.reasons.lock())
    }
}

fn wait(leases: &Arc<Leases>, request: Request, name: &str) -> Waiting {
    Waiting::new(leases, request, holder(name))
}

fn take_as(leases: &Arc<Leases>, request: Request, holder: Holder) -> Lease {
    leases
        .acquire(request, holder, |_| ())
        .now_or_never()
        .expect("it has to wait")
        .unwrap()
}

fn take(leases: &Arc<Leases>, request: Request, name: &str) -> Lease {
    take_as(leases, request, holder(name))
}

fn names(lease: &Lease) -> Vec<&str> {
    lease.devices().iter().map(|device| device.name()).collect()
}

#[tokio::test]
async fn what_can_never_be_is_refused_with_numbers() {
    let (leases, _) = leases([80, 80, 40]);
    let check = |request: Request, expected: &str| {
        let refused = leases.can_ever(&request).unwrap_err();
        assert_eq!(refused.to_string(), expected);
        let acquired = leases.acquire(request, holder("a"), |_| ()).now_or_never();
        assert_eq!(acquired.unwrap().unwrap_err(), refused);
    };
    let on = |name: &str| Some(name.to_owned());
    check(
        memory(82),
        "needs 82 GiB; the largest device, sim:0, has 80 GiB",
    );
    check(
        Request {
            devices: 3,
            ..memory(50)
        },
        "needs 50 GiB on each of 3 devices; 2 of them have it",
    );
    check(whole(4), "needs 4 devices; there are 3 here");
    check(
        Request {
            on: on("sim:2"),
            ..memory(41)
        },
        "needs 41 GiB; sim:2 has 40 GiB",
    );
    check(
        Request {
            on: on("sim:7"),
            ..whole(1)
        },
        "needs sim:7; there is sim:0, sim:1, sim:2 here",
    );
    check(
        Request {
            on: on("sim:1"),
            ..whole(2)
        },
        "needs 2 devices; it can only be sim:1",
    );
    check(whole(0), "asks for 0 devices; at least 1 is needed");
    for wrong in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
        check(
            share(wrong),
            &format!("asks for a share of {wrong} of a device; it has to be above 0 and at most 1"),
        );
    }
    assert!(leases.waiting().is_empty());
    let empty = Leases::new(Vec::new());
    assert_eq!(
        empty.can_ever(&whole(1)).unwrap_err().to_string(),
        "needs a device; there is none here"
    );
}

#[tokio::test]
async fn a_budget_bounds_what_can_ever_be_and_what_is_promised() {
    let leases = Leases::new(vec![Offered {
        device: Arc::new(device(0, 80)),
        memory: Some(60 * GIB),
    }]);
    let never = leases.can_ever(&memory(61)).unwrap_err();
    assert_eq!(never.to_string(), "needs 61 GiB; sim:0 has 60 GiB");
    let _first = take(&leases, memory(40), "a");
    let mut second = wait(&leases, memory(21), "b");
    assert_eq!(second.reasons(), ["needs 21 GiB, 20 GiB free on sim:0"]);
}

#[tokio::test]
async fn requests_are_granted_in_order_and_told_who_holds_the_device() {
    let (leases, _) = leases([80]);
    let first = take(&leases, whole(1), "run/a");
    let mut second = wait(&leases, whole(1), "run/b");
    let mut third = wait(&leases, whole(1), "run/c");
    assert_eq!(second.reasons(), ["sim:0 is held by run/a"]);
    assert_eq!(third.reasons(), ["sim:0 is held by run/a"]);
    let waiting = leases.waiting();
    assert_eq!(waiting.len(), 2);
    assert_eq!(
        waiting[0],
        (holder("run/b"), "sim:0 is held by run/a".to_owned())
    );
    drop(first);
    assert!(third.poll().is_none());
    let second = second.granted();
    assert_eq!(third.reasons(), ["sim:0 is held by run/b"]);
    assert_eq!(leases.live()[0].holder, holder("run/b"));
    drop(second);
    drop(third.granted());
    assert!(leases.live().is_empty() && leases.waiting().is_empty());
}

#[tokio::test]
async fn three_thirds_are_a_whole() {
    let (leases, _) = leases([80]);
    let mut thirds: Vec<_> = ["a", "b", "c"]
        .map(|name| take(&leases, share(1.0 / 3.0), name))
        .into();
    let mut rest = wait(&leases, share(0.001), "d");
    assert_eq!(rest.reasons(), ["sim:0 is held by a, b and 1 more"]);
    thirds.pop();
    rest.granted();
}

#[tokio::test]
async fn shares_go_to_the_device_that_is_least_shared() {
    let (leases, _) = leases([80, 80]);
    let first = take(&leases, share(0.5), "a");
    let second = take(&leases, share(0.25), "b");
    let third = take(&leases, share(0.5), "c");
    assert_eq!(names(&first), ["sim:0"]);
    assert_eq!(names(&second), ["sim:1"]);
    assert_eq!(names(&third), ["sim:1"]);
    let fourth = take(
        &leases,
        Request {
            on: Some("sim:1".to_owned()),
            ..share(0.25)
        },
        "d",
    );
    assert_eq!(names(&fourth), ["sim:1"]);
}

#[tokio::test]
async fn a_stream_of_small_requests_does_not_starve_a_large_one() {
    let (leases, _) = leases([80, 80, 80]);
    let small = |name: &str| take(&leases, share(0.5), name);
    let mut held: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(small).into();
    let mut large = wait(&leases, whole(2), "large");
    assert_eq!(
        large.reasons(),
        ["needs 2 devices, 0 free: sim:0 is held by a and d"]
    );
    // Each that leaves is replaced by one that came later. a, b and c are on three devices.
    let mut later: Vec<Waiting> = Vec::new();
    for round in 0..6 {
        later.push(wait(&leases, share(0.5), &format!("later {round}")));
        drop(held.remove(0));
        later.retain_mut(|waiting| match waiting.poll() {
            Some(lease) => {
                held.push(lease.unwrap());
                false
            }
            None => true,
        });
        if let Some(lease) = large.poll() {
            assert_eq!(lease.unwrap().devices().len(), 2);
            assert!(!held.is_empty(), "one device was busy all the time");
            return;
        }
    }
    panic!("the large request starved: {:?}", large.reasons());
}

#[tokio::test]
async fn devices_that_are_not_kept_for_others_are_used() {
    let (leases, _) = leases([80, 80, 80]);
    let first = take(&leases, whole(1), "a");
    let second = take(&leases, whole(1), "b");
    let mut both = wait(&leases, whole(3), "all");
    assert_eq!(
        both.reasons(),
        ["needs 3 devices, 1 free: sim:0 is held by a"]
    );
    let mut later = wait(&leases, whole(1), "later");
    assert_eq!(later.reasons(), ["sim:0 is held by a"]);
    drop(first);
    assert_eq!(later.reasons(), ["sim:1 is held by b"]);
    drop(second);
    let all = both.granted();
    assert_eq!(later.reasons(), ["sim:0 is held by all"]);
    drop(all);

    let _other = take(&leases, whole(1), "c");
    drop(later.granted());
}

#[tokio::test]
async fn the_device_that_is_kept_stays_the_same() {
    let (leases, _) = leases([80, 80]);
    let on = |share: f64, number: u32| Request {
        share,
        on: Some(format!("sim:{number}")),
        ..Request::default()
    };
    let first = take(&leases, on(0.5, 0), "a");
    let _second = take(&leases, on(0.25, 1), "b");
    let third = take(&leases, on(0.75, 1), "c");
    let mut large = wait(&leases, whole(1), "large");
    assert_eq!(large.reasons(), ["sim:0 is held by a"]);
    // The other one is now nearer to being empty, but those that come later may have it.
    drop(third);
    let later = take(&leases, share(0.25), "later");
    assert_eq!(names(&later), ["sim:1"]);
    drop(first);
    assert_eq!(names(&large.granted()), ["sim:0"]);
}

#[tokio::test]
async fn a_free_device_that_is_kept_says_for_whom() {
    let (leases, _) = leases([80, 80]);
    let _first = take(&leases, share(0.5), "a");
    let mut both = wait(&leases, whole(2), "both");
    assert!(both.poll().is_none());
    let mut later = wait(&leases, share(0.5), "later");
    assert_eq!(
        later.reasons(),
        ["sim:0 is kept for both, which came earlier"]
    );
    drop(both);
    later.granted();
}

#[tokio::test]
async fn requests_for_the_same_devices_in_different_order_do_not_block_each_other() {
    let (leases, _) = leases([80, 80]);
    let first = take(&leases, whole(1), "a");
    let mut pair = wait(&leases, whole(2), "b");
    let mut other = wait(&leases, whole(2), "c");
    drop(first);
    drop(pair.granted());
    drop(other.granted());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_memory_is_told_how_much_and_gets_it_when_others_free_it() {
    let (leases, [device]) = leases([80]);
    device.set_foreign(50 * GIB);
    let mut waiting = wait(&leases, memory(62), "a");
    assert_eq!(waiting.reasons(), ["needs 62 GiB, 30 GiB free on sim:0"]);
    device.set_foreign(20 * GIB);
    assert!(waiting.poll().is_none(), "nobody told");
    tokio::time::sleep(Duration::from_millis(201)).await;
    assert_eq!(waiting.reasons(), ["needs 62 GiB, 60 GiB free on sim:0"]);
    device.set_foreign(0);
    let lease = timeout(Duration::from_millis(201), waiting.acquire);
    assert_eq!(names(&lease.await.unwrap().unwrap()), ["sim:0"]);
}

#[tokio::test]
async fn promises_count_until_the_lease_ends_and_what_is_used_counts_once() {
    let (leases, [device]) = leases([80]);
    let first = take(&leases, memory(50), "a");
    let second = take(&leases, memory(30), "b");
    let mut third = wait(&leases, memory(1), "c");
    assert_eq!(third.reasons(), ["needs 1 GiB, 0 B free on sim:0"]);
    drop(second);
    third.granted();
    let _model = device.load(50 * GIB).await.unwrap();
    let mut fourth = wait(&leases, memory(20), "d");
    assert_eq!(fourth.reasons(), ["needs 20 GiB, 0 B free on sim:0"]);
    first.used(50 * GIB);
    fourth.granted();
}

/// Counts how often it is asked.
struct Asked {
    device: Simulated,
    times: AtomicU64,
}

impl Device for Asked {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn memory(&self) -> Result<Memory, Error> {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.device.memory()
    }

    fn utilisation(&self) -> Option<f64> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[tokio::test(start_paused = true)]
async fn devices_are_polled_only_while_somebody_waits_for_memory() {
    let asked = Arc::new(Asked {
        device: device(0, 80),
        times: AtomicU64::new(0),
    });
    let leases = Leases::new(vec![Offered {
        device: Arc::clone(&asked) as _,
        memory: None,
    }]);
    let in_a_minute = async || {
        let before = asked.times.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        asked.times.load(Ordering::Relaxed) - before
    };
    let held = take(&leases, whole(1), "a");
    let waits_for_device = wait(&leases, memory(10), "b");
    assert_eq!(in_a_minute().await, 0, "a device that is held is no use");
    drop((waits_for_device, held));

    asked.device.set_foreign(75 * GIB);
    let waits_for_memory = [
        wait(&leases, memory(10), "c"),
        wait(&leases, memory(10), "d"),
    ];
    let times = in_a_minute().await;
    assert!((300..=1200).contains(&times), "{times}");
    drop(waits_for_memory);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(in_a_minute().await, 0);
    assert!(!leases.state.lock().polling, "the task has ended");

    let mut again = wait(&leases, memory(10), "e");
    asked.device.set_foreign(0);
    tokio::time::sleep(Duration::from_millis(201)).await;
    again.granted();
}

#[tokio::test]
async fn memory_that_leases_do_not_hold_stops_nobody_else() {
    let (leases, [device]) = leases([80]);
    device.set_foreign(50 * GIB);
    let mut large = wait(&leases, memory(60), "large");
    let small = take(&leases, memory(10), "small");
    let mut later = wait(&leases, memory(10), "later");
    assert_eq!(
        later.reasons(),
        ["sim:0 is kept for large, which came earlier"],
        "perhaps the small one uses more than it said"
    );
    drop(small);
    later.granted();
    assert!(large.poll().is_none());
}

#[tokio::test]
async fn a_shortage_makes_others_free_memory() {
    let (leases, [device]) = leases([80]);
    let model = Mutex::new(Some(device.load(50 * GIB).await.unwrap()));
    let missing = Arc::<Mutex<Vec<(String, u64)>>>::default();
    let told = Arc::clone(&missing);
    leases.on_shortage(move |device, bytes| {
        told.lock().push((device.to_owned(), bytes / GIB));
        model.lock().take().is_some()
    });
    take(&leases, memory(60), "a");
    assert_eq!(*missing.lock(), [("sim:0".to_owned(), 30)]);
}

#[tokio::test]
async fn who_leaves_the_queue_holds_nobody_up() {
    let (leases, _) = leases([80, 80]);
    let held = take(&leases, whole(1), "a");
    let both = wait(&leases, whole(2), "b");
    let mut one = wait(&leases, whole(1), "c");
    assert_eq!(one.reasons(), ["sim:0 is held by a"]);
    drop(both);
    one.granted();
    // Granted, but gone before it was looked at.
    let other = take(&leases, whole(1), "d");
    let gone = wait(&leases, whole(2), "e");
    drop((held, other));
    assert_eq!(leases.live().len(), 1, "e has it");
    drop(gone);
    assert!(leases.live().is_empty());
    take(&leases, whole(2), "f");
}

#[tokio::test]
async fn a_later_attempt_ends_the_lease_of_an_earlier_one() {
    let (leases, _) = leases([80]);
    let attempt = |attempt| Holder {
        name: "run/a".to_owned(),
        attempt,
    };
    let first = take_as(&leases, whole(1), attempt(1));
    assert!(first.is_live());
    assert!(first.ended().now_or_never().is_none());
    let second = take_as(&leases, whole(1), attempt(2));
    assert!(!first.is_live() && second.is_live());
    first.ended().now_or_never().expect("it is told");
    drop(first);
    assert_eq!(
        leases.live().len(),
        1,
        "what the first frees is not the second's"
    );

    let stale = leases.acquire(whole(1), attempt(1), |_| ()).now_or_never();
    assert_eq!(
        stale.unwrap().unwrap_err().to_string(),
        "attempt 1 of run/a gave way to attempt 2"
    );

    let mut third = Waiting::new(&leases, whole(1), holder("run/b"));
    let mut newer = Waiting::new(
        &leases,
        whole(1),
        Holder {
            attempt: 2,
            ..holder("run/b")
        },
    );
    let refused = third.poll().unwrap().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "attempt 1 of run/b gave way to attempt 2"
    );
    assert_eq!(leases.revoke("run/a"), 1);
    second.ended().now_or_never().expect("it is told");
    newer.granted();
    assert_eq!(leases.revoke("run/a"), 0);
}

#[tokio::test(start_paused = true)]
async fn usage_is_the_time_with_any_lease() {
    let (leases, _) = leases([80, 80]);
    let started = Instant::now();
    let second = Duration::from_secs(1);
    tokio::time::advance(second).await;
    let long = take(&leases, share(0.5), "a");
    let short = take(
        &leases,
        Request {
            on: Some("sim:0".to_owned()),
            ..share(0.5)
        },
        "b",
    );
    tokio::time::advance(second).await;
    drop(short);
    tokio::time::advance(second).await;
    assert_eq!(leases.live()[0].held, 2 * second);
    drop(long);
    tokio::time::advance(second).await;
    let usage = leases.usage();
    assert_eq!(usage[0].device, "sim:0");
    assert_eq!((usage[0].leased, usage[0].idle), (2 * second, 2 * second));
    assert!((usage[0].busy_share - 0.5).abs() < 1e-9);
    assert_eq!(
        (usage[1].leased, usage[1].idle),
        (Duration::ZERO, 4 * second)
    );
    assert_eq!(started.elapsed(), 4 * second);
}
