//! Measures an engine from outside: N workflows of three sequential activities, C at a time, over the
//! raw protocol.
//!
//! The bench plays both sides, client and worker, without an SDK, so that what it costs stays small beside
//! what it measures. Each workflow makes the sixteen calls that an SDK would make: one start, one wait for
//! the close event, four workflow tasks (polled and completed) and three activities (polled and
//! completed). After its first task a workflow goes through a sticky queue, as with the SDKs.
//!
//! The last line of the output is one JSON object. Everything above it is for people.

mod load;
mod probe;
mod server;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};

use crate::probe::Probe;
use crate::server::Server;

/// Every stream counts against HTTP/2's limit of concurrent streams per connection, long polls included,
/// and many servers allow 200 or less.
const STREAMS_PER_CONNECTION: usize = 80;

#[derive(Parser)]
#[command(about = "Drives an engine through the raw protocol and reports what a workflow costs")]
struct Args {
    /// How many workflows to measure.
    #[arg(long, default_value_t = 2_000)]
    workflows: usize,
    /// How many workflows are open at once.
    #[arg(long, default_value_t = 50)]
    concurrency: usize,
    /// Pollers of each kind: normal workflow tasks, sticky workflow tasks, activities.
    #[arg(long, default_value_t = 16)]
    pollers: usize,
    /// Workflows to run before measuring.
    #[arg(long, default_value_t = 200)]
    warmup: usize,
    /// Measure a server that already runs, HOST:PORT, instead of spawning one.
    #[arg(long, env = "ADDRESS")]
    address: Option<String>,
    /// The process to take CPU, memory and bytes written from, when the server was not spawned here.
    #[arg(long, env = "SERVER_PID")]
    pid: Option<u32>,
    /// HOST:PORT of the server's Prometheus endpoint, when the server was not spawned here.
    #[arg(long, env = "METRICS_ADDRESS")]
    metrics: Option<String>,
    /// The binary to spawn; it is run as `<server> engine --data-file FILE --listen ADDR --metrics-listen ADDR`.
    #[arg(long, default_value = "target/release/tidemill")]
    server: PathBuf,
    /// Where the spawned server keeps its file; a folder is made in it and removed afterwards.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,
    #[arg(long, default_value = "default")]
    namespace: String,
}

/// The last line of the output. What could not be read is null.
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

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        args.workflows > 0 && args.concurrency > 0 && args.pollers > 0,
        "counts must be at least 1"
    );
    // An empty ADDRESS= in the environment means that none was given.
    let (server, address, probe) = match args.address.as_deref().filter(|a| !a.is_empty()) {
        Some(address) => (
            None,
            address.to_owned(),
            Probe::new(args.pid, args.metrics.clone()),
        ),
        None => {
            let server = Server::spawn(&args.server, &args.data_dir)?;
            let probe = Probe::new(Some(server.pid()), Some(server.metrics_address.clone()));
            let address = server.address.clone();
            (Some(server), address, probe)
        }
    };
    let report = measure(&args, &address, &probe).await;
    drop(server);
    println!("{}", serde_json::to_string(&report?)?);
    Ok(())
}

async fn measure(args: &Args, address: &str, probe: &Probe) -> Result<Report> {
    let channels = connect(args, address).await?;
    println!(
        "{address}: {} workflows of 3 activities, {} at a time, {} pollers of each kind, {} connections",
        args.workflows,
        args.concurrency,
        args.pollers,
        channels.len()
    );
    let job = Arc::new(load::Job::new(&args.namespace));
    let mut worker = worker::Worker::start(job.clone(), &channels, args.pollers);

    if args.warmup > 0 {
        tokio::select! {
            done = load::run(&job, &channels, args.warmup, args.concurrency) => done.context("warm-up")?,
            failure = worker.failure() => return Err(failure),
        };
    }
    let before = probe.read().await;
    let started = Instant::now();
    let mut latencies = tokio::select! {
        done = load::run(&job, &channels, args.workflows, args.concurrency) => done?,
        failure = worker.failure() => return Err(failure),
    };
    let elapsed = started.elapsed();
    let after = probe.read().await;
    worker.stop();

    latencies.sort_unstable();
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
        p50_ms: round(percentile(&latencies, 50), 2),
        p99_ms: round(percentile(&latencies, 99), 2),
        engine_cpu_ms: per_workflow(after.cpu_ms, before.cpu_ms, 3),
        written_kb: per_workflow(after.written_kb, before.written_kb, 2),
        fsyncs: per_workflow(after.fsyncs, before.fsyncs, 3),
        rss_mb: after.rss_mb.map(|mb| round(mb, 1)),
    })
}

/// Opens enough connections for every long poll that can be open at once, and waits until the server answers.
async fn connect(args: &Args, address: &str) -> Result<Vec<Channel>> {
    let streams = args.concurrency + 3 * args.pollers;
    let connections = streams.div_ceil(STREAMS_PER_CONNECTION).max(4);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut channels = Vec::with_capacity(connections);
    while channels.len() < connections {
        match endpoint.connect().await {
            Ok(channel) => channels.push(channel),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("cannot connect to {address}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    load::wait_for_namespace(channels[0].clone(), &args.namespace, deadline).await?;
    Ok(channels)
}

/// The nearest-rank percentile of sorted durations, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64() * 1e3
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let hundred: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        for (sorted, percent, expected) in [
            (&hundred[..], 50, 50.0),
            (&hundred[..], 99, 99.0),
            (&hundred[..1], 99, 1.0),
            (&hundred[..3], 50, 2.0),
        ] {
            assert_eq!(
                round(percentile(sorted, percent), 6),
                expected,
                "p{percent} of {}",
                sorted.len()
            );
        }
    }
}
