//! Large results: activities that return a megabyte each. What comes in with a result goes out again
//! with the workflow task that tells of it.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use temporalio_protos::temporal::api::common::v1::{Payload, Payloads};
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use tokio::task::JoinSet;

use super::Outcome;
use super::open::load_prefix;
use crate::command;
use crate::lane::{Lane, Task};
use crate::stats::round;
use crate::table::{Figure, Wanted};
use crate::target::Target;

/// Results of one workflow, whose history may not grow without bound.
const RESULTS: usize = 10;

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// Workflows of ten results each.
    #[arg(long, default_value_t = 200)]
    pub(crate) workflows: usize,
    /// Bytes of a result.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) bytes: usize,
    /// Workflows at a time.
    #[arg(long, default_value_t = 8)]
    pub(crate) concurrency: usize,
}

pub(crate) async fn run(target: &Target, options: &Options) -> Result<Outcome> {
    let Options {
        workflows,
        bytes,
        concurrency,
    } = *options;
    ensure!(
        workflows > 0 && bytes > 0 && concurrency > 0,
        "counts must be at least 1"
    );
    let session = target.open(2 * concurrency).await?;
    println!(
        "{}: {workflows} workflows of {RESULTS} results of {bytes} bytes, {concurrency} at a time",
        session.address
    );
    let prefix = load_prefix("payload");
    let before = session.probe.read().await;
    let begin = Instant::now();
    let mut lanes = JoinSet::new();
    let several = Lane::several(concurrency, &session.channels, &session.namespace, &prefix);
    for (number, mut lane) in several.into_iter().enumerate() {
        let prefix = prefix.clone();
        lanes.spawn(async move {
            for workflow in (number..workflows).step_by(concurrency) {
                one(&mut lane, &format!("{prefix}-{workflow}"), bytes).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = lanes.join_next().await {
        done??;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let after = session.probe.read().await;
    let mb = (workflows * RESULTS * bytes) as f64 / 1e6;
    let per_mb = |after: Option<f64>, before: Option<f64>| {
        after
            .zip(before)
            .map(|(after, before)| (after - before) / mb)
    };
    let mb_per_s = round(mb / elapsed, 1);
    let figures = vec![Figure::new(
        format!("results of {bytes} bytes, through the engine"),
        Some(mb_per_s),
        "MB/s",
        super::at_size(bytes, 1_000_000, Wanted::AtLeast(200.0)),
    )];
    let written = per_mb(after.written_kb, before.written_kb).map(|kb| kb * 1024.0 / 1e6);
    let report = json!({
        "bytes": bytes,
        "results": workflows * RESULTS,
        "mb_per_s": mb_per_s,
        "engine_cpu_ms_per_mb": per_mb(after.cpu_ms, before.cpu_ms).map(|ms| round(ms, 2)),
        "written_mb_per_mb": written.map(|mb| round(mb, 2)),
        "rss_mb": after.rss_mb.map(|mb| round(mb, 1)),
    });
    Ok(Outcome { report, figures })
}

async fn one(lane: &mut Lane, id: &str, bytes: usize) -> Result<()> {
    let (_, mut task) = lane.begin(id, "large-results").await?;
    for n in 0..RESULTS {
        let order = vec![command::activity(n, lane.task_queue())];
        lane.complete(&task, order, true, false).await?;
        // A sticky queue is used while somebody polls it.
        let mut sticky = lane.clone();
        let next = tokio::spawn(async move { sticky.task(true).await });
        let activity = lane.activity().await?;
        // Nothing that a compressor on the way could make small.
        let payload = Payload {
            metadata: [("encoding".to_owned(), b"binary/plain".to_vec())].into(),
            data: noise(bytes, n as u64),
            ..Default::default()
        };
        let result = Payloads {
            payloads: vec![payload],
        };
        lane.complete_activity(activity.task_token, Some(result))
            .await?;
        task = next.await??;
        let told = told(&task);
        ensure!(told == bytes, "{told} of {bytes} bytes came back");
    }
    lane.complete(&task, vec![command::complete()], false, false)
        .await?;
    Ok(())
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(bytes + 8);
    let mut state = crate::stats::scatter(seed) | 1;
    while data.len() < bytes {
        // xorshift: cheap, and this process shares the cores with what it measures.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(bytes);
    data
}

/// Bytes of the result that a task tells of.
fn told(task: &Task) -> usize {
    let events = task.history.iter().flat_map(|history| &history.events);
    events
        .filter_map(|event| match &event.attributes {
            Some(Attributes::ActivityTaskCompletedEventAttributes(done)) => done.result.as_ref(),
            _ => None,
        })
        .flat_map(|result| &result.payloads)
        .map(|payload| payload.data.len())
        .sum()
}
