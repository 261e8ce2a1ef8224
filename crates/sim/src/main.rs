//! `tidemill-sim`: runs seeds until it is stopped, or one.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tidemill_sim::Limits;

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
    /// Looks for the parts of `--seed` that its finding needs, and prints how to run these alone.
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Leaves these parts of `--seed` out, as `--shrink` names them.
    #[arg(long, requires = "seed", value_delimiter = ',')]
    without: Vec<String>,
    /// Lets nothing go wrong in `--seed` after so many milliseconds.
    #[arg(long, requires = "seed")]
    calm_ms: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let limits = Limits {
            without: arguments.without.into_iter().collect(),
            calm_ms: arguments.calm_ms,
        };
        if arguments.shrink {
            return shrink(seed, limits);
        }
        return report(&tidemill_sim::run_limited(seed, &limits, true), &limits);
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
                        report(&outcome, &Limits::default());
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

fn shrink(seed: u64, limits: Limits) -> ExitCode {
    let Some(shrunk) = tidemill_sim::shrink(seed, limits) else {
        println!("seed {seed} finds nothing");
        return ExitCode::SUCCESS;
    };
    println!("{} runs; what is left:", shrunk.runs);
    let there = shrunk.outcome.parts.iter();
    for part in there.filter(|part| !shrunk.limits.without.contains(*part)) {
        println!("  {part}");
    }
    report(&shrunk.outcome, &shrunk.limits)
}

fn report(outcome: &tidemill_sim::Outcome, limits: &Limits) -> ExitCode {
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
            "again, with all that happens: tidemill-sim --seed {}{limits}",
            outcome.seed
        );
        ExitCode::FAILURE
    }
}
