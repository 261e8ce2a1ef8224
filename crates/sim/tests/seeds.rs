//! Seeds for every change, and that a seed is the same each time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_sim::{Limits, Outcome, Stats, run, run_limited, shrink};

/// Runs seeds on all cores.
fn for_each(seeds: std::ops::Range<u64>, check: impl Fn(Outcome) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    check(run(seed, false));
                }
            });
        }
    });
}

fn sound(outcome: &Outcome) {
    let tail = outcome.trace.len().saturating_sub(100);
    assert!(
        outcome.findings.is_empty(),
        "seed {}: {}\n{}\nall of it: target/release/tidemill-sim --seed {}",
        outcome.seed,
        outcome.findings.join("\n"),
        outcome.trace[tail..].join("\n"),
        outcome.seed
    );
}

/// More of them with the environment variable `SIM_SEEDS`.
#[test]
fn nothing_goes_wrong_in_any_seed() {
    let seeds = std::env::var("SIM_SEEDS").map_or(3_000, |seeds| seeds.parse().unwrap());
    for_each(0..seeds, |outcome| sound(&outcome));
}

/// Each found something once. The name says what.
#[test]
fn seeds_that_found_something() {
    let power_cut_while_runs_are_deleted_at_the_end = 1_882_539_135_338_907;
    let update_sent_again_without_a_pause_while_the_disk_is_full = 271;
    let query_asked_again_without_a_pause_while_the_disk_is_full = 5_000_545;
    let cancelled_before_a_reset = 956;
    let child_ended_while_everything_was_looked_at = 5_008_846;
    for seed in [
        power_cut_while_runs_are_deleted_at_the_end,
        update_sent_again_without_a_pause_while_the_disk_is_full,
        query_asked_again_without_a_pause_while_the_disk_is_full,
        cancelled_before_a_reset,
        child_ended_while_everything_was_looked_at,
    ] {
        sound(&run(seed, false));
    }
}

/// Byte for byte: the trace has every request, every answer and every time.
#[cfg(target_os = "linux")]
#[test]
fn a_seed_is_the_same_each_time() {
    for_each(10_000..10_050, |outcome| {
        let again = run(outcome.seed, false);
        let differs = outcome
            .trace
            .iter()
            .zip(&again.trace)
            .find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {}", outcome.seed);
        assert_eq!(outcome.hash, again.hash, "seed {}", outcome.seed);
    });
}

/// The seeds above would show nothing if they did nothing.
#[test]
fn seeds_do_something() {
    let total = Mutex::new(Stats::default());
    for_each(20_000..20_100, |outcome| {
        let mut total = total.lock().unwrap();
        *total = total.plus(&outcome.stats);
    });
    let total = total.into_inner().unwrap();
    for (what, count, least) in [
        ("requests", total.requests, 4_000),
        ("requests that failed", total.failed_requests, 200),
        ("crashes", total.crashes, 100),
        ("tasks", total.tasks, 1_000),
        ("tasks for one worker", total.sticky_tasks, 200),
        ("updates", total.updates, 50),
        ("queries", total.queries, 50),
        ("cancel requests", total.cancels, 10),
        ("resets", total.resets, 5),
        ("heartbeats", total.heartbeats, 100),
        ("deleted runs", total.expired, 10),
    ] {
        assert!(count >= least, "{count} {what} in 100 seeds");
    }
}

/// Without any of its workflows a seed does nothing, and finds nothing.
#[test]
fn parts_can_be_left_out() {
    let whole = run(20_000, false);
    let limits = Limits {
        without: whole.parts.iter().cloned().collect(),
        calm_ms: Some(0),
    };
    let rest = run_limited(20_000, &limits, false);
    assert_eq!((rest.stats.tasks, rest.findings), (0, Vec::new()));
    let printed = limits.to_string();
    assert!(printed.contains("workflow-0"), "{printed}");
    assert!(shrink(20_000, Limits::default()).is_none());
}
