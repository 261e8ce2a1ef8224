//! Effects on other runs: children to start, signals and cancel requests to deliver, parents and
//! children to tell of a close (contract sections 5.7 and 5.8).
//!
//! An effect is a row that was written with the transition that wants it. It is carried out after
//! that is durable, by operations that may be repeated: each target recognises a request that it
//! has seen. When its result is recorded the row goes; what a crash leaves behind is carried out
//! when the server starts again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tidemill_engine::cancel::{self, CancelRequest};
use tidemill_engine::close::{self, Termination};
use tidemill_engine::external::{self, Step, deliver};
use tidemill_engine::id_policy::{self, Decision};
use tidemill_engine::transition::{Initiated, ParentClosed, RunAddress};
use tidemill_engine::{Error, OutboxEntry, OutboxItem, Outcome, Run, child, signal, start};
use tidemill_proto::api::common::v1::WorkflowExecution;
use tidemill_proto::api::enums::v1::{
    CancelExternalWorkflowExecutionFailedCause as CancelFailed, ParentClosePolicy,
    SignalExternalWorkflowExecutionFailedCause as SignalFailed,
    StartChildWorkflowExecutionFailedCause as StartFailed, WorkflowIdConflictPolicy,
};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_store::committer::NO_LANE;
use tidemill_store::{Commit, RunIdentity, RunNo, RunWrite};

use crate::core::{Core, run_id, stopping};
use crate::namespaces::Namespace;
use crate::shard::{Target, View};

/// Entries read from the store at a time.
const PAGE: usize = 500;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// The entries that are being carried out, so that none is by two at a time: at a start, the one who
/// reads them from the store may meet one that was just published.
#[derive(Default)]
pub(crate) struct Outbox(Mutex<HashSet<(RunNo, i64)>>);

/// Marks an entry as being carried out while it lives.
struct InHand {
    core: Arc<Core>,
    entry: (RunNo, i64),
}

impl InHand {
    fn take(core: &Arc<Core>, entry: (RunNo, i64)) -> Option<Self> {
        core.outbox.0.lock().insert(entry).then(|| Self {
            core: core.clone(),
            entry,
        })
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.core.outbox.0.lock().remove(&self.entry);
    }
}

/// Carries an entry out, in the background, until it is done or the server stops.
pub(crate) fn spawn(
    core: &Arc<Core>,
    namespace: Namespace,
    owner: RunIdentity,
    entry: OutboxEntry,
) {
    let Some(in_hand) = InHand::take(core, (owner.run, entry.id)) else {
        return;
    };
    core.runtime.spawn(async move {
        let core = &in_hand.core;
        let mut pause = RETRY_FIRST;
        loop {
            match carry_out(core, &namespace, &owner, &entry).await {
                Ok(()) => return,
                // The run itself is gone (deleted): so are its effects.
                Err(Error::NotFound(_) | Error::NamespaceNotFound(_)) => return,
                Err(Error::Unavailable(_) | Error::ResourceExhausted { .. }) => {}
                Err(error) => {
                    tracing::error!(%error, workflow_id = %owner.workflow_id, ?entry, "an effect on another run failed; it is tried again");
                }
            }
            if !core.stop.sleep(pause).await {
                return;
            }
            pause = (pause * 2).min(RETRY_MOST);
        }
    });
}

/// Takes up what was not carried out when the server last stopped.
pub(crate) async fn resume(core: Arc<Core>) {
    let mut after = (RunNo(0), 0);
    loop {
        let reader = core.clone();
        let page = tokio::task::spawn_blocking(move || reader.store.read_outbox(after, PAGE)).await;
        let page = match page {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot read the outbox; trying again");
                if !core.stop.sleep(Duration::from_secs(1)).await {
                    return;
                }
                continue;
            }
            Err(_) => return,
        };
        let Some((last, row)) = page.last() else {
            return;
        };
        after = (last.run, row.id);
        for (owner, row) in page {
            let Ok(namespace) = core.namespaces.by_id(&owner.namespace) else {
                continue;
            };
            match OutboxEntry::decode(row.value.clone()) {
                Ok(entry) => spawn(&core, namespace, owner, entry),
                Err(error) => {
                    tracing::error!(%error, run = owner.run.0, "an outbox entry cannot be decoded; it is left alone")
                }
            }
        }
    }
}

async fn carry_out(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    entry: &OutboxEntry,
) -> Result<(), Error> {
    match &entry.item {
        Some(OutboxItem::StartChild(initiated)) => {
            start_child(core, namespace, owner, entry.id, initiated).await
        }
        Some(OutboxItem::ReleaseChild(address)) => {
            let released = on(core, address, |run, cx| Ok(child::release(run, cx))).await;
            done(core, owner, entry.id, ignore_missing(released)).await
        }
        Some(OutboxItem::CancelExternal(initiated)) => {
            cancel_external(core, namespace, owner, entry.id, initiated).await
        }
        Some(OutboxItem::SignalExternal(initiated)) => {
            signal_external(core, namespace, owner, entry.id, initiated).await
        }
        Some(OutboxItem::ParentClosed(closed)) => {
            let told = tell_child(core, owner, closed).await;
            done(core, owner, entry.id, ignore_missing(told)).await
        }
        Some(OutboxItem::ChildClosed(parent)) => {
            let told = tell_parent(core, namespace, owner, parent).await;
            done(core, owner, entry.id, ignore_missing(told)).await
        }
        None => {
            tracing::error!(
                run = owner.run.0,
                "an outbox entry is of a kind that this version does not know"
            );
            Ok(())
        }
    }
}

/// A target that has closed or is gone has nothing to be told.
fn ignore_missing(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NotFound(_) | Error::NamespaceNotFound(_)) => Ok(()),
        other => other,
    }
}

/// Removes an entry that was carried out and has no result to record.
async fn done(
    core: &Arc<Core>,
    owner: &RunIdentity,
    entry: i64,
    result: Result<(), Error>,
) -> Result<(), Error> {
    result?;
    let write = RunWrite {
        run: owner.run,
        execution: None,
        copy_history: None,
        history: Vec::new(),
        state: Vec::new(),
        due: None,
        tasks_added: Vec::new(),
        tasks_removed: Vec::new(),
        outbox_added: Vec::new(),
        outbox_removed: vec![entry],
    };
    let commit = Commit {
        runs: vec![write],
        ..Default::default()
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    core.committer.submit(
        NO_LANE,
        0,
        commit,
        Box::new(move |result| {
            let _ = tell.send(result);
        }),
    );
    match told.await {
        Ok(Ok(())) => Ok(()),
        // Tried again as a whole: an effect may be repeated.
        Ok(Err(error)) => Err(Error::Unavailable(error.to_string())),
        Err(_) => Err(stopping()),
    }
}

async fn on(
    core: &Arc<Core>,
    address: &RunAddress,
    operation: impl FnOnce(
        &tidemill_engine::Run,
        &tidemill_engine::Cx<'_>,
    ) -> Result<Outcome<()>, Error>
    + Send
    + 'static,
) -> Result<(), Error> {
    let namespace = core.namespaces.by_id_text(&address.namespace_id)?;
    let target = Target::new(&namespace, &address.workflow_id, &address.run_id)?;
    core.shards.on_run(target, operation).await.map(|_| ())
}

/// The run that wants the effect, with the event that asked for it.
async fn source(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    initiated: &Initiated,
) -> Result<(View, HistoryEvent), Error> {
    let view = core.shards.read(Target::of(namespace, owner)).await?;
    let event = core
        .read_event(&view, initiated.batch_id, initiated.event_id)
        .await?;
    Ok((view, event))
}

/// What became of a child that was to be created.
enum Created {
    /// It runs, under this first run id.
    Run(String),
    /// Its workflow id is taken.
    Conflict,
}

async fn start_child(
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
    let origin = parent.start().original_execution_run_id.clone();
    if origin == *parent.id.run_id {
        return Ok(Default::default());
    }
    let Ok(target) = Target::new(namespace, &parent.id.workflow_id, &origin) else {
        return Ok(Default::default());
    };
    match core.shards.read(target).await {
        Ok(view) => Ok((origin, view.run.start().original_execution_run_id.clone())),
        // Its retention has passed: there is nothing to reconnect to.
        Err(Error::NotFound(_)) => Ok(Default::default()),
        // Not known now is not the same: the child would be taken for a stranger's.
        Err(error) => Err(error),
    }
}

async fn cancel_external(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    entry: i64,
    initiated: &Initiated,
) -> Result<(), Error> {
    let (view, event) = source(core, namespace, owner, initiated).await?;
    let Some(Attributes::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(asked)) =
        event.attributes
    else {
        return Err(Error::DataLoss(format!(
            "event {} asks for no cancellation",
            initiated.event_id
        )));
    };
    let id = initiated.event_id;
    let failed = match deliver::cancel(&view.run, id, &asked) {
        Step::Drop => return done(core, owner, entry, Ok(())).await,
        Step::Fail(cause) => Some(cause),
        Step::Deliver(request) => {
            let only_child = asked.child_workflow_only;
            let sender = view.run.id.execution();
            let delivered = to_external(
                core,
                namespace,
                &asked.namespace,
                &asked.workflow_execution,
                move |run, cx| {
                    if only_child && run.is_open() && !external::is_child_of(run, &sender) {
                        return Err(Error::not_found("the workflow is not a child"));
                    }
                    Ok(cancel::request(run, request, cx))
                },
            )
            .await;
            match delivered {
                Ok(()) => None,
                Err(Error::NotFound(_)) => Some(CancelFailed::ExternalWorkflowExecutionNotFound),
                Err(Error::NamespaceNotFound(_)) => Some(CancelFailed::NamespaceNotFound),
                Err(error) => return Err(error),
            }
        }
    };
    core.shards
        .on_run(Target::of(namespace, owner), move |run, cx| {
            Ok(match failed {
                None => external::cancel_requested(run, id, &asked, entry, cx),
                Some(cause) => external::cancel_failed(run, id, &asked, cause, entry, cx),
            })
        })
        .await
        .map(|_| ())
}

async fn signal_external(
    core: &Arc<Core>,
    namespace: &Namespace,
    owner: &RunIdentity,
    entry: i64,
    initiated: &Initiated,
) -> Result<(), Error> {
    let (view, event) = source(core, namespace, owner, initiated).await?;
    let Some(Attributes::SignalExternalWorkflowExecutionInitiatedEventAttributes(asked)) =
        event.attributes
    else {
        return Err(Error::DataLoss(format!(
            "event {} asks for no signal",
            initiated.event_id
        )));
    };
    let id = initiated.event_id;
    let mut delivered_as = None;
    let failed = match deliver::signal(&view.run, id, &asked) {
        Step::Drop => return done(core, owner, entry, Ok(())).await,
        Step::Fail(cause) => Some(cause),
        Step::Deliver(sent) => {
            let only_child = asked.child_workflow_only;
            let sender = view.run.id.execution();
            delivered_as = Some(sent.request_id.clone());
            let delivered = to_external(
                core,
                namespace,
                &asked.namespace,
                &asked.workflow_execution,
                move |run, cx| {
                    if only_child && run.is_open() && !external::is_child_of(run, &sender) {
                        return Err(Error::not_found("the workflow is not a child"));
                    }
                    signal::signal(run, sent, cx)
                },
            )
            .await;
            match delivered {
                Ok(()) => None,
                Err(Error::NotFound(_)) => Some(SignalFailed::ExternalWorkflowExecutionNotFound),
                Err(Error::NamespaceNotFound(_)) => Some(SignalFailed::NamespaceNotFound),
                Err(Error::InvalidArgument(_)) => Some(SignalFailed::SignalCountLimitExceeded),
                Err(error) => return Err(error),
            }
        }
    };
    let target_execution = asked.workflow_execution.clone();
    let target_namespace = asked.namespace.clone();
    core.shards
        .on_run(Target::of(namespace, owner), move |run, cx| {
            Ok(match failed {
                None => external::signaled(run, id, &asked, entry, cx),
                Some(cause) => external::signal_failed(run, id, &asked, cause, entry, cx),
            })
        })
        .await?;
    if failed.is_none()
        && let Some(request_id) = delivered_as
    {
        let forgotten = to_external(
            core,
            namespace,
            &target_namespace,
            &target_execution,
            move |run, cx| Ok(external::forget_signal(run, &request_id, cx)),
        );
        return ignore_missing(forgotten.await);
    }
    Ok(())
}

/// Runs an operation on the workflow that a command names.
async fn to_external(
    core: &Arc<Core>,
    own: &Namespace,
    namespace: &str,
    execution: &Option<WorkflowExecution>,
    operation: impl FnOnce(&Run, &tidemill_engine::Cx<'_>) -> Result<Outcome<()>, Error>
    + Send
    + 'static,
) -> Result<(), Error> {
    let namespace = if namespace.is_empty() {
        own.clone()
    } else {
        core.namespaces.by_name(namespace)?
    };
    let execution = execution.clone().unwrap_or_default();
    let target = Target::new(&namespace, &execution.workflow_id, &execution.run_id)?;
    core.shards.on_run(target, operation).await.map(|_| ())
}

/// A parent has closed: its child is ended or asked to end. The child is known by the first run
/// of its chain, whichever run is current.
async fn tell_child(
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
            let of = run
                .start()
                .parent_workflow_execution
                .clone()
                .unwrap_or_default();
            if run.first_run_id() != child.run_id || of.workflow_id != *parent.workflow_id {
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
async fn tell_parent(
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
