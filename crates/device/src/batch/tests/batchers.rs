//! Batchers by key.

use std::convert::Infallible;

use super::*;

fn make(fake: &Arc<Fake>) -> Result<Batcher<u64, u64>, Infallible> {
    Ok(Batcher::new(limits(), fake.clone(), Arc::default()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_key_has_one_batcher() {
    let batchers = Batchers::new(10, ms(1000));
    let fake = Arc::new(Fake::new());
    let a = batchers.get_or_make("a", || make(&fake)).unwrap();
    let again = batchers.get_or_make("a", || -> Result<_, Infallible> { panic!("it is there") });
    assert!(Arc::ptr_eq(&a, &again.unwrap()));
    let b = batchers.get_or_make("b", || make(&fake)).unwrap();
    let (left, right) = tokio::join!(a.submit_all(items(0..3)), b.submit_all(items(3..6)));
    assert_eq!((left.len(), right.len()), (3, 3));
    assert_eq!(fake.batches(), [[0, 1, 2], [3, 4, 5]]);
    let stats: Vec<(String, u64)> = batchers
        .stats()
        .into_iter()
        .map(|(key, stats)| (key, stats.items))
        .collect();
    assert_eq!(stats, [("a".to_owned(), 3), ("b".to_owned(), 3)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_made_is_not_kept() {
    let batchers = Batchers::<u64, u64>::new(10, ms(1000));
    let fake = Arc::new(Fake::new());
    let bad = Limits {
        items: 0,
        ..limits()
    };
    let made = batchers.get_or_make("a", || Batcher::new(bad, fake.clone(), Arc::default()));
    assert_eq!(made.err(), Some(BadLimits::Items));
    assert_eq!(batchers.stats(), []);
}

#[tokio::test(start_paused = true)]
async fn idle_ones_are_dropped_after_a_while() {
    let batchers = Batchers::new(10, ms(1000));
    let (idle, busy) = (Arc::new(Fake::new()), Arc::new(Fake::slow(5000)));
    batchers.get_or_make("idle", || make(&idle)).unwrap();
    let works = batchers.get_or_make("busy", || make(&busy)).unwrap();
    let work = submit(&works, Item::new(1)).await;
    drop(works);
    sleep(ms(900)).await;
    assert_eq!(batchers.all().len(), 2);
    sleep(ms(500)).await;
    let keys = || {
        batchers
            .all()
            .into_iter()
            .map(|(key, _)| key)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(), ["busy"]);
    assert_eq!(Arc::strong_count(&idle), 1);
    work.await.unwrap().unwrap();
    sleep(ms(900)).await;
    assert_eq!(keys(), ["busy"]);
    sleep(ms(700)).await;
    assert_eq!(batchers.stats(), []);
    assert_eq!(Arc::strong_count(&busy), 1);
    // It looks for idle ones again when there are some.
    batchers.get_or_make("idle", || make(&idle)).unwrap();
    sleep(ms(1500)).await;
    assert_eq!(batchers.stats(), []);
}

#[tokio::test(start_paused = true)]
async fn too_many_idle_ones_are_not_kept() {
    let batchers = Batchers::new(2, ms(60_000));
    let fake = Arc::new(Fake::new());
    let held = batchers.get_or_make("a", || make(&fake)).unwrap();
    for key in ["b", "c", "d"] {
        settle().await;
        batchers.get_or_make(key, || make(&fake)).unwrap();
    }
    let keys = || {
        batchers
            .all()
            .into_iter()
            .map(|(key, _)| key)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(), ["a", "d"]);
    let also = batchers.get_or_make("d", || make(&fake)).unwrap();
    // None of them is idle: there are more for a while.
    batchers.get_or_make("e", || make(&fake)).unwrap();
    assert_eq!(keys(), ["a", "d", "e"]);
    drop((held, also));
    batchers.get_or_make("f", || make(&fake)).unwrap();
    assert_eq!(keys().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn closing_closes_all_and_those_to_come() {
    let batchers = Batchers::new(10, ms(1000));
    let fake = Arc::new(Fake::new());
    let a = batchers.get_or_make("a", || make(&fake)).unwrap();
    batchers.close("the worker stops");
    let b = batchers.get_or_make("b", || make(&fake)).unwrap();
    let refused = Err(Error::new(Kind::Cancelled, "the worker stops"));
    assert_eq!(a.submit(Item::new(1)).await, refused);
    assert_eq!(b.submit(Item::new(1)).await, refused);
}
