use tidemill_pipeline::limit::{Breaker, Charge, Outcomes};

use super::*;

mod simulation;

/// Any time; no multiple of anything.
const NOW: i64 = 1_777_777_777_777;

fn limit(config: Config) -> Limit {
    let mut limit = Limit::default();
    limit.set(config);
    limit
}

fn tokens(per_minute: u64) -> Config {
    Config {
        tokens_per_minute: Some(per_minute),
        ..Config::default()
    }
}

/// Wants one request of so many tokens.
fn wants(worker: &str, seq: u64, least: u64) -> Ask {
    Ask {
        worker: worker.to_owned(),
        seq,
        want: Amount::new(1, least),
        least,
        ..Ask::default()
    }
}

fn outcomes(worker: &str, seq: u64, outcomes: Outcomes) -> Ask {
    Ask {
        worker: worker.to_owned(),
        seq,
        outcomes,
        ..Ask::default()
    }
}

#[test]
fn what_was_granted_and_what_arrived_count_until_the_window_is_over() {
    let mut limit = limit(tokens(10_000));
    // 9,900 without the reserve.
    let granted = limit.ask(&wants("a", 1, 9_000), NOW);
    assert_eq!(granted.amount, Amount::new(1, 9_000));
    let refused = limit.ask(&wants("b", 1, 1_000), NOW + 30_000);
    assert!(refused.amount.is_zero(), "it may still be on the way");
    let arrived = Ask {
        worker: "b".to_owned(),
        seq: 2,
        ..wants("b", 2, 1_000)
    };
    // The one who was not heard of counts as having sent it, 13 seconds after it asked.
    let state = limit.state("l");
    assert_eq!(
        (state.held, state.used),
        (Amount::default(), Amount::new(1, 9_000))
    );
    assert!(limit.ask(&arrived, NOW + 72_000).amount.is_zero());
    let granted = limit.ask(&wants("b", 3, 1_000), NOW + 74_000);
    assert_eq!(granted.amount, Amount::new(1, 1_000));
}

#[test]
fn what_was_not_spent_is_there_again_and_what_was_spent_is_not() {
    let mut limit = limit(tokens(10_000));
    limit.ask(&wants("a", 1, 9_000), NOW);
    let back = Ask {
        worker: "a".to_owned(),
        seq: 2,
        charged: vec![Charge {
            ago_ms: 100,
            amount: Amount::new(1, 4_000),
        }],
        ..Ask::default()
    };
    limit.ask(&back, NOW + 200);
    assert!(limit.ask(&wants("b", 1, 6_000), NOW + 300).amount.is_zero());
    let granted = limit.ask(&wants("b", 2, 5_000), NOW + 400);
    assert_eq!(granted.amount.tokens, 5_000);
}

#[test]
fn an_ask_that_comes_late_or_twice_changes_nothing() {
    let mut limit = limit(tokens(10_000));
    limit.ask(&wants("a", 2, 5_000), NOW);
    let before = limit.state("l");
    for seq in [1, 2] {
        let granted = limit.ask(&wants("a", seq, 100), NOW + 1);
        assert!(granted.late && granted.amount.is_zero());
    }
    assert_eq!(limit.state("l").held, before.held);
    // Its reply was lost: the worker holds nothing, and says so.
    limit.ask(&wants("a", 3, 4_000), NOW + 2);
    assert_eq!(limit.state("l").held.tokens, 4_000);
}

#[test]
fn a_request_larger_than_a_window_is_told() {
    let mut limit = limit(tokens(10_000));
    let granted = limit.ask(&wants("a", 1, 9_901), NOW);
    assert_eq!(granted.too_large, Some(9_900));
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let mut limit = limit(tokens(60_000));
    // All of the burst.
    limit.ask(&wants("small", 1, 5_900), NOW);
    let mut seq = 1;
    let mut now = NOW;
    let mut small = 0;
    loop {
        seq += 1;
        now += 100;
        assert!(now < NOW + 15_000, "the large one never got through");
        if !limit
            .ask(&wants("large", seq, 10_000), now)
            .amount
            .is_zero()
        {
            break;
        }
        small += limit.ask(&wants("small", seq, 90), now + 1).amount.requests;
    }
    assert_eq!(small, 0, "who came later waits");
}

#[test]
fn requests_and_tokens_are_granted_in_proportion() {
    let rows = [
        // want, least, room of requests and tokens, granted
        ((10, 1_000), 100, (None, None), (10, 1_000)),
        ((10, 1_000), 100, (Some(5), None), (5, 500)),
        ((10, 1_000), 100, (None, Some(350)), (4, 350)),
        ((10, 1_000), 100, (Some(5), Some(99)), (0, 0)),
        ((10, 1_000), 900, (Some(1), None), (1, 900)),
        ((10, 0), 0, (Some(3), Some(0)), (3, 0)),
        ((1, 0), 0, (Some(0), None), (0, 0)),
    ];
    for (want, least, room, expected) in rows {
        let want = Amount::new(want.0, want.1);
        let room = Room {
            requests: room.0,
            tokens: room.1,
        };
        let expected = Amount::new(expected.0, expected.1);
        assert_eq!(share(want, least, room), expected, "{want:?} of {room:?}");
    }
}

#[test]
fn the_provider_is_left_alone_for_as_long_as_it_says() {
    let mut limit = limit(tokens(60_000));
    let refused = Outcomes {
        refused: 1,
        retry_after_ms: Some(7_000),
        ..Outcomes::default()
    };
    limit.ask(&outcomes("a", 1, refused), NOW);
    let granted = limit.ask(&wants("b", 1, 10), NOW + 1_000);
    assert!(granted.amount.is_zero());
    assert_eq!(granted.wait_ms, 5_000);
    assert!(granted.closed.unwrap().contains("for 6s"));
    // Less is no reason to begin earlier.
    let less = Outcomes {
        retry_after_ms: Some(1),
        ..refused
    };
    limit.ask(&outcomes("a", 2, less), NOW + 1_001);
    assert!(limit.ask(&wants("b", 2, 10), NOW + 6_999).amount.is_zero());
    assert_eq!(
        limit.ask(&wants("b", 3, 10), NOW + 7_000).amount.requests,
        1
    );
}

#[test]
fn half_open_one_request_is_granted_and_no_more() {
    let mut limit = limit(Config {
        breaker: Some(Breaker {
            failures: 2,
            open_ms: 1_000,
        }),
        ..Config::default()
    });
    let many = |worker: &str, seq| Ask {
        want: Amount::new(50, 5_000),
        ..wants(worker, seq, 100)
    };
    assert_eq!(limit.ask(&many("a", 1), NOW).amount.requests, 50);
    let failed = |failed| Outcomes {
        failed,
        ..Outcomes::default()
    };
    let tried = limit.ask(
        &Ask {
            outcomes: failed(2),
            ..many("a", 2)
        },
        NOW + 1,
    );
    assert!(tried.amount.is_zero() && tried.closed.is_some());
    assert_eq!(
        limit.state("l").breaker,
        BreakerState::Open {
            until_ms: NOW + 1_001
        }
    );
    assert_eq!(
        limit.ask(&many("b", 1), NOW + 1_001).amount,
        Amount::new(1, 100)
    );
    assert!(limit.ask(&many("c", 1), NOW + 1_002).amount.is_zero());
    limit.ask(
        &Ask {
            outcomes: failed(1),
            ..many("b", 2)
        },
        NOW + 1_100,
    );
    assert!(
        limit.ask(&many("c", 2), NOW + 3_000).amount.is_zero(),
        "open for longer"
    );
    assert_eq!(limit.ask(&many("c", 3), NOW + 3_100).amount.requests, 1);
    let answered = Outcomes {
        answered: 1,
        ..Outcomes::default()
    };
    assert_eq!(
        limit
            .ask(
                &Ask {
                    outcomes: answered,
                    ..many("c", 4)
                },
                NOW + 3_200
            )
            .amount
            .requests,
        50
    );
    let state = limit.state("l");
    assert_eq!(
        (state.breaker, state.totals.opened),
        (BreakerState::Closed, 2)
    );
}

#[test]
fn a_limit_without_rates_grants_what_is_wanted_and_one_without_concurrency_lets_all_run() {
    let mut limit = limit(Config {
        concurrent: Some(1),
        ..Config::default()
    });
    let mut ask = wants("a", 1, 1_000_000);
    let slot = |task: &str| tidemill_pipeline::limit::Slot {
        task: task.to_owned(),
        attempt: 1,
        weight: 1,
        runs: false,
    };
    ask.slots = vec![slot("1"), slot("2")];
    let granted = limit.ask(&ask, NOW);
    assert_eq!(granted.amount, Amount::new(1, 1_000_000));
    assert_eq!(granted.running, ["1"]);
    assert!(granted.contended && granted.wait_ms > 0);
    limit.set(tokens(1_000));
    ask.seq = 2;
    assert_eq!(limit.ask(&ask, NOW).running, ["1", "2"]);
}

#[test]
fn it_goes_on_the_same_when_it_continues_as_new() {
    let mut limit = limit(Config {
        concurrent: Some(1),
        requests_per_minute: Some(100),
        breaker: Some(Breaker {
            failures: 1,
            open_ms: 1_000,
        }),
        ..tokens(1_000)
    });
    limit.ask(&wants("a", 1, 100), NOW);
    limit.ask(&wants("b", 1, 900), NOW);
    let failed = Outcomes {
        failed: 1,
        ..Outcomes::default()
    };
    limit.ask(&outcomes("a", 2, failed), NOW + 5);
    let carried = serde_json::to_value(&limit).unwrap();
    let next: Limit = serde_json::from_value(carried).unwrap();
    assert_eq!(next, limit);
}
