//! Effects on other runs: children to start, signals and cancel requests to deliver, parents and
//! children to tell of a close (contract sections 5.7 and 5.8).
//!
//! An effect is a row that was written with the transition that wants it. It is carried out after
//! that is durable, by operations that may be repeated: each target recognises a request that it
//! has seen. When its result is recorded the row goes; what a crash leaves behind is carried out
//! when the server starts again.

mod child;
mod external;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tidemill_engine::transition::{Initiated, RunAddress};
use tidemill_engine::{Error, OutboxEntry, OutboxItem, Outcome, child as child_run};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_store::committer::NO_LANE;
use tidemill_store::{Commit, RunIdentity, RunNo, RunWrite};

use crate::core::{Core, blocking, stopping};
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
        let page = blocking(move || reader.store.read_outbox(after, PAGE)).await;
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
            child::start_child(core, namespace, owner, entry.id, initiated).await
        }
        Some(OutboxItem::ReleaseChild(address)) => {
            let released = on(core, address, |run, cx| Ok(child_run::release(run, cx))).await;
            done(core, owner, entry.id, ignore_missing(released)).await
        }
        Some(OutboxItem::CancelExternal(initiated)) => {
            external::cancel_external(core, namespace, owner, entry.id, initiated).await
        }
        Some(OutboxItem::SignalExternal(initiated)) => {
            external::signal_external(core, namespace, owner, entry.id, initiated).await
        }
        Some(OutboxItem::ParentClosed(closed)) => {
            let told = child::tell_child(core, owner, closed).await;
            done(core, owner, entry.id, ignore_missing(told)).await
        }
        Some(OutboxItem::ChildClosed(parent)) => {
            let told = child::tell_parent(core, namespace, owner, parent).await;
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
