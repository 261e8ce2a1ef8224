//! Queries that wait for a workflow task, so that they see all that came before them.
//!
//! A query goes straight to a worker when no task is pending; that is the server's part. Here
//! are those that ride on the next task (contract section 6.1).

use std::collections::BTreeMap;

use tidemill_proto::api::enums::v1::{QueryRejectCondition, WorkflowExecutionStatus as Status};
use tidemill_proto::api::query::v1::{WorkflowQuery, WorkflowQueryResult};

use crate::Error;
use crate::run::{BufferedQuery, Run};
use crate::transition::{Effect, Outcome};
use crate::tx::{Cx, Tx};

/// How a query is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// The caller does not want an answer from a run in this state.
    Rejected(Status),
    /// By a worker, from a query task.
    Direct,
    /// By the pending workflow task: buffer it.
    Buffered,
}

/// Decides how a query is answered.
pub fn route(run: &Run, condition: QueryRejectCondition) -> Result<Route, Error> {
    let status = run.status();
    let rejected = match condition {
        QueryRejectCondition::NotOpen => status != Status::Running,
        QueryRejectCondition::NotCompletedCleanly => {
            !matches!(status, Status::Running | Status::Completed)
        }
        _ => status == Status::Paused,
    };
    if rejected {
        return Ok(Route::Rejected(status));
    }
    let core = &run.core;
    if core.last_completed_started_id == 0 && !run.is_open() {
        return Err(not_ready(
            "Unable to query workflow due to the workflow closing before any workflow task completed.",
        ));
    }
    if core.last_completed_started_id == 0 && core.backoff_until != 0 {
        return Err(not_ready(
            "Unable to query workflow before its first workflow task.",
        ));
    }
    if core.workflow_task_attempt >= 3 {
        return Err(not_ready(
            "Unable to query workflow due to Workflow Task in failed state.",
        ));
    }
    let idle = core.workflow_task.is_none();
    Ok(
        if core.last_completed_started_id != 0 && (!run.is_open() || idle) {
            Route::Direct
        } else {
            Route::Buffered
        },
    )
}

fn not_ready(message: &str) -> Error {
    Error::WorkflowNotReady(message.to_owned())
}

/// Adds a query to the next workflow task. `id` must be unique in the process.
pub fn buffer(
    run: &Run,
    id: &str,
    query: WorkflowQuery,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    if run.volatile.queries.len() >= cx.limits.buffered_queries {
        return Err(Error::busy("query buffer is full"));
    }
    let mut tx = Tx::new(run, cx);
    tx.run.volatile.queries.push_back(BufferedQuery {
        id: id.to_owned(),
        query,
        sent: false,
    });
    Ok(tx.finish(()))
}

/// Forgets a query whose caller has gone.
pub fn cancel(run: &Run, id: &str, cx: &Cx<'_>) -> Outcome<()> {
    let mut tx = Tx::new(run, cx);
    tx.run.volatile.queries.retain(|q| q.id != id);
    tx.finish(())
}

pub(crate) fn send(tx: &mut Tx<'_>) -> Vec<(String, WorkflowQuery)> {
    let mut sent = Vec::with_capacity(tx.run.volatile.queries.len());
    for q in tx.run.volatile.queries.iter_mut() {
        q.sent = true;
        sent.push((q.id.clone(), q.query.clone()));
    }
    sent
}

pub(crate) fn unsend(tx: &mut Tx<'_>) {
    tx.run
        .volatile
        .queries
        .iter_mut()
        .for_each(|q| q.sent = false);
}

/// Hands the worker's answers to those who wait; what is not answered stays.
pub(crate) fn answer(tx: &mut Tx<'_>, mut results: BTreeMap<String, WorkflowQueryResult>) {
    let waiting = std::mem::take(&mut tx.run.volatile.queries);
    for query in waiting {
        match results.remove(&query.id) {
            Some(result) => tx.effect(Effect::QueryAnswered {
                id: query.id,
                result,
            }),
            None => tx.run.volatile.queries.push_back(BufferedQuery {
                sent: false,
                ..query
            }),
        }
    }
}

/// No workflow task will come for them: they are dispatched directly.
pub(crate) fn release(tx: &mut Tx<'_>) {
    for query in std::mem::take(&mut tx.run.volatile.queries) {
        tx.effect(Effect::QueryReleased { id: query.id });
    }
}

#[cfg(test)]
mod tests {
    use QueryRejectCondition as Condition;

    use super::*;
    use crate::testing::{Rig, complete_workflow};

    /// A run in a state, by name.
    fn run(state: &str) -> Run {
        let mut rig = Rig::new();
        match state {
            "new" => {}
            "closed at once" => rig.terminate().unwrap(),
            _ => drop(rig.task(vec![])),
        }
        let fail = |rig: &mut Rig| {
            let started = rig.poll();
            rig.fail(&started.task).unwrap();
        };
        match state {
            "scheduled" => rig.signal("").unwrap(),
            "speculative" => drop(rig.update("u").unwrap()),
            "started" => {
                rig.signal("").unwrap();
                rig.poll();
            }
            "failing" | "failing twice" => {
                rig.signal("").unwrap();
                fail(&mut rig);
                if state == "failing twice" {
                    fail(&mut rig);
                }
            }
            "completed" => {
                rig.signal("").unwrap();
                rig.task(vec![complete_workflow()]);
            }
            "terminated" => rig.terminate().unwrap(),
            "paused" => rig.run.core.status = Status::Paused as i32,
            _ => {}
        }
        rig.run
    }

    #[test]
    fn state_by_condition() {
        // For conditions none, not open, not completed cleanly: Direct, Buffered, Rejected, or an error.
        let rows = [
            ("new", "BBB"),
            ("closed at once", "-RR"),
            ("idle", "DDD"),
            ("scheduled", "BBB"),
            ("speculative", "BBB"),
            ("started", "BBB"),
            ("failing", "BBB"),
            ("failing twice", "---"),
            ("completed", "DRD"),
            ("terminated", "DRR"),
            ("paused", "RRR"),
        ];
        for (state, expected) in rows {
            let run = run(state);
            let conditions = [
                Condition::None,
                Condition::NotOpen,
                Condition::NotCompletedCleanly,
            ];
            let letter = |condition| match route(&run, condition) {
                Ok(Route::Direct) => 'D',
                Ok(Route::Buffered) => 'B',
                Ok(Route::Rejected(status)) => {
                    assert_eq!(status, run.status());
                    'R'
                }
                Err(Error::WorkflowNotReady(_)) => '-',
                Err(e) => panic!("{state}: {e}"),
            };
            assert_eq!(
                conditions.map(letter).iter().collect::<String>(),
                expected,
                "{state}"
            );
        }
    }

    #[test]
    fn a_query_is_nobody_elses_business() {
        let mut rig = Rig::new();
        let writes = rig.writes;
        rig.query("q").unwrap();
        assert!(matches!(
            rig.query("r"),
            Err(Error::ResourceExhausted { .. })
        ));
        rig.op(|run, cx| Ok(cancel(run, "unknown", cx))).unwrap();
        assert_eq!(rig.run.volatile.queries.len(), 1);
        rig.op(|run, cx| Ok(cancel(run, "q", cx))).unwrap();
        rig.query("r").unwrap();
        assert_eq!(rig.writes, writes);
        assert_eq!(rig.poll().queries[0].0, "r");
    }
}
