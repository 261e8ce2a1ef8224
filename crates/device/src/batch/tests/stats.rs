//! The statistics are exact.

use super::*;

#[tokio::test(start_paused = true)]
async fn everything_is_counted_once() {
    let fake = Fake {
        latency: ms(100),
        ..Fake::responding(|items| match items.contains(&3) {
            true => Err(Error::new(Kind::Failed, "it broke")),
            false => Ok(items.iter().map(|item| Ok(item + 1000)).collect()),
        })
    };
    let (batcher, _) = batcher(limits(), fake);
    assert_eq!(batcher.stats(), Stats::default());
    // A batch of four with a poison item, calls 0-100, 100-200 (0, 1), 200-300 (2, 3), 300-500.
    let first = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.submit_all(items(0..4)).await }
    });
    sleep(ms(50)).await;
    let alone = submit(&batcher, Item::new(10)).await;
    let expires = submit(&batcher, expiring(11, 20)).await;
    let leaves = submit(&batcher, Item::new(12)).await;
    sleep(ms(50)).await;
    leaves.abort();
    sleep(ms(50)).await;
    let during = Stats {
        batches: 1,
        items: 4,
        fill: 1.0,
        calls: 2,
        splits: 1,
        submitted: 7,
        expired: 1,
        cancelled: 1,
        queued: 1,
        running: 1,
        oldest_wait_s: 0.1,
        ..Stats::default()
    };
    assert_eq!(batcher.stats(), during);
    first.await.unwrap();
    alone.await.unwrap().unwrap();
    assert!(expires.await.unwrap().is_err());
    settle().await;
    let after = Stats {
        batches: 2,
        items: 5,
        fill: 0.625,
        calls: 6,
        splits: 2,
        submitted: 7,
        succeeded: 4,
        failed: 1,
        expired: 1,
        cancelled: 1,
        wait_sum_s: 0.45,
        ..Stats::default()
    };
    assert_eq!(batcher.stats(), after);
}
