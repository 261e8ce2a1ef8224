//! Looking at runs.

use serde_json::json;
use tidemill_pipeline::run::{RunState, Status};
use tidemill_runtime::client::{Listed, Pipelines, RunStatus};
use tidemill_runtime::pending::Pending;

use super::store::Store;
use super::view::{View, span};
use super::{Target, failed, now_ms};
use crate::exit::Failure;
use crate::output;
use crate::table;

/// Tasks under way that are shown.
const TASKS_SHOWN: usize = 20;

#[derive(clap::Args)]
pub(crate) struct List {
    /// The most runs to show.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// The run's id.
    #[arg(value_name = "RUN")]
    run: String,
    /// List the items that failed, read from the artifact store.
    #[arg(long)]
    failed: bool,
    #[command(flatten)]
    store: Store,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn list(arguments: List) -> Result<(), Failure> {
    let pipelines = arguments.target.connect().await?;
    let runs = pipelines.list(arguments.limit).await?;
    if arguments.target.json {
        let runs: Vec<_> = runs
            .iter()
            .map(|run| {
                json!({
                    "run": run.id, "pipeline": run.pipeline, "plan": run.plan,
                    "status": status(run.status), "started_ms": run.started_ms,
                    "ended_ms": run.ended_ms, "parent": run.parent,
                })
            })
            .collect();
        output::line(json!(runs));
        return Ok(());
    }
    let rows: Vec<_> = runs.iter().map(row).collect();
    output::write(&table::render(
        &["STATUS", "RUN", "PIPELINE", "STARTED", "TOOK"],
        &rows,
    ));
    Ok(())
}

fn row(run: &Listed) -> Vec<String> {
    let started = jiff::Timestamp::from_millisecond(run.started_ms / 1000 * 1000);
    let until = if run.ended_ms == 0 {
        now_ms()
    } else {
        run.ended_ms
    };
    vec![
        status(run.status).to_owned(),
        run.id.clone(),
        run.pipeline.clone(),
        started.map_or_else(|_| "-".to_owned(), |time| time.to_string()),
        span(until - run.started_ms),
    ]
}

fn status(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Done => "done",
        RunStatus::Failed => "failed",
        RunStatus::Canceled => "cancelled",
        RunStatus::Terminated => "terminated",
        RunStatus::TimedOut => "timed out",
        RunStatus::Other => "other",
    }
}

pub(super) async fn show(arguments: Show) -> Result<(), Failure> {
    let pipelines = arguments.target.connect().await?;
    let state = pipelines.state(&arguments.run).await?;
    if arguments.failed {
        let artifacts = arguments.store.open()?;
        return failed::list(&artifacts, &state, arguments.target.json).await;
    }
    if arguments.target.json {
        output::line(json!(state));
        return Ok(());
    }
    output::line(format_args!(
        "run       {}\npipeline  {}\nplan      {}",
        arguments.run, state.pipeline, state.plan
    ));
    let lineage = [("called by", &state.parent), ("retry of ", &state.earlier)];
    for (what, run) in lineage {
        if let Some(run) = run {
            output::line(format_args!("{what} {run}"));
        }
    }
    output::line("");
    show_nodes(&arguments.run, &state);
    show_pending(&pipelines, &arguments.run).await?;
    // Pipelines that it calls, as long as they go on: perhaps one of them asks something.
    let mut called: Vec<String> = running_calls(&state).collect();
    while let Some(run) = called.pop() {
        let state = pipelines.state(&run).await?;
        output::line(format_args!("\n{run}"));
        show_nodes(&run, &state);
        show_pending(&pipelines, &run).await?;
        called.extend(running_calls(&state));
    }
    Ok(())
}

fn show_nodes(run: &str, state: &RunState) {
    for line in View::default().lines(run, state, now_ms()) {
        output::line(line);
    }
    for node in &state.nodes {
        if let Some(error) = &node.error {
            output::line(format_args!("\n{}: {error}", node.id));
        }
    }
}

/// What tasks that are under way say, as far as there is anything to say.
async fn show_pending(pipelines: &Pipelines, run: &str) -> Result<(), Failure> {
    let pending = pipelines.pending(run).await?;
    let telling = pending
        .iter()
        .filter(|task| task.said.is_some() || task.failed.is_some());
    let mut lines: Vec<String> = telling.map(told).collect();
    if lines.is_empty() {
        return Ok(());
    }
    output::line("\ntasks under way");
    let more = lines.len().saturating_sub(TASKS_SHOWN);
    lines.truncate(TASKS_SHOWN);
    for line in lines {
        output::line(format_args!("  {line}"));
    }
    if more > 0 {
        output::line(format_args!("  and {more} more"));
    }
    Ok(())
}

fn told(task: &Pending) -> String {
    let mut line = task.task.clone();
    if task.attempt > 1 {
        line.push_str(&format!(", attempt {}", task.attempt));
    }
    match &task.said {
        Some(said) if task.started => line.push_str(&format!(": {said}")),
        _ => {}
    }
    if let Some(failed) = &task.failed {
        line.push_str(&format!("; the attempt before failed: {failed}"));
    }
    line
}

fn running_calls(state: &RunState) -> impl Iterator<Item = String> {
    let running = state.nodes.iter().filter(|n| n.status == Status::Running);
    running.filter_map(|node| node.child.clone())
}
