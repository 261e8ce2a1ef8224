//! What an error of a call means for each of its items.

use std::sync::atomic::AtomicU32;

use super::*;

fn batches_of(items: usize) -> Limits {
    Limits { items, ..limits() }
}

/// Fails whenever one of these is in the call.
fn poisoned(poison: &'static [u64]) -> Fake {
    Fake::responding(
        move |items| match items.iter().find(|item| poison.contains(item)) {
            Some(_) => Err(Error::new(Kind::Failed, "it broke")),
            None => Ok(items.iter().map(|item| Ok(item + 1000)).collect()),
        },
    )
}

#[tokio::test(start_paused = true)]
async fn a_poison_item_fails_alone() {
    for poison in 0..32 {
        let fake = Fake::responding(move |items| match items.contains(&poison) {
            true => Err(Error::new(Kind::Failed, "it broke")),
            false => Ok(items.iter().map(|item| Ok(item + 1000)).collect()),
        });
        let (batcher, fake) = batcher(batches_of(32), fake);
        let results = batcher.submit_all(items(0..32)).await;
        for (value, result) in (0..).zip(results) {
            match value == poison {
                true => assert_eq!(result, Err(Error::new(Kind::Failed, "it broke"))),
                false => assert_eq!(result, Ok(value + 1000)),
            }
        }
        // Two for each halving of 32, and the first.
        assert_eq!(fake.calls().len(), 11);
        assert_eq!(batcher.stats().splits, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn several_poison_items_fail_alone() {
    let rows: [&[u64]; 5] = [&[0, 31], &[0, 1], &[5, 6, 7], &[3, 12, 25], &[0, 1, 2, 3]];
    for poison in rows {
        let (batcher, _) = batcher(batches_of(32), poisoned(poison));
        let results = batcher.submit_all(items(0..32)).await;
        for (value, result) in (0..).zip(results) {
            let expected = poison.contains(&value).then_some(Kind::Failed);
            assert_eq!(failed(&result), expected, "{value} of {poison:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_device_is_not_asked_for_each_item() {
    for (count, most) in [(1, 1), (2, 3), (3, 5), (4, 7), (32, 7), (1000, 7)] {
        // The message differs from call to call, as with request ids.
        let calls = AtomicU32::new(0);
        let fake = Fake::responding(move |_| {
            let call = calls.fetch_add(1, SeqCst);
            Err(Error::new(
                Kind::Failed,
                format!("request {call}: no kernel image"),
            ))
        });
        let (batcher, fake) = batcher(batches_of(1000), fake);
        let results = batcher.submit_all(items(0..count)).await;
        assert!(results.iter().all(|r| failed(r) == Some(Kind::Failed)));
        assert_eq!(results.len(), count as usize);
        assert!(
            fake.calls().len() <= most,
            "{count}: {}",
            fake.calls().len()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_items_and_the_batcher_lives_on() {
    let fake = Fake::responding(|items| {
        assert!(!items.contains(&2), "two is too much");
        Ok(items.iter().map(|item| Ok(item + 1000)).collect())
    });
    let (batcher, fake) = batcher(limits(), fake);
    let results = batcher.submit_all(items(0..4)).await;
    assert_eq!(
        results[2],
        Err(Error::new(
            Kind::Failed,
            "the call panicked: two is too much"
        ))
    );
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);
    assert_eq!(batcher.submit(Item::new(5)).await, Ok(1005));
    settle().await;
    assert_eq!(fake.permits.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_number_of_results_is_a_failure() {
    for results in [0, 3, 5] {
        let fake = Fake::responding(move |_| Ok(vec![Ok(1); results]));
        let (batcher, _) = batcher(limits(), fake);
        for (n, result) in batcher
            .submit_all(items(0..4))
            .await
            .into_iter()
            .enumerate()
        {
            let error = result.unwrap_err();
            assert_eq!(error.kind, Kind::Failed, "item {n}");
            let expected = format!("the call gave {results} results for 1 items");
            assert_eq!(error.message, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_items_are_theirs() {
    let fake = Fake::responding(|items| {
        let wrong = || Error::new(Kind::Invalid, "not a number");
        let results = items.iter().map(|&item| match item {
            1 => Err(wrong()),
            _ => Ok(item),
        });
        Ok(results.collect())
    });
    let (batcher, fake) = batcher(limits(), fake);
    let results = batcher.submit_all(items(0..3)).await;
    let wrong = Error::new(Kind::Invalid, "not a number");
    assert_eq!(results, [Ok(0), Err(wrong), Ok(2)]);
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_another_call_would_not_help_hits_all() {
    use Kind::*;
    for kind in [
        Unavailable,
        RateLimited,
        OutOfMemory,
        ModelTooLarge,
        Cancelled,
    ] {
        let error = Error {
            kind,
            message: "not now".to_owned(),
            retry_after: Some(ms(1500)),
        };
        let given = error.clone();
        let fake = Fake::responding(move |_| Err(given.clone()));
        let (batcher, fake) = batcher(limits(), fake);
        let results = batcher.submit_all(items(0..4)).await;
        assert_eq!(results, vec![Err(error); 4]);
        assert_eq!(fake.calls().len(), 1, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_splitting_hits_all_that_are_left() {
    // The call that finds the device gone, and how many have their results by then.
    for (last, done) in [(1, 0), (2, 4), (4, 6)] {
        let calls = AtomicU32::new(0);
        let fake = Fake::responding(move |items| match calls.fetch_add(1, SeqCst) {
            call if call == last => Err(Error::new(Kind::Unavailable, "it went away")),
            _ if items.contains(&7) => Err(Error::new(Kind::Failed, "it broke")),
            _ => Ok(items.iter().map(|item| Ok(*item)).collect()),
        });
        let (batcher, fake) = batcher(batches_of(8), fake);
        let results = batcher.submit_all(items(0..8)).await;
        let gone = Err(Error::new(Kind::Unavailable, "it went away"));
        let expected: Vec<_> = (0..done).map(Ok).collect();
        assert_eq!(results[..expected.len()], expected);
        assert_eq!(results[expected.len()..], vec![gone; 8 - expected.len()]);
        assert_eq!(fake.calls().len(), last as usize + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_on_which_parts_succeed_is_not_broken() {
    // The first half is too large, so that both are called in parts, of which one each succeeds.
    let poison = [0, 8, 10, 11];
    let fake = Fake::responding(move |items| match items {
        [0, .., 7] => Err(Error::new(Kind::BatchTooLarge, "too large")),
        _ if items.iter().any(|item| poison.contains(item)) => {
            Err(Error::new(Kind::Failed, "it broke"))
        }
        _ => Ok(items.iter().map(|item| Ok(item + 1000)).collect()),
    });
    let (batcher, _) = batcher(batches_of(16), fake);
    let results = batcher.submit_all(items(0..16)).await;
    for (value, result) in (0..).zip(results) {
        let expected = poison.contains(&value).then_some(Kind::Failed);
        assert_eq!(failed(&result), expected, "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_admission_hits_all_that_wait() {
    let error = Error::new(Kind::ModelTooLarge, "needs 82 GiB of 24 GiB");
    let (batcher, fake) = batcher(limits(), Fake::new());
    *fake.refuse.lock() = Some(error.clone());
    let results = batcher.submit_all(items(0..9)).await;
    assert_eq!(results, vec![Err(error); 9]);
    assert_eq!(fake.calls(), []);
    assert_eq!(batcher.submit(Item::new(1)).await, Ok(1001));
}

struct Panicking;

#[async_trait]
impl Execute<u64, u64> for Panicking {
    type Permit = ();

    fn scope(&self) -> String {
        "panicking".to_owned()
    }

    async fn admit(&self, items: usize, _: u64) -> Result<(), Error> {
        panic!("{items} are too many");
    }

    async fn execute(&self, (): &mut (), _: Vec<u64>) -> Results {
        unreachable!("nothing is admitted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_admission_hits_all_that_wait() {
    let batcher = Batcher::new(limits(), Arc::new(Panicking), Arc::default()).unwrap();
    for _ in 0..2 {
        let results = batcher.submit_all(items(0..3)).await;
        let error = Error::new(Kind::Failed, "admission panicked: 3 are too many");
        assert_eq!(results, vec![Err(error); 3]);
    }
}
