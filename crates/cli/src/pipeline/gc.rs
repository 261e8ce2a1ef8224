//! `tidemill gc`: removes artifacts that no run needs any more. `tidemill up` does the same by itself.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use tidemill_connect::artifacts::{Artifacts, Report};
use tidemill_runtime::client::Pipelines;

use super::Target;
use super::store::Store;
use crate::exit::Failure;
use crate::{output, span};

/// What is younger stays, whoever needs it: a run may have begun that is in no list yet.
pub(crate) const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Between two collections by `tidemill up`.
const EVERY: Duration = Duration::from_secs(3600);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// What is younger stays in any case.
    #[arg(long, value_name = "SPAN", default_value = "1d", value_parser = span::parse)]
    grace: Duration,
    /// Collect also if the engine knows none of the runs that the store was used by.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    store: Store,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let store = arguments.store.name();
    let artifacts = arguments.store.open()?;
    let pipelines = arguments.target.connect().await?;
    let report = collect(&pipelines, &artifacts, &arguments).await?;
    if arguments.target.json {
        output::line(json!({"dry_run": arguments.dry_run, "store": store, "report": report}));
        return Ok(());
    }
    let would = if arguments.dry_run { "would be " } else { "" };
    output::line(format_args!(
        "{would}removed: {} objects ({} bytes), marks of {} runs, {} cached results\nkept: {} \
         objects ({} bytes)",
        report.objects,
        report.bytes,
        report.runs,
        report.cache_entries,
        report.kept_objects,
        report.kept_bytes
    ));
    Ok(())
}

async fn collect(
    pipelines: &Pipelines,
    artifacts: &Artifacts,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let live = live(pipelines).await?;
    let users = artifacts.runs().await.map_err(Failure::general)?;
    if !arguments.force && !users.is_empty() && !users.iter().any(|run| live.contains(run)) {
        return Err(Failure::general(format!(
            "the engine at {}, namespace {}, knows none of the {} runs that used this store, such as \
             {}. Is it the right engine? If all of them are past their retention, say --force",
            arguments.target.engine,
            arguments.target.namespace,
            users.len(),
            users[0]
        )));
    }
    artifacts
        .gc(|run| live.contains(run), arguments.grace, arguments.dry_run)
        .await
        .map_err(Failure::general)
}

/// The runs that the engine knows, those included that have ended and are kept.
async fn live(pipelines: &Pipelines) -> Result<HashSet<String>, Failure> {
    let runs = pipelines.list(usize::MAX).await?;
    Ok(runs.into_iter().map(|run| run.id).collect())
}

/// Collects every hour, for the engine whose only store this is.
pub(crate) async fn every_hour(engine: tidemill_runtime::worker::Engine, store: String) {
    loop {
        tokio::time::sleep(EVERY).await;
        match once(&engine, &store).await {
            Ok(report) if report.objects > 0 => tracing::info!(
                objects = report.objects,
                bytes = report.bytes,
                "artifacts of runs that are gone were removed"
            ),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("artifacts were not collected, tried again in 1 h: {error}")
            }
        }
    }
}

async fn once(engine: &tidemill_runtime::worker::Engine, store: &str) -> Result<Report, Failure> {
    let artifacts = Artifacts::open(store).map_err(Failure::general)?;
    let live = live(&Pipelines::connect(engine).await?).await?;
    artifacts
        .gc(|run| live.contains(run), GRACE, false)
        .await
        .map_err(Failure::general)
}
