//! Measures an engine from outside, over the raw protocol.
//!
//! The bench plays both sides, client and worker, without an SDK, so that what it costs stays small beside
//! what it measures. Each part is a command; without one it is the workflow of three activities.
//!
//! The last line of the output is one JSON object. Everything above it is for people.

mod command;
mod connection;
mod disk;
mod lane;
mod load;
mod parts;
mod probe;
mod server;
mod stats;
mod table;
mod target;
mod worker;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::{Map, Value};

use crate::parts::{Outcome, closed, engine, idle, limits, open, payload};
use crate::stats::{percentile, round};
use crate::target::Target;

#[derive(Parser)]
#[command(about = "Drives an engine through the raw protocol and reports what it costs")]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    engine: engine::Options,
    /// Threads that play clients and workers; they take their share of the same cores as the server's.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
}

/// As the binary that is measured.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Subcommand)]
enum Part {
    /// Runs that sleep on a timer: memory, starts, restart, dispatch.
    Open(open::Options),
    /// Closed runs: dispatch beside them, lists and counts.
    Closed(closed::Options),
    /// One large run: cost of an event beside that in a small one.
    Limits(limits::Options),
    /// A server that nobody uses: start, memory, wake-ups.
    Idle(idle::Options),
    /// Activities with results of a megabyte.
    Payload(payload::Options),
    /// Every part, each on a server of its own, and one table of all.
    All {
        /// How large: percent of the sizes that figures are given for.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
        percent: u64,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut runtime = match args.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if args.threads > 1 {
        runtime.worker_threads(args.threads.into());
    }
    runtime.enable_all().build()?.block_on(measure(args))
}

async fn measure(args: Args) -> Result<()> {
    let target = &args.target;
    let outcome = match &args.part {
        None => engine::run(target, &args.engine).await?,
        Some(Part::Open(options)) => open::run(target, options).await?,
        Some(Part::Closed(options)) => closed::run(target, options).await?,
        Some(Part::Limits(options)) => limits::run(target, options).await?,
        Some(Part::Idle(options)) => idle::run(target, options).await?,
        Some(Part::Payload(options)) => payload::run(target, options).await?,
        Some(Part::All { percent }) => all(target, *percent).await?,
    };
    println!("\n{}", table::render(&outcome.figures));
    println!("{}", outcome.report);
    Ok(())
}

async fn all(target: &Target, percent: u64) -> Result<Outcome> {
    let scaled = |full: usize, least: usize| (full * percent as usize / 100).max(least);
    let mut flushes = disk::flushes(&target.data_dir)?;
    let flush_ms = round(percentile(&mut flushes, 50), 3);
    println!(
        "1 KiB appended and flushed on this disk: p50 {flush_ms} ms, p99 {} ms",
        round(percentile(&mut flushes, 99), 3)
    );
    let work = |concurrency, workflows| engine::Options {
        workflows,
        concurrency,
        pollers: 16,
        warmup: workflows / 10,
        scattered_ids: false,
    };
    let open = open::Options {
        runs: scaled(1_000_000, 1_000),
        concurrency: 64,
        signals: scaled(1_000, 100),
    };
    let closed = closed::Options {
        runs: scaled(1_000_000, 2_000),
        concurrency: 64,
        signals: scaled(2_000, 200),
        lists: scaled(200, 20),
    };
    let limits = limits::Options {
        events: scaled(50_000, 5_000),
        activities: scaled(2_000, 200),
        signals: scaled(10_000, 2_000),
    };
    let idle = idle::Options {
        watch_s: scaled(120, 10) as u64,
        starts: scaled(10, 3),
    };
    let payload = payload::Options {
        workflows: scaled(200, 8),
        bytes: 1_000_000,
        concurrency: 8,
    };
    let mut report = Map::new();
    let mut figures = Vec::new();
    let mut add = |name: &str, outcome: Outcome| {
        report.insert(name.to_owned(), outcome.report);
        figures.extend(outcome.figures);
    };
    add("idle", idle::run(target, &idle).await?);
    let busy = engine::run(target, &work(64, scaled(20_000, 500))).await?;
    add("engine", busy);
    let mut alone = engine::run(target, &work(1, scaled(2_000, 200))).await?;
    // One at a time only how long it takes is asked for.
    alone
        .figures
        .retain(|f| f.unit == "ms" && f.what.contains(": p"));
    add("engine_one_at_a_time", alone);
    add("payload", payload::run(target, &payload).await?);
    add("limits", limits::run(target, &limits).await?);
    add("closed", closed::run(target, &closed).await?);
    add("open", open::run(target, &open).await?);
    report.insert("percent".to_owned(), percent.into());
    report.insert("flush_p50_ms".to_owned(), flush_ms.into());
    Ok(Outcome {
        report: Value::Object(report),
        figures,
    })
}
