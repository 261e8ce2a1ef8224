//! Which items a batch takes, when there are more than fit.

use super::super::queue::{Place, Queue, Queued};
use super::super::selection::{Bounds, Load, select};
use super::random::Random;
use super::*;

/// Fills the queue while nothing is admitted, then lets everything run; the items of each batch.
async fn run(limits: Limits, submitted: Vec<Item<u64>>) -> Vec<Vec<u64>> {
    let (batcher, fake) = batcher(limits, Fake::closed());
    let all = tokio::spawn(async move { batcher.submit_all(submitted).await });
    sleep(ms(20)).await;
    fake.gate.add_permits(1000);
    all.await.unwrap();
    fake.batches()
}

#[tokio::test(start_paused = true)]
async fn the_cost_is_never_above_the_limit_but_for_one_item_alone() {
    let costs = [7, 40, 3, 12, 9, 31, 1, 1, 30, 5, 100, 2];
    for padded in [false, true] {
        let limits = Limits {
            items: 5,
            cost: Some(30),
            padded,
            ..limits()
        };
        // The value of an item is its cost here.
        let all = costs.iter().map(|&cost| costing(cost, cost)).collect();
        let batches = run(limits, all).await;
        for batch in &batches {
            let cost = match padded {
                true => batch.iter().max().unwrap() * batch.len() as u64,
                false => batch.iter().sum(),
            };
            assert!(batch.len() == 1 || cost <= 30, "{batch:?}");
            assert!(batch.len() <= 5 && batch.is_sorted(), "{batch:?}");
        }
        let mut ran = batches.concat();
        ran.sort_unstable();
        let mut costs = costs;
        costs.sort_unstable();
        assert_eq!(ran, costs);
    }
}

#[tokio::test(start_paused = true)]
async fn long_and_short_are_not_mixed() {
    // Odd values are long.
    let all = (0..16).map(|value| costing(value, 10 + value % 2 * 490));
    let batches = run(limits(), all.collect()).await;
    assert_eq!(batches.len(), 4);
    for batch in batches {
        assert!(
            batch.iter().all(|value| value % 2 == batch[0] % 2),
            "{batch:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_is_always_in_the_next_batch() {
    let mut random = Random(5);
    for _ in 0..20 {
        let costs: Vec<u64> = (0..60).map(|_| random.below(1000)).collect();
        let all = (0..).zip(&costs).map(|(value, &cost)| costing(value, cost));
        let limits = Limits {
            cost: Some(2000),
            padded: random.below(2) == 0,
            ..limits()
        };
        let mut waiting: Vec<u64> = (0..60).collect();
        for batch in run(limits, all.collect()).await {
            assert!(batch.contains(&waiting[0]), "{waiting:?} {batch:?}");
            waiting.retain(|value| !batch.contains(value));
        }
        assert_eq!(waiting, Vec::<u64>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn equal_items_leave_in_their_order() {
    let batches = run(limits(), items(0..10)).await;
    assert_eq!(batches, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
}

#[tokio::test(start_paused = true)]
async fn the_urgent_go_first_and_others_fill_up() {
    let all = [5, 3, 1, 5, 3, 1, 3, 3]
        .iter()
        .zip(0..)
        .map(|(&priority, value)| urgent(value, priority));
    let mut batches = run(limits(), all.collect()).await;
    batches.iter_mut().for_each(|batch| batch.sort_unstable());
    assert_eq!(batches, [[1, 2, 4, 5], [0, 3, 6, 7]]);
}

#[tokio::test(start_paused = true)]
async fn the_less_urgent_pass_after_ten_delays_in_every_second_batch() {
    // A batch each millisecond, and ten delays are 100 of them.
    let (batcher, fake) = batcher(limits(), Fake::slow(1));
    let mut all: Vec<Item<u64>> = (0..800).map(|value| urgent(value, 2)).collect();
    all.extend((1000..1010).map(|value| urgent(value, 4)));
    batcher.submit_all(all).await;
    let calls = fake.calls();
    let passed: Vec<(Duration, u64)> = calls
        .iter()
        .flat_map(|call| call.items.iter().map(|&item| (call.at, item)))
        .filter(|(_, item)| *item >= 1000)
        .collect();
    let expected: Vec<(Duration, u64)> = (0..10).map(|n| (ms(100 + 2 * n), 1000 + n)).collect();
    assert_eq!(passed, expected);
    // The urgent ones have all other places.
    assert!(calls[..202].iter().all(|call| call.items.len() == 4));
}

/// A selection of a random queue keeps to the bounds and leaves no room that an item would fill.
#[tokio::test(start_paused = true)]
async fn selections_keep_their_promises() {
    let mut random = Random(17);
    for round in 0..2000 {
        let mut queue = Queue::new();
        let mut all: Vec<(Place, u64)> = Vec::new();
        let dearest = 1 + random.below(50);
        for _ in 0..1 + random.below(30) {
            let cost = random.below(dearest);
            let queued = Queued {
                cost,
                since: Instant::now(),
                deadline: None,
                value: (),
            };
            all.push((queue.push(1 + random.below(5) as u8, queued), cost));
        }
        let bounds = Bounds {
            items: 1 + random.below(10) as usize,
            cost: (random.below(3) > 0).then(|| 1 + random.below(100)),
            padded: random.below(2) == 0,
        };
        let passing = match random.below(2) {
            0 => None,
            _ => queue.passing(Instant::now(), Duration::ZERO),
        };
        let chosen = select(&queue, &bounds, passing);
        let cost = |place: &Place| all.iter().find(|(of, _)| of == place).unwrap().1;
        let load = Load::of(chosen.places.iter().map(cost));
        assert!(bounds.admit(load), "round {round}");
        assert!(!chosen.places.is_empty() && chosen.places.len() <= bounds.items);
        let mut distinct = chosen.places.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), chosen.places.len(), "round {round}");
        // What has to be in it.
        let first = match passing {
            Some((_, place)) => place,
            None => all.iter().map(|(place, _)| *place).min().unwrap(),
        };
        assert_eq!(chosen.places[0], first, "round {round}");
        // The window is larger than the queue where the bound is; otherwise there is nothing to say.
        if bounds.items * 4 >= all.len() {
            let left = all
                .iter()
                .filter(|(place, _)| !chosen.places.contains(place));
            for (place, cost) in left {
                assert!(
                    !bounds.admit(load.and(*cost)),
                    "round {round}: {place:?} fits"
                );
            }
        }
    }
}
