//! Closed runs are deleted when their retention has passed, and not before. What is gone stays so, whatever
//! happens to the process meanwhile.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::*;
use tidemill_store::log::sim::SimDisk;

use super::end::Run;
use super::history;
use crate::clients::{call_for, execution};
use crate::host;
use crate::life::{Link, RETENTION};
use crate::world::World;

/// How long after its time, or after the server's start, a run may be there: the server looks for such once
/// a minute.
const LATE: i64 = 65_000_000_000;

/// Just before its time.
const EARLY: i64 = 50_000_000;

/// Closed runs whose time is awaited, for as many lives as that takes.
pub(crate) struct Retention {
    closed: Vec<Closed>,
    /// How many runs are open.
    open: usize,
    /// How many lives end while runs are deleted.
    crashes: usize,
}

#[derive(Clone)]
struct Closed {
    workflow: String,
    run: String,
    expires: i64,
    /// Nobody found it any more.
    gone: bool,
}

/// From here on nobody writes anything but the server.
pub(super) fn begin(link: &Link, all: &[Run]) {
    let retention = RETENTION.as_nanos() as i64;
    let closed: Vec<Closed> = all
        .iter()
        .filter(|run| run.events.last().and_then(history::closing).is_some())
        .filter_map(|run| {
            let end = run.events.last()?.event_time.as_ref()?;
            Some(Closed {
                workflow: run.workflow.clone(),
                run: run.id.clone(),
                expires: history::nanos(end) + retention,
                gone: false,
            })
        })
        .collect();
    let crashes = match link.world.plan.faults.crashes {
        true => link.world.below(4),
        false => 0,
    };
    link.world.with(|shared| {
        shared.is_over = true;
        shared.retention = Some(Retention {
            open: all.len() - closed.len(),
            closed,
            crashes,
        });
    });
}

/// Nothing else is left to be done.
pub(crate) fn is_awaited(world: &World) -> bool {
    world.with(|shared| shared.retention.is_some())
}

/// When the first run is to be deleted.
pub(crate) fn first(world: &World) -> Option<i64> {
    world.with(|shared| {
        let retention = shared.retention.as_ref()?;
        retention.closed.iter().map(|run| run.expires).min()
    })
}

/// Whether this life is to end while runs are deleted.
pub(crate) fn ends_early(world: &World) -> bool {
    world.with(|shared| {
        let Some(retention) = &mut shared.retention else {
            return false;
        };
        let left = retention.crashes;
        retention.crashes = left.saturating_sub(1);
        left > 0
    })
}

/// Looks at every closed run just before its time, and after it until it is gone.
pub(crate) async fn watch(link: &Link, disk: &SimDisk) {
    let world = &link.world;
    let begun = host::wall();
    let mut closed = world.with(|shared| match &shared.retention {
        Some(retention) => retention.closed.clone(),
        None => Vec::new(),
    });
    loop {
        for (at, run) in closed.iter_mut().enumerate() {
            let before = host::wall();
            let there = is_there(link, run).await;
            if disk.is_off() {
                // Nobody hears of anything any more.
                return std::future::pending().await;
            }
            let bad_until = world.with(|shared| shared.disk_bad_until);
            let due = run.expires.max(begun).max(bad_until);
            let what = match &there {
                Err(_) if bad_until >= before => continue,
                Err(what) => what,
                Ok(true) if run.gone => "is back",
                Ok(true) if before > due.saturating_add(LATE) => "is there after its time",
                Ok(false) if host::wall() < run.expires => "was deleted before its time",
                Ok(_) => "",
            };
            if !what.is_empty() {
                return world.find(format!("run {} {what}", run.run));
            }
            run.gone = there == Ok(false);
            world.with(|shared| {
                if let Some(retention) = &mut shared.retention {
                    retention.closed[at].gone = run.gone;
                }
            });
        }
        if closed.iter().all(|run| run.gone) {
            break;
        }
        let now = host::wall();
        let early = closed.iter().map(|run| run.expires - EARLY);
        let due = closed.iter().any(|run| run.expires <= now && !run.gone);
        let next = early.filter(|early| *early > now).min();
        let soon = now + 5_000_000_000;
        host::until(match next {
            Some(next) if due => next.min(soon),
            Some(next) => next,
            None => soon,
        })
        .await;
    }
    world.with(|shared| shared.stats.expired += closed.len() as u64);
    let listed = loop {
        let before = host::wall();
        let listed = list(link, "").await;
        if listed.is_some() || world.with(|shared| shared.disk_bad_until) < before {
            break listed;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let open = world.with(|shared| shared.retention.as_ref().map(|r| r.open));
    if listed != open {
        world.find(format!(
            "{listed:?} runs are listed after the retention, {open:?} are open"
        ));
    }
}

/// All ways of asking have to agree, a second later at most: it may be deleted between two of them.
async fn is_there(link: &Link, run: &Closed) -> Result<bool, String> {
    let there = ask(link, run).await;
    if there.is_ok() {
        return there;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    ask(link, run).await
}

async fn ask(link: &Link, run: &Closed) -> Result<bool, String> {
    let call = || call_for(Duration::from_secs(5));
    let described = link.server.describe_workflow_execution(
        &link.namespace,
        DescribeWorkflowExecutionRequest {
            execution: execution(&run.workflow, &run.run),
            ..Default::default()
        },
        call(),
    );
    let described = described.await.map(|_| ());
    let history = link.server.get_workflow_execution_history(
        &link.namespace,
        GetWorkflowExecutionHistoryRequest {
            execution: execution(&run.workflow, &run.run),
            ..Default::default()
        },
        call(),
    );
    let history = history.await.map(|_| ());
    let listed = list(link, &format!("RunId = '{}'", run.run)).await;
    link.world.say(format_args!(
        "run {} is there: {described:?} {history:?} {listed:?}",
        run.run
    ));
    match (&described, &history, listed) {
        (Ok(()), Ok(()), Some(1)) => Ok(true),
        (Err(Error::NotFound(_)), Err(Error::NotFound(_)), Some(0)) => Ok(false),
        _ => Err(format!(
            "is there and is not: {described:?}, {history:?}, listed {listed:?}"
        )),
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
