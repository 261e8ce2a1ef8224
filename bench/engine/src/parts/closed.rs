//! Many closed runs: whether they slow down those that are open, and how long it takes to find some.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use temporalio_protos::temporal::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, ListWorkflowExecutionsRequest,
};
use tokio::task::JoinSet;

use super::{Outcome, at_size, load_prefix};
use crate::command;
use crate::lane::Lane;
use crate::probe::Probe;
use crate::stats::{percentile, round, scatter};
use crate::table::{Figure, Wanted};
use crate::target::{Session, Target};

const FULL: usize = 1_000_000;
/// What the others are compared with.
const FEW: usize = 1_000;
const TYPES: usize = 10;
/// Open runs that the signals go to.
const OPEN: usize = 100;

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// Runs to close.
    #[arg(long, default_value_t = FULL)]
    pub(crate) runs: usize,
    /// How many are open at once meanwhile.
    #[arg(long, default_value_t = 64)]
    pub(crate) concurrency: usize,
    /// Signals to measure at each size.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) signals: usize,
    /// Lists and counts to measure.
    #[arg(long, default_value_t = 200)]
    pub(crate) lists: usize,
}

pub(crate) async fn run(target: &Target, options: &Options) -> Result<Outcome> {
    let Options {
        runs,
        concurrency,
        signals,
        lists,
    } = *options;
    ensure!(
        runs > FEW && concurrency > 0 && signals > 0 && lists > 0,
        "there must be more than {FEW} runs, and at least 1 of the rest"
    );
    let session = target.open(2 * concurrency).await?;
    println!("{}: {FEW} closed runs, then {runs}", session.address);
    let prefix = load_prefix("closed");
    let mut open = Lane::new(
        &session.channels[0],
        &session.namespace,
        format!("{prefix}-open"),
    );

    close(&session, &prefix, 0..FEW, concurrency).await?;
    let mut few = signal(&session, &mut open, &format!("{prefix}-few"), signals).await?;
    let begin = Instant::now();
    close(&session, &prefix, FEW..runs, concurrency).await?;
    let closed_per_s = (runs - FEW) as f64 / begin.elapsed().as_secs_f64();
    let mut many = signal(&session, &mut open, &format!("{prefix}-many"), signals).await?;

    let channel = &session.channels[0];
    let (mut listed, mut counted) = (Vec::new(), Vec::new());
    for n in 0..lists {
        let kind = scatter(n as u64) as usize % TYPES;
        let request = ListWorkflowExecutionsRequest {
            namespace: session.namespace.clone(),
            page_size: 100,
            query: format!(
                "WorkflowType = '{}' AND ExecutionStatus = 'Failed'",
                workflow_type(&prefix, kind)
            ),
            ..Default::default()
        };
        let begin = Instant::now();
        let page = channel.call(request).await?;
        listed.push(begin.elapsed());
        ensure!(!page.executions.is_empty(), "a type without a failed run");
        let request = CountWorkflowExecutionsRequest {
            namespace: session.namespace.clone(),
            query: "GROUP BY ExecutionStatus".to_owned(),
        };
        let begin = Instant::now();
        let count = channel.call(request).await?;
        counted.push(begin.elapsed());
        ensure!(
            count.count > runs as i64,
            "{} runs are counted",
            count.count
        );
    }
    let (p99_few, p99) = (
        percentile(&mut few.took, 99),
        percentile(&mut many.took, 99),
    );
    let ratio = round(p99 / p99_few, 2);
    let list_p95 = round(percentile(&mut listed, 95), 2);
    let count_p95 = round(percentile(&mut counted, 95), 2);
    let full = |wanted| at_size(runs, FULL, wanted);
    let cpu = many.cpu_us.zip(few.cpu_us);
    let cpu_ratio = cpu.map(|(many, few)| round(many / few, 2));
    let name = |what: &str| format!("{runs} closed runs: {what}");
    let figures = vec![
        Figure::new(
            name("p99 dispatch to that at 1,000"),
            Some(ratio),
            "x",
            full(Wanted::AtMost(1.2)),
        ),
        Figure::new(
            name("engine CPU of it to that at 1,000"),
            cpu_ratio,
            "x",
            Wanted::Nothing,
        ),
        Figure::new(
            name("p95 of a list with a filter"),
            Some(list_p95),
            "ms",
            full(Wanted::AtMost(200.0)),
        ),
        Figure::new(
            name("p95 of a count by status"),
            Some(count_p95),
            "ms",
            full(Wanted::AtMost(200.0)),
        ),
    ];
    let file = session.server.as_ref().map(|server| server.file_bytes());
    let report = json!({
        "runs": runs,
        "closed_per_s": round(closed_per_s, 0),
        "dispatch_p50_ms_at_1000": round(percentile(&mut few.took, 50), 2),
        "dispatch_p99_ms_at_1000": round(p99_few, 2),
        "dispatch_p50_ms": round(percentile(&mut many.took, 50), 2),
        "dispatch_p99_ms": round(p99, 2),
        "dispatch_p99_ratio": ratio,
        "dispatch_cpu_us_at_1000": few.cpu_us.map(|us| round(us, 0)),
        "dispatch_cpu_us": many.cpu_us.map(|us| round(us, 0)),
        "list_p95_ms": list_p95,
        "count_p95_ms": count_p95,
        "file_bytes_per_run": file.map(|bytes| round(bytes as f64 / runs as f64, 0)),
        "rss_mb": session.probe.read().await.rss_mb.map(|mb| round(mb, 1)),
    });
    Ok(Outcome { report, figures })
}

fn workflow_type(prefix: &str, kind: usize) -> String {
    format!("{prefix}-type-{kind}")
}

/// Runs that end with their first task, one in ten of them as failed.
async fn close(
    session: &Session,
    prefix: &str,
    runs: std::ops::Range<usize>,
    concurrency: usize,
) -> Result<()> {
    let mut lanes = JoinSet::new();
    let several = Lane::several(concurrency, &session.channels, &session.namespace, prefix);
    for (number, mut lane) in several.into_iter().enumerate() {
        let (prefix, runs) = (prefix.to_owned(), runs.clone());
        lanes.spawn(async move {
            for run in (runs.start + number..runs.end).step_by(concurrency) {
                let drawn = scatter(run as u64);
                let id = format!("{drawn:016x}-{prefix}-{run}");
                let kind = workflow_type(&prefix, drawn as usize % TYPES);
                let (_, task) = lane.begin(&id, &kind).await?;
                let end = match (drawn as usize / TYPES).is_multiple_of(10) {
                    true => command::fail(),
                    false => command::complete(),
                };
                lane.complete(&task, vec![end], false, false).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = lanes.join_next().await {
        done??;
    }
    Ok(())
}

/// Signals one after the other.
struct Signals {
    took: Vec<Duration>,
    /// Of the server, for each.
    cpu_us: Option<f64>,
}

/// Signals to runs of their own in turn: a task brings the whole history of its run, which is as long at
/// both sizes.
async fn signal(session: &Session, lane: &mut Lane, prefix: &str, count: usize) -> Result<Signals> {
    let runs: Vec<String> = (0..OPEN).map(|n| format!("{prefix}-{n}")).collect();
    for run in &runs {
        let (_, task) = lane.begin(run, "idle").await?;
        lane.complete(&task, Vec::new(), false, false).await?;
    }
    settle(&session.probe).await;
    let before = session.probe.cpu_us();
    let mut took = Vec::with_capacity(count);
    for run in runs.iter().cycle().take(count) {
        took.push(lane.dispatch(run).await?);
    }
    let used = session.probe.cpu_us().zip(before);
    let cpu_us = used.map(|(after, before)| (after - before) / count as f64);
    Ok(Signals { took, cpu_us })
}

/// Waits until the server has done what was left of the load (tables, their log), which is no cost of runs
/// that are closed; a server that is never idle is not waited for long.
async fn settle(probe: &Probe) {
    const IDLE: f64 = 0.02;
    let look = Duration::from_millis(500);
    let mut before = probe.cpu_us();
    for _ in 0..60 {
        tokio::time::sleep(look).await;
        let now = probe.cpu_us();
        match now.zip(before) {
            Some((now, before)) if (now - before) / 1e6 > IDLE * look.as_secs_f64() => {}
            _ => return,
        }
        before = now;
    }
}
