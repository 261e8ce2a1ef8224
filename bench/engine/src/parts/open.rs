//! Many open runs, each asleep on a timer of 30 days: what they take, how fast they come, how soon the
//! server is back after a crash, and how soon one of them has its task when it is signalled.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Outcome, at_size};
use crate::command;
use crate::lane::Lane;
use crate::stats::{percentile, round, scatter};
use crate::table::{Figure, Wanted};
use crate::target::Target;

const FULL: usize = 1_000_000;
const TIMER: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// Runs to open.
    #[arg(long, default_value_t = FULL)]
    pub(crate) runs: usize,
    /// How many are being opened at once.
    #[arg(long, default_value_t = 64)]
    pub(crate) concurrency: usize,
    /// Signals to measure, to runs picked at random.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) signals: usize,
}

pub(crate) async fn run(target: &Target, options: &Options) -> Result<Outcome> {
    let Options {
        runs,
        concurrency,
        signals,
    } = *options;
    ensure!(
        runs > 0 && concurrency > 0 && signals > 0,
        "counts must be at least 1"
    );
    let mut session = target.open(2 * concurrency).await?;
    println!(
        "{}: {runs} runs, each on a timer of 30 days, {concurrency} opened at a time",
        session.address
    );
    let prefix = load_prefix("open");
    let before = session.probe.read().await;
    let begin = Instant::now();
    let mut lanes = JoinSet::new();
    let several = Lane::several(concurrency, &session.channels, &session.namespace, &prefix);
    for (number, mut lane) in several.into_iter().enumerate() {
        let prefix = prefix.clone();
        lanes.spawn(async move {
            for run in (number..runs).step_by(concurrency) {
                let (_, task) = lane.begin(&id(&prefix, run), "sleeper").await?;
                lane.complete(&task, vec![command::timer(TIMER)], false, false)
                    .await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = lanes.join_next().await {
        done??;
    }
    let elapsed = begin.elapsed();
    let after = session.probe.read().await;
    let per_run = |after: Option<f64>, before: Option<f64>| {
        after
            .zip(before)
            .map(|(after, before)| (after - before) / runs as f64)
    };
    let started_per_s = round(runs as f64 / elapsed.as_secs_f64(), 0);
    let cpu_ms = per_run(after.cpu_ms, before.cpu_ms).map(|ms| round(ms, 3));
    let file = session.server.as_ref().map(|server| server.file_bytes());
    println!("{runs} runs in {:.1} s", elapsed.as_secs_f64());

    let mut warm = Vec::with_capacity(signals);
    let mut cold = Vec::with_capacity(signals);
    let lanes = Lane::several(concurrency, &session.channels, &session.namespace, &prefix);
    for n in 0..signals {
        let run = scatter(n as u64) as usize % runs;
        let mut lane = lanes[run % concurrency].clone();
        warm.push(lane.dispatch(&id(&prefix, run)).await?);
    }
    let served = session.probe.read().await;
    let restart = session.restart().await?;
    let back = session.probe.read().await;
    if restart.is_some() {
        let lanes = Lane::several(concurrency, &session.channels, &session.namespace, &prefix);
        for n in signals..2 * signals {
            let run = scatter(n as u64) as usize % runs;
            let mut lane = lanes[run % concurrency].clone();
            cold.push(lane.dispatch(&id(&prefix, run)).await?);
        }
    }
    let rss = served.rss_mb.map(|mb| round(mb, 1));
    let restart_ms = restart.map(|took| round(took.as_secs_f64() * 1e3, 1));
    let p99 = round(percentile(&mut warm, 99), 2);
    let cold_p99 = (!cold.is_empty()).then(|| round(percentile(&mut cold, 99), 2));
    let full = |wanted| at_size(runs, FULL, wanted);
    let name = |what: &str| format!("{runs} open runs: {what}");
    let figures = vec![
        Figure::new(name("RSS"), rss, "MB", full(Wanted::AtMost(1024.0))),
        Figure::new(
            name("started, with their timers"),
            Some(started_per_s),
            "/s",
            full(Wanted::AtLeast(5000.0)),
        ),
        Figure::new(
            name("restart to first RPC"),
            restart_ms,
            "ms",
            full(Wanted::AtMost(2000.0)),
        ),
        Figure::new(
            name("p99 dispatch of a signal"),
            Some(p99),
            "ms",
            full(Wanted::AtMost(20.0)),
        ),
        Figure::new(
            name("the same after the restart"),
            cold_p99,
            "ms",
            full(Wanted::AtMost(20.0)),
        ),
    ];
    let report = json!({
        "runs": runs,
        "started_per_s": started_per_s,
        "engine_cpu_ms": cpu_ms,
        "rss_mb": rss,
        "rss_kb_per_run": per_run(served.rss_mb, before.rss_mb).map(|mb| round(mb * 1024.0, 2)),
        "file_bytes_per_run": file.map(|bytes| round(bytes as f64 / runs as f64, 0)),
        "dispatch_p50_ms": round(percentile(&mut warm, 50), 2),
        "dispatch_p99_ms": p99,
        "restart_ms": restart_ms,
        "rss_after_restart_mb": restart.and(back.rss_mb).map(|mb| round(mb, 1)),
        "dispatch_after_restart_p99_ms": cold_p99,
    });
    Ok(Outcome { report, figures })
}

/// Ids of one run of the bench, which no other has.
pub(super) fn load_prefix(part: &str) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!("{part}-{:x}", since.unwrap_or_default().as_nanos())
}

fn id(prefix: &str, run: usize) -> String {
    format!("{:016x}-{prefix}-{run}", scatter(run as u64))
}
