//! When a batch leaves, and how much waits until then.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lone_item_leaves_at_the_delay() {
    for delay in [0, 1, 7, 50, 1000] {
        let delay = ms(delay);
        let (batcher, fake) = batcher(Limits { delay, ..limits() }, Fake::new());
        assert_eq!(batcher.submit(Item::new(1)).await, Ok(1001));
        let at = fake.calls()[0].at;
        assert!(at >= delay && at < delay + ms(5), "{delay:?}: {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_leaves_at_once() {
    let cost = |cost, padded| Limits {
        cost: Some(cost),
        padded,
        items: 100,
        ..limits()
    };
    let rows = [
        (limits(), vec![1, 1, 1, 1]),
        (cost(30, false), vec![10, 10, 10]),
        (cost(30, false), vec![31]),
        (cost(30, true), vec![10, 2, 2]),
        (cost(30, true), vec![16]),
    ];
    for (limits, costs) in rows {
        let (batcher, fake) = batcher(limits.clone(), Fake::new());
        let items = costs.iter().map(|&cost| costing(cost, cost)).collect();
        batcher.submit_all(items).await;
        let calls = fake.calls();
        assert_eq!(calls.len(), 1, "{limits:?}");
        assert!(calls[0].at < ms(1), "{limits:?} {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_with_room_for_one_more_waits() {
    let cost = |padded| Limits {
        cost: Some(30),
        padded,
        items: 100,
        ..limits()
    };
    let rows = [
        (limits(), vec![1, 1, 1]),
        (cost(false), vec![10, 10, 9]),
        (cost(true), vec![10, 9]),
        // The dear one does not fit to the others, who have room for more of their kind.
        (cost(true), vec![2, 2, 30]),
    ];
    for (limits, costs) in rows {
        let (batcher, fake) = batcher(limits.clone(), Fake::new());
        let items = costs.iter().map(|&cost| costing(cost, cost)).collect();
        batcher.submit_all(items).await;
        let at = fake.calls()[0].at;
        assert!(at >= ms(10) && at < ms(15), "{limits:?} {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sixty_four_items_of_as_many_tasks_are_two_calls_of_32() {
    let limits = Limits {
        items: 32,
        ..limits()
    };
    let (batcher, fake) = batcher(limits, Fake::slow(20));
    let mut tasks = Vec::new();
    for value in 0..64 {
        tasks.push(submit(&batcher, Item::new(value)).await);
    }
    for (value, task) in (0..).zip(tasks) {
        assert_eq!(task.await.unwrap(), Ok(value + 1000));
    }
    assert_eq!(fake.sizes(), [32, 32]);
}

#[tokio::test(start_paused = true)]
async fn items_join_while_a_batch_waits_for_admission() {
    let (batcher, fake) = batcher(limits(), Fake::closed());
    let first = submit(&batcher, Item::new(1)).await;
    sleep(ms(50)).await;
    assert_eq!(*fake.admissions.lock(), [(1, 1)]);
    let more = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.submit_all(items(2..=6)).await }
    });
    settle().await;
    assert_eq!(fake.calls(), []);
    fake.gate.add_permits(1);
    assert_eq!(first.await.unwrap(), Ok(1001));
    assert_eq!(fake.batches(), [[1, 2, 3, 4]]);
    fake.gate.add_permits(1);
    assert_eq!(more.await.unwrap().len(), 5);
    assert_eq!(fake.batches()[1..], [[5, 6]]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_device_is_busy_is_one_batch() {
    let limits = Limits {
        items: 32,
        delay: Duration::ZERO,
        ..limits()
    };
    let (batcher, fake) = batcher(limits, Fake::slow(100));
    let mut tasks = Vec::new();
    for value in 0..20 {
        tasks.push(submit(&batcher, Item::new(value)).await);
        sleep(ms(4)).await;
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(fake.sizes(), [1, 19]);
    assert_eq!(fake.calls()[1].at, ms(100));
}

#[tokio::test(start_paused = true)]
async fn no_more_batches_run_at_a_time_than_there_are_lanes() {
    for lanes in [1, 2, 3] {
        let (batcher, fake) = batcher(Limits { lanes, ..limits() }, Fake::slow(100));
        let results = batcher.submit_all(items(0..40)).await;
        assert_eq!(results.len(), 40);
        assert_eq!(fake.running_most.load(SeqCst), lanes);
        let ended = 100 * 10_u64.div_ceil(lanes as u64);
        assert_eq!(fake.start.elapsed(), ms(ended));
        settle().await;
        assert_eq!(fake.permits.load(SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_submit_wait_for_room() {
    let limits = Limits {
        queue: 6,
        ..limits()
    };
    let (batcher, fake) = batcher(limits, Fake::closed());
    let all = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.submit_all(items(0..20)).await }
    });
    let one = submit(&batcher, Item::new(100)).await;
    for queued in [6, 6, 6, 6, 5, 1, 0] {
        settle().await;
        assert_eq!(batcher.stats().queued, queued);
        fake.gate.add_permits(1);
        sleep(ms(20)).await;
    }
    let results = all.await.unwrap();
    assert_eq!(results, (1000..1020).map(Ok).collect::<Vec<_>>());
    assert_eq!(one.await.unwrap(), Ok(1100));
    // It did not wait for the end of the many.
    assert!(fake.batches()[..3].concat().contains(&100));
}

#[tokio::test(start_paused = true)]
async fn a_queue_full_of_others_has_room_for_the_urgent() {
    let limits = Limits {
        queue: 2,
        ..limits()
    };
    let (batcher, fake) = batcher(limits, Fake::closed());
    let mut tasks = Vec::new();
    for value in 0..10 {
        tasks.push(submit(&batcher, urgent(value, 5)).await);
    }
    tasks.push(submit(&batcher, urgent(100, 1)).await);
    sleep(ms(20)).await;
    fake.gate.add_permits(1);
    settle().await;
    assert_eq!(fake.batches(), [[100, 0, 1]]);
    fake.gate.add_permits(10);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_pass_through_a_small_queue() {
    let limits = Limits {
        queue: 7,
        lanes: 2,
        ..limits()
    };
    let (batcher, fake) = batcher(limits, Fake::slow(1));
    let results = batcher.submit_all(items(0..5000)).await;
    assert_eq!(results, (1000..6000).map(Ok).collect::<Vec<_>>());
    assert_eq!(fake.sizes().iter().sum::<usize>(), 5000);
    assert_eq!(batcher.submit_all(Vec::new()).await, []);
}

#[tokio::test(start_paused = true)]
async fn limits_under_which_nothing_could_run_are_refused() {
    let rows = [
        (
            BadLimits::Items,
            Limits {
                items: 0,
                ..limits()
            },
        ),
        (
            BadLimits::Queue,
            Limits {
                queue: 0,
                ..limits()
            },
        ),
        (
            BadLimits::Lanes,
            Limits {
                lanes: 0,
                ..limits()
            },
        ),
        (
            BadLimits::Cost,
            Limits {
                cost: Some(0),
                ..limits()
            },
        ),
    ];
    for (bad, limits) in rows {
        let batcher = Batcher::<u64, u64>::new(limits, Arc::new(Fake::new()), Arc::default());
        assert_eq!(batcher.err(), Some(bad));
    }
    let endless = Limits {
        items: usize::MAX,
        queue: usize::MAX,
        lanes: usize::MAX,
        cost: Some(u64::MAX),
        padded: true,
        delay: ms(1),
    };
    let (batcher, _) = batcher(endless, Fake::new());
    let huge = vec![costing(1, u64::MAX), costing(2, u64::MAX), costing(3, 0)];
    assert_eq!(
        batcher.submit_all(huge).await,
        [Ok(1001), Ok(1002), Ok(1003)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_there_is_not_is_refused() {
    let (batcher, fake) = batcher(limits(), Fake::new());
    let results = batcher
        .submit_all(vec![urgent(1, 0), urgent(2, 5), urgent(3, 6)])
        .await;
    assert_eq!(failed(&results[0]), Some(Kind::Invalid));
    assert_eq!(results[1], Ok(1002));
    let message = &results[2].as_ref().unwrap_err().message;
    assert_eq!(message, "priority 6: it has to be 1 (most urgent) to 5");
    assert_eq!(fake.batches(), [[2]]);
}
