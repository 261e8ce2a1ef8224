//! Those who submitted go away, deadlines pass, the batcher is closed.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_dropped_submission_leaves_the_queue() {
    let (batcher, fake) = batcher(limits(), Fake::closed());
    let mut tasks = Vec::new();
    for value in 0..4 {
        tasks.push(submit(&batcher, Item::new(value)).await);
    }
    tasks[1].abort();
    settle().await;
    assert_eq!(batcher.stats().queued, 3);
    fake.gate.add_permits(1);
    for (value, task) in (0..).zip(tasks).filter(|(value, _)| *value != 1) {
        assert_eq!(task.await.unwrap(), Ok(value + 1000));
    }
    assert_eq!(fake.batches(), [[0, 2, 3]]);
    assert_eq!(batcher.stats().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_many_leave_the_queue_and_make_room() {
    let limits = Limits {
        queue: 8,
        ..limits()
    };
    let (batcher, fake) = batcher(limits, Fake::closed());
    let many = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.submit_all(items(0..100)).await }
    });
    settle().await;
    let other = submit(&batcher, Item::new(500)).await;
    assert_eq!(batcher.stats().queued, 8);
    many.abort();
    settle().await;
    assert_eq!(batcher.stats().queued, 1);
    assert_eq!(batcher.stats().cancelled, 100);
    fake.gate.add_permits(1);
    assert_eq!(other.await.unwrap(), Ok(1500));
    assert_eq!(fake.batches(), [[500]]);
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_on_while_anyone_waits_for_it() {
    let (batcher, fake) = batcher(limits(), Fake::slow(100));
    let first = submit(&batcher, Item::new(1)).await;
    let second = submit(&batcher, Item::new(2)).await;
    sleep(ms(20)).await;
    first.abort();
    assert_eq!(second.await.unwrap(), Ok(1002));
    assert_eq!(fake.batches(), [[1, 2]]);
    let stats = batcher.stats();
    assert_eq!((stats.succeeded, stats.cancelled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_is_dropped() {
    let (batcher, fake) = batcher(limits(), Fake::slow(10_000));
    let first = submit(&batcher, Item::new(1)).await;
    let second = submit(&batcher, Item::new(2)).await;
    sleep(ms(20)).await;
    first.abort();
    settle().await;
    assert_eq!(fake.running.load(SeqCst), 1);
    second.abort();
    settle().await;
    assert_eq!(fake.running.load(SeqCst), 0);
    assert_eq!(fake.permits.load(SeqCst), 0);
    assert!(batcher.is_idle());
    // Its lane is free.
    assert_eq!(batcher.submit(Item::new(3)).await, Ok(1003));
}

#[tokio::test(start_paused = true)]
async fn an_admission_that_nobody_waits_for_is_dropped() {
    let (batcher, fake) = batcher(limits(), Fake::closed());
    let only = submit(&batcher, Item::new(1)).await;
    sleep(ms(20)).await;
    assert_eq!(fake.admitting.load(SeqCst), 1);
    only.abort();
    settle().await;
    assert_eq!(fake.admitting.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn parts_that_nobody_waits_for_are_not_tried_again() {
    let fake = Fake {
        latency: ms(100),
        ..Fake::responding(|items| match items.contains(&3) {
            true => Err(Error::new(Kind::Failed, "it broke")),
            false => Ok(items.iter().map(|item| Ok(item + 1000)).collect()),
        })
    };
    let (batcher, fake) = batcher(limits(), fake);
    let mut tasks = Vec::new();
    for value in 0..4 {
        tasks.push(submit(&batcher, Item::new(value)).await);
    }
    sleep(ms(50)).await;
    tasks[0].abort();
    tasks[1].abort();
    assert_eq!(
        tasks.pop().unwrap().await.unwrap().unwrap_err().kind,
        Kind::Failed
    );
    assert_eq!(tasks.pop().unwrap().await.unwrap(), Ok(1002));
    assert_eq!(
        fake.batches(),
        [vec![0, 1, 2, 3], vec![2, 3], vec![2], vec![3]]
    );
}

#[tokio::test(start_paused = true)]
async fn a_part_that_nobody_waits_for_any_more_is_dropped() {
    let fake = Fake {
        latency: ms(100),
        ..Fake::responding(|_| Err(Error::new(Kind::Failed, "it broke")))
    };
    let (batcher, fake) = batcher(limits(), fake);
    let mut tasks = Vec::new();
    for value in 0..4 {
        tasks.push(submit(&batcher, Item::new(value)).await);
    }
    sleep(ms(50)).await;
    tasks[0].abort();
    sleep(ms(100)).await;
    assert_eq!(fake.batches(), [vec![0, 1, 2, 3], vec![1]]);
    tasks[1].abort();
    settle().await;
    // Not at the end of its call, but at once.
    assert_eq!(fake.batches()[2..], [[2, 3]]);
    tasks[2].abort();
    tasks[3].abort();
    settle().await;
    assert_eq!(fake.running.load(SeqCst), 0);
    assert!(batcher.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_passes_wherever_the_item_waits() {
    let expired = |result: Result<u64, Error>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Expired);
        error.message
    };
    // Others to fill the batch.
    let (gathering, _) = batcher(
        Limits {
            delay: ms(500),
            ..limits()
        },
        Fake::new(),
    );
    assert_eq!(
        expired(gathering.submit(expiring(1, 30)).await),
        "waited 0.030 s for others to fill a batch of fake on sim:0, and its deadline passed"
    );
    // Admission.
    let (admission, fake) = batcher(limits(), Fake::closed());
    assert_eq!(
        expired(admission.submit(expiring(1, 30)).await),
        "waited 0.030 s for admission of a batch of fake on sim:0: needs 82 GiB, 30 GiB free on sim:0, \
         and its deadline passed"
    );
    assert_eq!(fake.admitting.load(SeqCst), 0);
    // A lane; an item that came later has the earlier deadline.
    let (lane, fake) = batcher(limits(), Fake::slow(300));
    let running = submit(&lane, expiring(1, 100)).await;
    sleep(ms(20)).await;
    let late = submit(&lane, expiring(2, 250)).await;
    let early = submit(&lane, expiring(3, 50)).await;
    assert_eq!(
        expired(early.await.unwrap()),
        "waited 0.050 s for one of the 1 batches in execution of fake on sim:0 to end, and its deadline passed"
    );
    assert_eq!(fake.start.elapsed(), ms(70));
    expired(late.await.unwrap());
    // Its batch had begun.
    assert_eq!(running.await.unwrap(), Ok(1001));
    // Room.
    let (full, fake) = batcher(
        Limits {
            queue: 1,
            ..limits()
        },
        Fake::closed(),
    );
    let first = submit(&full, Item::new(1)).await;
    assert_eq!(
        expired(full.submit(expiring(2, 30)).await),
        "waited 0.030 s for room in the queue, in which 1 items are, and its deadline passed"
    );
    // One that has passed already.
    let past = Item {
        deadline: Some(Instant::now() - ms(1)),
        ..urgent(3, 1)
    };
    expired(full.submit(past).await);
    fake.gate.add_permits(1);
    assert_eq!(first.await.unwrap(), Ok(1001));
    assert_eq!(fake.batches(), [[1]]);
}

#[tokio::test(start_paused = true)]
async fn closing_refuses_what_waits_and_lets_the_rest_end() {
    let limits = Limits {
        queue: 3,
        ..limits()
    };
    let (batcher, fake) = batcher(limits, Fake::slow(100));
    let running = submit(&batcher, Item::new(1)).await;
    sleep(ms(20)).await;
    let waiting = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.submit_all(items(2..10)).await }
    });
    settle().await;
    assert_eq!(batcher.stats().queued, 3);
    batcher.close("the worker stops");
    batcher.close("a second reason");
    let refused = Err(Error::new(Kind::Cancelled, "the worker stops"));
    assert_eq!(waiting.await.unwrap(), vec![refused.clone(); 8]);
    assert_eq!(batcher.submit(Item::new(11)).await, refused);
    assert_eq!(fake.running.load(SeqCst), 1);
    batcher.closed().await;
    assert_eq!(fake.running.load(SeqCst), 0);
    assert_eq!(running.await.unwrap(), Ok(1001));
    assert_eq!(fake.batches(), [[1]]);
}

#[tokio::test(start_paused = true)]
async fn closing_ends_an_admission() {
    let (batcher, fake) = batcher(limits(), Fake::closed());
    let waiting = submit(&batcher, Item::new(1)).await;
    sleep(ms(20)).await;
    batcher.close("the worker stops");
    batcher.closed().await;
    assert_eq!(failed(&waiting.await.unwrap()), Some(Kind::Cancelled));
    settle().await;
    assert_eq!(fake.admitting.load(SeqCst), 0);
    // The dispatcher is gone, and with it what it held.
    assert_eq!(Arc::strong_count(&fake), 1);
}
