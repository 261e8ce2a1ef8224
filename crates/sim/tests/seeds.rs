//! Seeds for every change, and that a seed is the same each time.

use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_sim::{Outcome, run};

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
    let seeds = std::env::var("SIM_SEEDS").map_or(2_000, |seeds| seeds.parse().unwrap());
    for_each(0..seeds, |outcome| sound(&outcome));
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
    let (requests, failed, crashes, tasks) = (
        AtomicU64::new(0),
        AtomicU64::new(0),
        AtomicU64::new(0),
        AtomicU64::new(0),
    );
    for_each(20_000..20_050, |outcome| {
        requests.fetch_add(outcome.stats.requests, Ordering::Relaxed);
        failed.fetch_add(outcome.stats.failed_requests, Ordering::Relaxed);
        crashes.fetch_add(outcome.stats.crashes, Ordering::Relaxed);
        tasks.fetch_add(outcome.stats.tasks, Ordering::Relaxed);
    });
    for (what, count, least) in [
        ("requests", requests, 2_000),
        ("requests that failed", failed, 100),
        ("crashes", crashes, 50),
        ("tasks", tasks, 500),
    ] {
        let count = count.into_inner();
        assert!(count >= least, "{count} {what} in 50 seeds");
    }
}
