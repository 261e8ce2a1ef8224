//! Effects between parents and children: starting one, and telling the other of a close.

use std::sync::Arc;

use tidemill_engine::cancel::{self, CancelRequest};
use tidemill_engine::close::{self, Termination};
use tidemill_engine::id_policy::{self, Decision};
use tidemill_engine::transition::{Initiated, ParentClosed, RunAddress};
use tidemill_engine::{Error, Outcome, Run, child, start};
use tidemill_proto::api::enums::v1::{
    ParentClosePolicy, StartChildWorkflowExecutionFailedCause as StartFailed,
    WorkflowIdConflictPolicy,
};
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_store::RunIdentity;

use super::{done, ignore_missing, source};
use crate::core::{Core, run_id};
use crate::namespaces::Namespace;
use crate::shard::Target;

/// What became of a child that was to be created.
enum Created {
    /// It runs, under this first run id.
    Run(String),
    /// Its workflow id is taken.
    Conflict,
}

pub(super) async fn start_child(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    entry: i64,
    initiated: &Initiated,
) -> Result<(), Error> {
    let (parent, event) = source(core, namespace, owner, initiated).await?;
    let Some(Attributes::StartChildWorkflowExecutionInitiatedEventAttributes(asked)) =
        event.attributes.clone()
    else {
        return Err(Error::DataLoss(format!(
            "event {} initiates no child",
            initiated.event_id
        )));
    };
    let reuse = asked.workflow_id_reuse_policy();
    let parent_run = parent.run.clone();
    let original = original_of(core, namespace, &parent_run).await?;
    let initiated_id = initiated.event_id;
    let created = core
        .shards
        .on_workflow(namespace, &asked.workflow_id, move |current, cx| {
            let new = child::start_request(&parent_run, &event, cx)?;
            if let Some(run) = current
                && child::reconnects(&parent_run, initiated_id, run, |id| {
                    (id == original.0).then(|| original.1.clone())
                })
            {
                return Ok(Outcome::unchanged(Created::Run(
                    run.first_run_id().to_owned(),
                )));
            }
            match id_policy::decide(
                current,
                &new.create_request_id,
                reuse,
                WorkflowIdConflictPolicy::Fail,
            ) {
                Ok(Decision::Create) => {
                    let run_id = new.id.run_id.to_string();
                    Ok(start::create(new, cx).finish(Created::Run(run_id)))
                }
                Ok(_) => Ok(Outcome::unchanged(match current {
                    Some(run) => Created::Run(run.first_run_id().to_owned()),
                    None => Created::Conflict,
                })),
                Err(_) => Ok(Outcome::unchanged(Created::Conflict)),
            }
        })
        .await;
    let created = match created {
        Ok(done) => done.value,
        // Not wanted any more, or recorded before: only the entry is left.
        Err(Error::NotFound(_)) => return done(core, owner, entry, Ok(())).await,
        Err(error) => return Err(error),
    };
    let target = Target::of(namespace, owner);
    match created {
        Created::Conflict => {
            core.shards
                .on_run(target, move |run, cx| {
                    Ok(child::start_failed(
                        run,
                        initiated_id,
                        StartFailed::WorkflowAlreadyExists,
                        entry,
                        cx,
                    ))
                })
                .await?;
        }
        Created::Run(run_id) => {
            let (child_id, child_run) = (asked.workflow_id.clone(), run_id.clone());
            let linked = core
                .shards
                .on_run(target, move |run, cx| {
                    Ok(child::started(
                        run,
                        initiated_id,
                        &asked,
                        &run_id,
                        entry,
                        cx,
                    ))
                })
                .await?;
            if linked.value == child::Link::Orphaned {
                let orphan = Target::new(namespace, &child_id, &child_run)?;
                let ended = core
                    .shards
                    .on_run(orphan, |run, cx| {
                        close::terminate_run(
                            run,
                            Termination::by_engine("by parent close policy"),
                            cx,
                        )
                    })
                    .await;
                ignore_missing(ended.map(|_| ()))?;
            }
        }
    }
    Ok(())
}

/// The run that a reset parent's base came from: (a run of the chain, its original run).
async fn original_of(
    core: &Arc<Core>,
    namespace: &Namespace,
    parent: &Run,
) -> Result<(String, String), Error> {
    let origin = parent.start().original_execution_run_id.to_string();
    if origin == *parent.id.run_id {
        return Ok(Default::default());
    }
    let Ok(target) = Target::new(namespace, &parent.id.workflow_id, &origin) else {
        return Ok(Default::default());
    };
    match core.shards.read(target).await {
        Ok(view) => Ok((
            origin,
            view.run.start().original_execution_run_id.to_string(),
        )),
        // Its retention has passed: there is nothing to reconnect to.
        Err(Error::NotFound(_)) => Ok(Default::default()),
        // Not known now is not the same: the child would be taken for a stranger's.
        Err(error) => Err(error),
    }
}

/// A parent has closed: its child is ended or asked to end. The child is known by the first run
/// of its chain, whichever run is current.
pub(super) async fn tell_child(
    core: &Arc<Core>,
    owner: &RunIdentity,
    closed: &ParentClosed,
) -> Result<(), Error> {
    let child = closed.child.clone().unwrap_or_default();
    let namespace = core.namespaces.by_id_text(&child.namespace_id)?;
    let target = Target::new(&namespace, &child.workflow_id, "")?;
    let parent = run_id(owner);
    let terminate = closed.policy() == ParentClosePolicy::Terminate;
    core.shards
        .on_run(target, move |run, cx| {
            let of = run.start().parent.as_ref();
            let of = of.map_or("", |p| &p.execution.workflow_id);
            if run.first_run_id() != child.run_id || *of != *parent.workflow_id {
                return Err(Error::not_found("the child is another workflow by now"));
            }
            if terminate {
                close::terminate_run(run, Termination::by_engine("by parent close policy"), cx)
            } else {
                let request = CancelRequest {
                    reason: "by parent close policy".to_owned(),
                    identity: close::ENGINE_IDENTITY.to_owned(),
                    external: Some((parent.execution(), child.initiated_id)),
                    ..Default::default()
                };
                Ok(cancel::request(run, request, cx))
            }
        })
        .await
        .map(|_| ())
}

/// A child has closed: its parent records that. A parent that was reset lives on in another run.
pub(super) async fn tell_parent(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    parent: &RunAddress,
) -> Result<(), Error> {
    let view = core.shards.read(Target::of(namespace, owner)).await?;
    let last = core
        .read_event(&view, 0, view.run.core.close_event_id)
        .await?;
    let Some(facts) = child::CloseFacts::of(&view.run, &last) else {
        return Ok(());
    };
    let parents = core.namespaces.by_id_text(&parent.namespace_id)?;
    let initiated_id = parent.initiated_id;
    let mut run_id = parent.run_id.clone();
    loop {
        let target = Target::new(&parents, &parent.workflow_id, &run_id)?;
        let facts = facts.clone();
        match core
            .shards
            .on_run(target.clone(), move |run, cx| {
                child::closed(run, initiated_id, facts, cx)
            })
            .await
        {
            Ok(_) => return Ok(()),
            Err(Error::NotFound(reason)) => {
                let reset = core
                    .shards
                    .read(target)
                    .await?
                    .run
                    .core
                    .reset_run_id
                    .clone();
                if reset.is_empty() {
                    return Err(Error::NotFound(reason));
                }
                run_id = reset;
            }
            Err(error) => return Err(error),
        }
    }
}
