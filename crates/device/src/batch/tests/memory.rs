//! Batches that are too large for the memory.

use super::*;

/// Fits what `fits` says.
fn fitting(fits: impl Fn(&[u64]) -> bool + Send + Sync + 'static) -> Fake {
    Fake::responding(move |items| match fits(items) {
        true => Ok(items.iter().map(|item| Ok(item + 1000)).collect()),
        false => Err(Error::new(Kind::BatchTooLarge, "needs 9 GiB, 4 GiB free")),
    })
}

fn batches_of(items: usize) -> Limits {
    Limits {
        items,
        lanes: 1,
        ..limits()
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved_and_the_size_remembered() {
    let safe = Arc::new(SafeSizes::new());
    let fake = Arc::new(fitting(|items| items.len() <= 5));
    let make = || Batcher::new(batches_of(32), fake.clone(), safe.clone()).unwrap();
    let first = make();
    assert_eq!(
        first.submit_all(items(0..32)).await,
        (1000..1032).map(Ok).collect::<Vec<_>>()
    );
    assert_eq!(fake.sizes(), [32, 16, 8, 4, 4, 4, 4, 4, 4, 4, 4]);
    assert_eq!(first.stats().splits, 3);
    let size = Size { items: 4, cost: 4 };
    assert_eq!(safe.snapshot(), [("fake on sim:0".to_owned(), size)]);
    // Another batcher of the same model on the same device knows it too.
    let calls = fake.calls().len();
    make().submit_all(items(0..32)).await;
    assert_eq!(fake.sizes()[calls..], [4; 8]);
}

#[tokio::test(start_paused = true)]
async fn the_cost_that_fitted_is_remembered_too() {
    let fake = fitting(|items| items.iter().sum::<u64>() <= 1000);
    let (batcher, fake) = batcher(batches_of(16), fake);
    let long = |count| (0..count).map(|n| costing(100 + n, 100 + n)).collect();
    assert!(batcher.submit_all(long(16)).await.iter().all(Result::is_ok));
    let calls = fake.calls().len();
    assert!(batcher.submit_all(long(16)).await.iter().all(Result::is_ok));
    let later = &fake.batches()[calls..];
    assert!(
        later.iter().all(|batch| batch.iter().sum::<u64>() <= 1000),
        "{later:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_item_too_large_even_alone_fails_with_the_numbers() {
    let fake = fitting(|items| !items.contains(&7));
    let (batcher, _) = batcher(batches_of(8), fake);
    let mut all = items(0..8);
    all[7].cost = 4096;
    let results = batcher.submit_all(all).await;
    assert!(results[..7].iter().all(Result::is_ok), "{results:?}");
    let error = results[7].as_ref().unwrap_err();
    assert_eq!(error.kind, Kind::BatchTooLarge);
    assert_eq!(
        error.message,
        "an item of cost 4096 is too large for fake on sim:0 even alone: needs 9 GiB, 4 GiB free"
    );
}

#[tokio::test(start_paused = true)]
async fn after_many_successes_a_larger_batch_is_tried() {
    let fits = Arc::new(AtomicUsize::new(4));
    let most = fits.clone();
    let fake = fitting(move |items| items.len() <= most.load(SeqCst));
    let (batcher, fake) = batcher(batches_of(8), fake);
    batcher.submit_all(items(0..8)).await;
    let larger = |from: usize| {
        let sizes = fake.sizes();
        let tries = sizes[from..].iter().filter(|&&size| size > 4).count();
        (tries, sizes.len())
    };
    // Two batches of four of the first one fitted; 62 more, then one of five that does not.
    let (_, calls) = larger(0);
    batcher.submit_all(items(0..62 * 4)).await;
    let (tries, calls) = larger(calls);
    assert_eq!(tries, 0);
    batcher.submit_all(items(0..5)).await;
    let (tries, calls) = larger(calls);
    assert_eq!(tries, 1);
    // That was too large: twice as many successes until the next, halves of the five included.
    batcher.submit_all(items(0..126 * 4)).await;
    let (tries, calls) = larger(calls);
    assert_eq!(tries, 0);
    // What took the memory has gone.
    fits.store(8, SeqCst);
    batcher.submit_all(items(0..5)).await;
    let (tries, _) = larger(calls);
    assert_eq!(tries, 1);
    batcher.submit_all(items(0..10_000)).await;
    let sizes = fake.sizes();
    assert_eq!(sizes[sizes.len() - 2], 8);
}

#[test]
fn a_size_that_fits_no_more_is_replaced() {
    let safe = SafeSizes::new();
    let size = |items, cost| Size { items, cost };
    safe.fitted("a", size(100, 100));
    assert_eq!(safe.allowed("a"), None);
    safe.too_large("a", size(32, 3200), size(16, 1600));
    assert_eq!(safe.allowed("a"), Some(size(16, 1600)));
    // Larger than what is known: that is no news.
    safe.too_large("a", size(20, 2000), size(10, 1000));
    assert_eq!(safe.allowed("a"), Some(size(16, 1600)));
    safe.too_large("a", size(16, 1600), size(8, 800));
    assert_eq!(safe.allowed("a"), Some(size(8, 800)));
    assert_eq!(safe.allowed("b"), None);
}

#[test]
fn the_scopes_used_the_longest_ago_are_forgotten() {
    let safe = SafeSizes::new();
    let size = Size { items: 1, cost: 1 };
    for scope in 0..3000 {
        safe.too_large(&scope.to_string(), size, size);
        safe.fitted("0", size);
    }
    assert!(safe.snapshot().len() <= 1024);
    assert!(safe.allowed("0").is_some() && safe.allowed("2999").is_some());
}
