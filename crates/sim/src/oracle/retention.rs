//! Closed runs are deleted when their retention has passed, and not before.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::*;

use super::end::Run;
use super::history;
use crate::clients::{call_for, execution};
use crate::host;
use crate::life::{Link, RETENTION};

/// How long after its time a run may be there: the server looks for such once a minute.
const LATE: Duration = Duration::from_secs(65);

/// Looks at every closed run just before its time and some time after it.
pub(super) async fn watch(link: &Link, all: &[Run]) {
    // Nobody is to write anything meanwhile.
    link.world.with(|shared| shared.is_over = true);
    let retention = RETENTION.as_nanos() as i64;
    let mut closed: Vec<(i64, &Run)> = all
        .iter()
        .filter(|run| run.events.last().and_then(history::closing).is_some())
        .filter_map(|run| {
            let end = run.events.last()?.event_time.as_ref()?;
            Some((history::nanos(end) + retention, run))
        })
        .collect();
    closed.sort_by_key(|(expires, _)| *expires);
    for (expires, run) in &closed {
        until(*expires - 50_000_000).await;
        if host::wall() < *expires && !is_there(link, run).await {
            link.world
                .find(format!("run {} was deleted before its time", run.id));
        }
    }
    let Some((last, _)) = closed.last() else {
        return;
    };
    until(*last + LATE.as_nanos() as i64).await;
    for (_, run) in &closed {
        if is_there(link, run).await {
            link.world
                .find(format!("run {} is there after its time", run.id));
        } else {
            link.world.with(|shared| shared.stats.expired += 1);
        }
    }
    let listed = list(link, "").await;
    let open = all.len() - closed.len();
    if listed != Some(open) {
        link.world.find(format!(
            "{listed:?} runs are listed after the retention, {open} are open"
        ));
    }
}

async fn until(wall: i64) {
    let wait = u64::try_from(wall - host::wall()).unwrap_or(0);
    tokio::time::sleep(Duration::from_nanos(wait)).await;
}

/// All ways of asking have to agree.
async fn is_there(link: &Link, run: &Run) -> bool {
    let call = || call_for(Duration::from_secs(5));
    let described = link.server.describe_workflow_execution(
        &link.namespace,
        DescribeWorkflowExecutionRequest {
            execution: execution(&run.workflow, &run.id),
            ..Default::default()
        },
        call(),
    );
    let described = described.await.map(|_| ());
    let history = link.server.get_workflow_execution_history(
        &link.namespace,
        GetWorkflowExecutionHistoryRequest {
            execution: execution(&run.workflow, &run.id),
            ..Default::default()
        },
        call(),
    );
    let history = history.await.map(|_| ());
    let listed = list(link, &format!("RunId = '{}'", run.id)).await;
    link.world.say(format_args!(
        "run {} is there: {described:?} {history:?} {listed:?}",
        run.id
    ));
    match (&described, &history, listed) {
        (Ok(()), Ok(()), Some(1)) => true,
        (Err(Error::NotFound(_)), Err(Error::NotFound(_)), Some(0)) => false,
        _ => {
            link.world.find(format!(
                "run {} is there and is not: {described:?}, {history:?}, listed {listed:?}",
                run.id
            ));
            true
        }
    }
}

async fn list(link: &Link, query: &str) -> Option<usize> {
    let request = ListWorkflowExecutionsRequest {
        query: query.into(),
        ..Default::default()
    };
    let listed = link.server.list_workflow_executions(
        &link.namespace,
        request,
        call_for(Duration::from_secs(5)),
    );
    Some(listed.await.ok()?.executions.len())
}
