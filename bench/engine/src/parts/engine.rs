//! What a workflow of three sequential activities costs.
//!
//! Each workflow makes the sixteen calls that an SDK would make: one start, one wait for the close
//! event, four workflow tasks (polled and completed) and three activities (polled and completed). After
//! its first task a workflow goes through a sticky queue, as with the SDKs.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Outcome, at_size};
use crate::load;
use crate::stats::{percentile, round};
use crate::table::{Figure, Wanted};
use crate::target::{Session, Target};
use crate::worker::Worker;

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// How many workflows to measure.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) workflows: usize,
    /// How many workflows are open at once.
    #[arg(long, default_value_t = 50)]
    pub(crate) concurrency: usize,
    /// Pollers of each kind: normal workflow tasks, sticky workflow tasks, activities.
    #[arg(long, default_value_t = 16)]
    pub(crate) pollers: usize,
    /// Workflows to run before measuring.
    #[arg(long, default_value_t = 200)]
    pub(crate) warmup: usize,
    /// Workflow ids in no order, as those of most users are; the default is one after the other.
    #[arg(long)]
    pub(crate) scattered_ids: bool,
}

/// What could not be read is null.
#[derive(Serialize)]
struct Report {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// User and system time of the server's process, per workflow.
    engine_cpu_ms: Option<f64>,
    /// What the server's process had sent to storage, per workflow.
    written_kb: Option<f64>,
    /// Per workflow.
    fsyncs: Option<f64>,
    /// Resident memory of the server's process after the last workflow.
    rss_mb: Option<f64>,
}

pub(crate) async fn run(target: &Target, options: &Options) -> Result<Outcome> {
    ensure!(
        options.workflows > 0 && options.concurrency > 0 && options.pollers > 0,
        "counts must be at least 1"
    );
    let session = target
        .open(options.concurrency + 3 * options.pollers)
        .await?;
    let report = measure(&session, options).await?;
    let concurrency = options.concurrency;
    let name = |what: &str| format!("three activities, {concurrency} outstanding: {what}");
    let at_64 = |wanted| at_size(concurrency, 64, wanted);
    let alone = |wanted| at_size(concurrency, 1, wanted);
    let figures = vec![
        Figure::new(
            name("workflows"),
            Some(report.per_s),
            "/s",
            at_64(Wanted::AtLeast(1500.0)),
        ),
        Figure::new(
            name("engine CPU each"),
            report.engine_cpu_ms,
            "ms",
            at_64(Wanted::AtMost(0.95)),
        ),
        Figure::new(
            name("written each"),
            report.written_kb,
            "KB",
            at_64(Wanted::AtMost(13.0)),
        ),
        Figure::new(
            name("fsyncs each"),
            report.fsyncs,
            "",
            at_64(Wanted::AtMost(1.0)),
        ),
        Figure::new(
            name("p50"),
            Some(report.p50_ms),
            "ms",
            alone(Wanted::AtMost(2.5)),
        ),
        Figure::new(
            name("p99"),
            Some(report.p99_ms),
            "ms",
            alone(Wanted::AtMost(5.0)),
        ),
    ];
    Ok(Outcome {
        report: serde_json::to_value(report)?,
        figures,
    })
}

async fn measure(session: &Session, options: &Options) -> Result<Report> {
    let (channels, probe) = (&session.channels, &session.probe);
    println!(
        "{}: {} workflows of 3 activities, {} at a time, {} pollers of each kind, {} connections",
        session.address,
        options.workflows,
        options.concurrency,
        options.pollers,
        channels.len()
    );
    let job = Arc::new(load::Job::new(&session.namespace, options.scattered_ids));
    let mut worker = Worker::start(job.clone(), channels, options.pollers);

    if options.warmup > 0 {
        tokio::select! {
            done = load::run(&job, channels, options.warmup, options.concurrency) => done.context("warm-up")?,
            failure = worker.failure() => return Err(failure),
        };
    }
    let before = probe.read().await;
    let started = Instant::now();
    let mut latencies = tokio::select! {
        done = load::run(&job, channels, options.workflows, options.concurrency) => done?,
        failure = worker.failure() => return Err(failure),
    };
    let elapsed = started.elapsed();
    let after = probe.read().await;
    worker.stop();

    let count = latencies.len() as f64;
    let per_workflow = |after: Option<f64>, before: Option<f64>, digits| {
        after
            .zip(before)
            .map(|(after, before)| round((after - before) / count, digits))
    };
    println!(
        "{} workflows completed in {:.2} s; engine_cpu_ms: user and system time of the server's process; \
         written_kb: write_bytes of /proc/PID/io; rss_mb: VmRSS after the last workflow",
        latencies.len(),
        elapsed.as_secs_f64()
    );
    Ok(Report {
        per_s: round(count / elapsed.as_secs_f64(), 1),
        p50_ms: round(percentile(&mut latencies, 50), 2),
        p99_ms: round(percentile(&mut latencies, 99), 2),
        engine_cpu_ms: per_workflow(after.cpu_ms, before.cpu_ms, 3),
        written_kb: per_workflow(after.written_kb, before.written_kb, 2),
        fsyncs: per_workflow(after.fsyncs, before.fsyncs, 3),
        rss_mb: after.rss_mb.map(|mb| round(mb, 1)),
    })
}
