use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::room::PATIENCE;
use super::{Counters, GetError, Key, Loaded, Models, Resident};
use crate::lease::{Holder, Leases, Offered, Request};
use crate::simulated::{Fault, Model, Settings, Simulated};

const GIB: u64 = 1 << 30;

type Got = Result<Resident, GetError<Fault>>;

fn key(name: &str) -> Key {
    Key {
        name: name.to_owned(),
        revision: String::new(),
    }
}

/// 10 GiB; loading a model takes 100 ms.
fn device() -> Simulated {
    Simulated::new(Settings {
        memory: 10 * GIB,
        load: Duration::from_millis(100),
        ..Settings::default()
    })
}

fn models() -> (Arc<Models>, Simulated) {
    let device = device();
    (Models::new(Arc::new(device.clone()), None), device)
}

async fn load(device: &Simulated, gib: u64) -> Result<Loaded, Fault> {
    let model = device.load(gib * GIB).await?;
    Ok(Loaded {
        value: Arc::new(model),
        bytes: None,
    })
}

/// Gets a model of 4 GiB.
fn get<'a>(
    models: &'a Arc<Models>,
    device: &'a Simulated,
    name: &'a str,
) -> impl Future<Output = Got> + 'a {
    get_sized(models, device, name, 4)
}

async fn get_sized(models: &Arc<Models>, device: &Simulated, name: &str, gib: u64) -> Got {
    let key = key(name);
    models.get(&key, gib * GIB, || load(device, gib)).await
}

fn held(models: &Models) -> Vec<String> {
    let held = models.held();
    let held = held.borrow();
    held.iter().map(Key::to_string).collect()
}

fn waiting(models: &Models) -> Vec<String> {
    let waiting = models.waiting().into_iter();
    waiting
        .map(|(key, reason)| format!("{key}: {reason}"))
        .collect()
}

fn counters(loads: u64, unloads: u64, hits: u64) -> Counters {
    Counters {
        loads,
        unloads,
        hits,
        failed: 0,
    }
}

#[test]
fn a_key_says_its_revision_if_it_has_one() {
    let revised = Key {
        revision: "3f2a".to_owned(),
        ..key("minilm")
    };
    assert_eq!(key("minilm").to_string(), "minilm");
    assert_eq!(revised.to_string(), "minilm@3f2a");
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_makes_room() {
    let (models, device) = models();
    for name in ["a", "b", "a", "c", "a", "b"] {
        drop(get(&models, &device, name).await.unwrap());
    }
    // c took the place of b, and b that of c.
    assert_eq!(held(&models), ["a", "b"]);
    assert_eq!(models.counters(), counters(4, 2, 2));
    let report = device.report();
    assert_eq!((report.loads, report.unloads, report.failed), (4, 2, 0));
    assert_eq!(report.memory_max, 8 * GIB);
}

#[tokio::test(start_paused = true)]
async fn a_model_was_used_when_it_was_given_back() {
    let (models, device) = models();
    let a = get(&models, &device, "a").await.unwrap();
    let b = get(&models, &device, "b").await.unwrap();
    drop(b);
    drop(a);
    drop(get(&models, &device, "c").await.unwrap());
    assert_eq!(held(&models), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn three_models_share_the_room_of_two_without_running_out_of_it() {
    let (models, device) = models();
    let tasks = (0..300).map(|number: usize| {
        let (models, device) = (Arc::clone(&models), device.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(number as u64 * 7 % 997)).await;
            let name = ["a", "b", "c"][number % 3];
            let resident = get(&models, &device, name).await.unwrap();
            device.execute(1).await.unwrap();
            assert_eq!(resident.downcast::<Model>().unwrap().bytes(), 4 * GIB);
        })
    });
    let all = timeout(Duration::from_secs(600), join_all(tasks)).await;
    assert!(all.unwrap().into_iter().all(|task| task.is_ok()));
    let report = device.report();
    assert_eq!((report.executions, report.failed), (300, 0));
    let Counters {
        loads,
        unloads,
        hits,
        failed,
    } = models.counters();
    assert_eq!((loads + hits, failed), (300, 0));
    assert_eq!(unloads + held(&models).len() as u64, loads);
    assert!(waiting(&models).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_model_in_use_is_not_unloaded_but_waited_for() {
    let (models, device) = models();
    let a = get(&models, &device, "a").await.unwrap();
    let b = get(&models, &device, "b").await.unwrap();
    drop(get(&models, &device, "a").await.unwrap());
    let mut c = Box::pin(get(&models, &device, "c"));
    assert!(timeout(Duration::from_secs(60), &mut c).await.is_err());
    assert_eq!(held(&models), ["a", "b"]);
    assert_eq!(waiting(&models), ["c: needs 4 GiB, 2 GiB free on sim:0"]);
    drop(b);
    let c = c.await.unwrap();
    assert_eq!(held(&models), ["a", "c"]);
    drop((a, c));
    assert_eq!(device.report().failed, 0);
    assert_eq!(held(&models), ["a", "c"], "unused, and kept");
}

#[tokio::test(start_paused = true)]
async fn models_in_constant_use_do_not_keep_another_out() {
    let (models, device) = models();
    // Four users of each, so that at no time is one of the two unused.
    let users = (0..8).map(|number: u64| {
        let (models, device) = (Arc::clone(&models), device.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(number * 3)).await;
            loop {
                let name = ["a", "b"][usize::try_from(number % 2).unwrap()];
                let _resident = get(&models, &device, name).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
        })
    });
    let users: Vec<_> = users.collect();
    sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    drop(get(&models, &device, "c").await.unwrap());
    let waited = started.elapsed();
    assert!(waited >= PATIENCE, "{waited:?}");
    assert!(waited < PATIENCE + Duration::from_secs(1), "{waited:?}");
    for user in users {
        user.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_want_a_model_load_it_once() {
    let (models, device) = models();
    let all = join_all((0..100).map(|_| get(&models, &device, "a"))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(models.counters(), counters(1, 0, 99));
    assert_eq!(device.report().loads, 1);
    let mut advertised = models.held();
    assert_eq!(*advertised.borrow_and_update(), BTreeSet::from([key("a")]));
    assert_eq!(models.unload_unused(), 0, "all are in use");
    drop(all);
    assert_eq!(models.unload_unused(), 1);
    assert!(advertised.has_changed().unwrap());
    assert!(advertised.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_load_fails_all_who_joined_and_none_after() {
    let (models, device) = models();
    let attempts = AtomicUsize::new(0);
    let broken = || async {
        attempts.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(10)).await;
        Err(Fault::Failed("no weights".to_owned()))
    };
    let a = key("a");
    let all: Vec<Got> = join_all((0..10).map(|_| models.get(&a, GIB, broken))).await;
    for got in all {
        assert_eq!(got.unwrap_err().to_string(), "no weights");
    }
    assert_eq!(attempts.into_inner(), 1);
    get(&models, &device, "a").await.unwrap();
    let counters = models.counters();
    assert_eq!((counters.loads, counters.failed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_joined_loads_when_the_loader_is_dropped() {
    let (models, device) = models();
    let mut first = Box::pin(get(&models, &device, "a"));
    assert!(
        timeout(Duration::from_millis(50), &mut first)
            .await
            .is_err()
    );
    let mut others: Vec<_> = (0..3)
        .map(|_| Box::pin(get(&models, &device, "a")))
        .collect();
    for other in &mut others {
        assert!(other.now_or_never().is_none());
    }
    drop(first);
    let started = Instant::now();
    let others = join_all(others).await;
    assert!(others.iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), Duration::from_millis(100));
    assert_eq!(device.report().loads, 1);
    assert_eq!(device.report().memory_max, 4 * GIB);
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_panics_leaves_nothing_behind() {
    let (models, device) = models();
    let a = key("a");
    let got = std::panic::AssertUnwindSafe(models.get(&a, GIB, || async {
        panic!("a bug in a loader");
        #[expect(unreachable_code, reason = "gives the type")]
        Err::<Loaded, Fault>(Fault::Failed(String::new()))
    }));
    assert!(got.catch_unwind().await.is_err());
    let got = timeout(Duration::from_secs(1), get(&models, &device, "a")).await;
    assert_eq!(got.unwrap().unwrap().key(), &a);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_can_leave() {
    let (models, device) = models();
    let a = get(&models, &device, "a").await.unwrap();
    let b = get(&models, &device, "b").await.unwrap();
    let mut c = Box::pin(get(&models, &device, "c"));
    let mut d = Box::pin(get(&models, &device, "d"));
    assert!(timeout(PATIENCE * 2, &mut c).await.is_err());
    assert!(timeout(PATIENCE * 2, &mut d).await.is_err());
    assert_eq!(waiting(&models)[1], "d: comes after c");
    // New users of what has to make room wait too, until nobody wants the room any more.
    let mut again = Box::pin(get(&models, &device, "a"));
    assert!(timeout(PATIENCE, &mut again).await.is_err());
    drop((c, d));
    let again = again.now_or_never().expect("a is still there").unwrap();
    drop((a, b, again));
    assert_eq!(held(&models), ["a", "b"]);
    assert!(waiting(&models).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_model_larger_than_everything_is_refused_at_once_with_numbers() {
    let (models, device) = models();
    let _a = get(&models, &device, "a").await.unwrap();
    let refused = get_sized(&models, &device, "huge", 11).now_or_never();
    let refused = refused.expect("nothing to wait for").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "model huge needs 11 GiB; sim:0 has 10 GiB"
    );
    let budget = Models::new(Arc::new(device.clone()), Some(3 * GIB));
    let refused = get(&budget, &device, "a").now_or_never().unwrap();
    assert_eq!(
        refused.unwrap_err().to_string(),
        "model a needs 4 GiB; sim:0 has 3 GiB"
    );
}

#[tokio::test(start_paused = true)]
async fn a_budget_bounds_what_models_hold() {
    let device = device();
    let models = Models::new(Arc::new(device.clone()), Some(5 * GIB));
    for name in ["a", "b"] {
        drop(get(&models, &device, name).await.unwrap());
    }
    assert_eq!(held(&models), ["b"]);
    assert_eq!(device.report().memory_max, 4 * GIB);
}

#[tokio::test(start_paused = true)]
async fn what_a_model_holds_is_measured_and_remembered() {
    let (models, device) = models();
    let guess = async |name: &str, told: Option<u64>| {
        let load = async || {
            let value = Arc::new(device.load(3 * GIB).await?);
            Ok::<_, Fault>(Loaded { value, bytes: told })
        };
        let key = key(name);
        let resident = models.get(&key, GIB, load).await.unwrap();
        (
            resident.bytes() / GIB,
            models.footprint(&key).unwrap() / GIB,
        )
    };
    assert_eq!(guess("a", None).await, (3, 3));
    assert_eq!(guess("b", Some(4 * GIB)).await, (4, 4));
    assert_eq!(models.unload_unused(), 2);
    assert_eq!(models.footprint(&key("a")), Some(3 * GIB));

    // Known now, so that room is made for 3 GiB, not for the 1 that was guessed.
    let big = get_sized(&models, &device, "big", 8).await.unwrap();
    drop(big);
    assert_eq!(guess("a", None).await, (3, 3));
    assert_eq!(held(&models), ["a"]);
    assert_eq!(device.report().failed, 0);
}

#[tokio::test(start_paused = true)]
async fn loads_at_the_same_time_are_not_mistaken_for_each_other() {
    let (models, device) = models();
    let (a, b) = tokio::join!(
        get_sized(&models, &device, "a", 2),
        get_sized(&models, &device, "b", 5)
    );
    assert_eq!(a.unwrap().bytes(), 2 * GIB);
    assert_eq!(b.unwrap().bytes(), 5 * GIB);
}

#[tokio::test(start_paused = true)]
async fn room_that_other_processes_hold_is_waited_for_with_the_models_kept() {
    let (models, device) = models();
    drop(get_sized(&models, &device, "a", 1).await.unwrap());
    device.set_foreign(8 * GIB);
    let mut b = Box::pin(get(&models, &device, "b"));
    assert!(timeout(PATIENCE * 3, &mut b).await.is_err());
    assert_eq!(held(&models), ["a"], "it would not be enough");
    get_sized(&models, &device, "c", 1).await.unwrap();
    device.set_foreign(3 * GIB);
    let b = timeout(Duration::from_millis(301), b).await;
    b.expect("within a poll and a load").unwrap();
}

#[tokio::test(start_paused = true)]
async fn models_and_leases_share_the_memory() {
    let device = device();
    let leases = Leases::new(vec![Offered {
        device: Arc::new(device.clone()),
        memory: None,
    }]);
    let models = Models::sharing(leases.ledger("sim:0").unwrap());
    let unused = Arc::clone(&models);
    leases.on_shortage(move |_, missing| unused.make_room(missing));
    let lease = async |gib: u64| {
        let request = Request {
            share: 0.1,
            memory: gib * GIB,
            ..Request::default()
        };
        let holder = Holder {
            name: "batch".to_owned(),
            attempt: 1,
        };
        leases.acquire(request, holder, |_| ()).await.unwrap()
    };

    drop(get(&models, &device, "a").await.unwrap());
    let six = lease(6).await;
    assert_eq!(held(&models), ["a"], "there was room beside it");
    let one = lease(1).await;
    assert!(held(&models).is_empty(), "unused, it made room for a lease");

    let mut b = Box::pin(get(&models, &device, "b"));
    assert!(timeout(Duration::from_secs(1), &mut b).await.is_err());
    assert_eq!(waiting(&models), ["b: needs 4 GiB, 3 GiB free on sim:0"]);
    drop(one);
    let started = Instant::now();
    let b = b.await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_millis(100), "a load");
    let mut three = Box::pin(lease(3));
    assert!(three.as_mut().now_or_never().is_none(), "all is promised");
    drop(b);
    let started = Instant::now();
    drop((three.await, six));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn room_is_made_only_if_there_is_enough_to_be_had() {
    let (models, device) = models();
    let a = get(&models, &device, "a").await.unwrap();
    drop(get(&models, &device, "b").await.unwrap());
    assert!(!models.make_room(8 * GIB + 1));
    assert_eq!(held(&models), ["a", "b"]);
    assert!(models.make_room(8 * GIB), "a is in use, but will go");
    assert_eq!(held(&models), ["a"]);
    assert!(!models.make_room(GIB));
    drop(a);
}

/// The values are dropped where no lock is held, so that they may ask what is held.
#[tokio::test(start_paused = true)]
async fn a_model_may_call_back_while_it_is_unloaded() {
    struct Asks(Arc<Models>, Arc<Semaphore>);
    impl Drop for Asks {
        fn drop(&mut self) {
            assert_eq!(self.0.counters().unloads, 1);
            self.1.add_permits(1);
        }
    }
    let (models, _device) = models();
    let dropped = Arc::new(Semaphore::new(0));
    let value = Arc::new(Asks(Arc::clone(&models), Arc::clone(&dropped)));
    let loaded = Loaded {
        value,
        bytes: Some(GIB),
    };
    let load = async || Ok::<_, Fault>(loaded);
    drop(models.get(&key("a"), GIB, load).await.unwrap());
    assert!(models.make_room(GIB));
    assert_eq!(dropped.available_permits(), 1);
}
