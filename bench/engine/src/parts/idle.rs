//! A server that nobody uses: how soon it serves, what memory it takes, how often it wakes up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::Outcome;
use crate::stats::{percentile, round};
use crate::table::{Figure, Wanted};
use crate::target::{Target, connect};

/// What was begun with the start has ended by then.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// How long to watch, in seconds.
    #[arg(long, default_value_t = 120)]
    pub(crate) watch_s: u64,
    /// How often to start the server.
    #[arg(long, default_value_t = 10)]
    pub(crate) starts: usize,
}

pub(crate) async fn run(target: &Target, options: &Options) -> Result<Outcome> {
    ensure!(
        options.watch_s > 0 && options.starts > 0,
        "counts must be at least 1"
    );
    let mut starts = Vec::new();
    let (probe, _server) = match target.spawn()? {
        Some(mut server) => {
            println!("{}: started {} times", server.address, options.starts);
            for _ in 0..options.starts {
                server.kill();
                let begin = Instant::now();
                server.start()?;
                connect(&server.address, 1, &target.namespace).await?;
                starts.push(begin.elapsed());
            }
            (server.probe(), Some(server))
        }
        None => {
            let session = target.open(1).await?;
            println!("{}: watched only, it runs already", session.address);
            (session.probe, None)
        }
    };
    tokio::time::sleep(SETTLE).await;
    let before = probe.switches();
    let begin = probe.read().await;
    tokio::time::sleep(Duration::from_secs(options.watch_s)).await;
    let after = probe.switches();
    let end = probe.read().await;
    let per_s = |value: f64| value / options.watch_s as f64;
    let switches = after
        .zip(before)
        .map(|(after, before)| round(per_s(after - before), 2));
    let cpu = end
        .cpu_ms
        .zip(begin.cpu_ms)
        .map(|(end, begin)| round(per_s(end - begin), 3));
    let rss = end.rss_mb.map(|mb| round(mb, 1));
    let start_ms = (!starts.is_empty()).then(|| round(percentile(&mut starts, 50), 1));
    let figures = vec![
        Figure::new("idle: RSS", rss, "MB", Wanted::AtMost(60.0)),
        Figure::new("idle: context switches", switches, "/s", Wanted::Nothing),
        Figure::new(
            "idle: spawn to first RPC, median",
            start_ms,
            "ms",
            Wanted::AtMost(200.0),
        ),
    ];
    let report = json!({
        "rss_mb": rss,
        "switches_per_s": switches,
        "cpu_ms_per_s": cpu,
        "spawn_to_first_rpc_ms": start_ms,
        "spawn_to_first_rpc_max_ms": (!starts.is_empty()).then(|| round(percentile(&mut starts, 100), 1)),
        "watched_s": options.watch_s,
    });
    Ok(Outcome { report, figures })
}
