//! `tidemill-sim`: runs seeds until it is stopped, or one.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;

/// Runs the engine in a simulated world, one seed after the other, and says what must not be and was.
#[derive(Parser)]
struct Arguments {
    /// Runs this seed alone and prints what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed; the time of day if it is not given.
    #[arg(long)]
    from: Option<u64>,
    /// Stops after so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// Stops after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Goes on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Runs each seed twice and compares.
    #[arg(long)]
    twice: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let outcome = tidemill_sim::run(seed, true);
        return report(&outcome);
    }
    let clock = || {
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
    };
    let from = arguments.from.unwrap_or_else(|| clock().as_secs() << 20);
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (requests, crashes) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over = arguments.seeds.is_some_and(|seeds| number >= seeds)
                        || (arguments.seconds)
                            .is_some_and(|most| begun.elapsed() >= Duration::from_secs(most))
                        || (failed.load(Ordering::Relaxed) > 0 && !arguments.keep_going);
                    if over {
                        return;
                    }
                    let mut outcome = tidemill_sim::run(from + number, false);
                    if arguments.twice {
                        let again = tidemill_sim::run(from + number, false);
                        if again.hash != outcome.hash {
                            outcome.findings.push("a second run of it differs".into());
                        }
                    }
                    requests.fetch_add(outcome.stats.requests, Ordering::Relaxed);
                    crashes.fetch_add(outcome.stats.crashes, Ordering::Relaxed);
                    if !outcome.findings.is_empty() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        report(&outcome);
                    }
                    if (number + 1) % 500 == 0 {
                        println!(
                            "{} seeds, {} failed, {} crashes, {} requests, {:.0} s; the last one was {}",
                            number + 1,
                            failed.load(Ordering::Relaxed),
                            crashes.load(Ordering::Relaxed),
                            requests.load(Ordering::Relaxed),
                            begun.elapsed().as_secs_f64(),
                            from + number
                        );
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{failed} seeds failed");
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn report(outcome: &tidemill_sim::Outcome) -> ExitCode {
    println!(
        "seed {}: {:?}, trace {:016x}",
        outcome.seed, outcome.stats, outcome.hash
    );
    for finding in &outcome.findings {
        println!("seed {}: {finding}", outcome.seed);
    }
    if outcome.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!(
            "again, with all that happens: tidemill-sim --seed {}",
            outcome.seed
        );
        ExitCode::FAILURE
    }
}
