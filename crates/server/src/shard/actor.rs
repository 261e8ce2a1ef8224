//! One shard: takes operations in order, holds runs, hands commits to the committer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prost::Message as _;
use tidemill_engine::{Cx, Error, Outcome, Run, Transition};
use tidemill_proto::api::history::v1::{History, HistoryEvent};
use tidemill_store::{Commit, HistoryBatch, RunIdentity, RunNo, StoredRun};
use tokio::sync::{mpsc, oneshot};

use super::cache::{Cache, Tail};
use super::{Done, Target};
use crate::core::{Core, now, run_id};
use crate::namespaces::Namespace;
use crate::publish;

pub(crate) enum Message {
    Job(Box<dyn FnOnce(&mut Actor) + Send>),
    Wake(RunIdentity),
    /// A commit of this generation failed.
    Failed(u64),
}

/// A run as an operation left it, with its newest history.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) run: Run,
    pub(crate) tail: Tail,
}

pub(crate) struct Actor {
    core: Arc<Core>,
    lane: usize,
    generation: u64,
    cache: Cache,
}

type Reply<T> = oneshot::Sender<Result<Done<T>, Error>>;

impl Actor {
    pub(super) fn new(core: Arc<Core>, lane: usize, cached_runs: usize) -> Self {
        Self { core, lane, generation: 0, cache: Cache::new(cached_runs) }
    }

    pub(super) async fn run(mut self, mut mailbox: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            match message {
                Message::Job(job) => job(&mut self),
                Message::Wake(run) => self.wake(&run),
                Message::Failed(generation) => self.reload(generation),
            }
        }
    }

    /// A commit failed: nothing in memory can be trusted, the store is asked again.
    fn reload(&mut self, generation: u64) {
        if generation != self.generation {
            return;
        }
        self.generation += 1;
        for run in self.cache.clear() {
            self.core.waiters.run_dropped(run);
        }
    }

    pub(super) fn on_run<T: Send + 'static>(
        &mut self,
        target: &Target,
        operation: impl FnOnce(&Run, &Cx<'_>) -> Result<Outcome<T>, Error>,
        reply: Reply<T>,
    ) {
        match self.find(target) {
            Ok(Some(no)) => self.operate(no, &target.namespace, operation, reply),
            Ok(None) => self.answer(Err(not_found(target)), reply),
            Err(error) => self.answer(Err(error), reply),
        }
    }

    pub(super) fn on_workflow<T: Send + 'static>(
        &mut self,
        target: &Target,
        operation: impl FnOnce(Option<&Run>, &Cx<'_>) -> Result<Outcome<T>, Error>,
        reply: Reply<T>,
    ) {
        match self.find(target) {
            Ok(Some(no)) => self.operate(no, &target.namespace, |run, cx| operation(Some(run), cx), reply),
            Ok(None) => {
                let outcome = self.contain(&target.namespace, &target.workflow_id, |cx| operation(None, cx));
                match outcome {
                    Ok(outcome) => self.apply(outcome, &target.namespace, None, Some(reply)),
                    Err(error) => self.answer(Err(error), reply),
                }
            }
            Err(error) => self.answer(Err(error), reply),
        }
    }

    /// The run that a target means, loaded; `None` when there is none.
    fn find(&mut self, target: &Target) -> Result<Option<RunNo>, Error> {
        let namespace = target.namespace.id;
        let current = self.cache.current(namespace, &target.workflow_id);
        match target.run_id {
            None => {
                if let Some(no) = current {
                    return Ok(Some(no));
                }
                let store = &self.core.store;
                let Some(found) = store.current_run(&namespace, &target.workflow_id).map_err(unavailable)? else {
                    return Ok(None);
                };
                Ok(self.load(found.run, true)?.then_some(found.run))
            }
            Some(run_id) => {
                // Nearly always it is the current run that is meant.
                if let Some(no) = current
                    && let Some(entry) = self.cache.get(no)
                    && tidemill_engine::ids::parse_uuid(&entry.run.id.run_id) == Some(run_id)
                {
                    return Ok(Some(no));
                }
                let store = &self.core.store;
                let found = store.find_run(&namespace, &target.workflow_id, &run_id).map_err(unavailable)?;
                let Some(found) = found else { return self.not_yet_durable(namespace, target, run_id) };
                Ok(self.load(found.run, false)?.then_some(found.run))
            }
        }
    }

    /// A run that was created a moment ago may not be in the store yet, and may already have been
    /// followed by another: it is found among those in memory.
    fn not_yet_durable(&mut self, namespace: [u8; 16], target: &Target, run_id: [u8; 16]) -> Result<Option<RunNo>, Error> {
        Ok(self.cache.find(|run| {
            run.id.namespace_id == namespace
                && run.id.workflow_id == target.workflow_id
                && tidemill_engine::ids::parse_uuid(&run.id.run_id) == Some(run_id)
        }))
    }

    /// Makes sure that a run is in memory; false when the store does not have it.
    fn load(&mut self, no: RunNo, is_current: bool) -> Result<bool, Error> {
        if self.cache.get(no).is_some() {
            return Ok(true);
        }
        let Some(stored) = self.core.store.load_run(no).map_err(unavailable)? else { return Ok(false) };
        let (run, tail) = rebuild(stored)?;
        let durable = self.core.committer.durable();
        self.cache.insert(run, tail, 0, is_current, durable);
        Ok(true)
    }

    fn operate<T: Send + 'static>(
        &mut self,
        no: RunNo,
        namespace: &Namespace,
        operation: impl FnOnce(&Run, &Cx<'_>) -> Result<Outcome<T>, Error>,
        reply: Reply<T>,
    ) {
        let Some(entry) = self.cache.get(no) else {
            return self.answer(Err(Error::Internal("a loaded run is gone".into())), reply);
        };
        // A clone of the run is cheap; it frees the cache for the outcome.
        let run = entry.run.clone();
        let ticket = entry.ticket;
        match self.contain(namespace, &run.id.workflow_id, |cx| operation(&run, cx)) {
            Ok(outcome) => self.apply(outcome, namespace, Some(no), Some(reply)),
            // The error may rest on what is not durable yet: it waits like any answer.
            Err(error) => self.after(ticket, move || {
                let _ = reply.send(Err(error));
            }),
        }
    }

    /// Calls the engine. A broken invariant is contained here: the run stays as it was.
    fn contain<T>(
        &self,
        namespace: &Namespace,
        workflow_id: &str,
        call: impl FnOnce(&Cx<'_>) -> Result<Outcome<T>, Error>,
    ) -> Result<Outcome<T>, Error> {
        let cx = Cx {
            now: now(),
            ids: &self.core.ids,
            limits: &self.core.config.limits,
            namespace: &namespace.name,
            schema: namespace,
        };
        catch_unwind(AssertUnwindSafe(|| call(&cx))).unwrap_or_else(|panic| {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            tracing::error!(namespace = namespace.name, workflow_id, what, "a broken invariant was contained: the run was rolled back");
            self.core.metrics.contained_failures.inc();
            Err(Error::Internal(format!("the engine broke an invariant: {what}")))
        })
    }

    /// Takes an outcome over: the runs' next states into memory, the commit to the store, and
    /// what the world is told to behind it.
    fn apply<T: Send + 'static>(&mut self, outcome: Outcome<T>, namespace: &Namespace, no: Option<RunNo>, reply: Option<Reply<T>>) {
        let Outcome { transitions, reply: answer } = outcome;
        let commit = crate::commit::commit(&transitions, namespace);
        let durable = !commit.is_empty();
        let published = publish::prepare(&transitions, namespace);
        let mut touched = Vec::with_capacity(transitions.len());
        let mut last_ticket = no.and_then(|no| self.cache.get(no)).map_or(0, |e| e.ticket);
        // What was asked for is about the run that it made, if it made one.
        let mut viewed = no;
        for transition in transitions {
            let created = transition.created;
            let run = self.install(transition);
            if created || viewed.is_none() {
                viewed = Some(run);
            }
            touched.push(run);
        }
        for no in &touched {
            last_ticket = self.cache.get(*no).map_or(last_ticket, |e| e.ticket.max(last_ticket));
        }
        let view = viewed.and_then(|no| self.cache.get(no)).map(|e| View { run: e.run.clone(), tail: e.tail.clone() });
        let answer = answer.and_then(|value| {
            let view = view.ok_or_else(|| Error::Internal("an operation answered without a run".into()))?;
            Ok(Done { value, view })
        });
        let core = self.core.clone();
        let finish = move || {
            published.publish(&core);
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(answer);
            }
        };
        if durable {
            let ticket = self.submit(commit, finish);
            for no in touched {
                if let Some(entry) = self.cache.get(no) {
                    entry.ticket = ticket;
                }
            }
        } else {
            self.after(last_ticket, finish);
        }
    }

    fn install(&mut self, transition: Transition) -> RunNo {
        let Transition { run, created, batches, .. } = transition;
        let no = RunNo(run.id.no);
        match self.cache.get(no) {
            Some(entry) => {
                entry.run = run;
                batches.into_iter().for_each(|b| entry.tail.push(b));
            }
            None => {
                let mut tail = Tail::default();
                batches.into_iter().for_each(|b| tail.push(b));
                let durable = self.core.committer.durable();
                self.cache.insert(run, tail, 0, created, durable);
            }
        }
        no
    }

    /// Hands a commit over; `finish` is called when it is durable. A caller of a commit that
    /// failed gets no answer, which it reads as "unavailable".
    fn submit(&self, commit: Commit, finish: impl FnOnce() + Send + 'static) -> u64 {
        let core = self.core.clone();
        let (lane, generation) = (self.lane, self.generation);
        self.core.committer.submit(
            lane,
            generation,
            commit,
            Box::new(move |result| match result {
                Ok(()) => finish(),
                Err(error) => {
                    tracing::error!(%error, "a commit failed; its runs are read again from the store");
                    core.shards.send(lane, Message::Failed(generation));
                }
            }),
        )
    }

    /// Calls `finish` once the commit with this ticket is durable.
    fn after(&self, ticket: u64, finish: impl FnOnce() + Send + 'static) {
        if ticket <= self.core.committer.durable() {
            finish();
        } else {
            self.submit(Commit::default(), finish);
        }
    }

    fn answer<T: Send + 'static>(&self, result: Result<Done<T>, Error>, reply: Reply<T>) {
        let _ = reply.send(result);
    }

    /// A run's wake-up time has come.
    fn wake(&mut self, owner: &RunIdentity) {
        let Ok(namespace) = self.core.namespaces.by_id(&owner.namespace) else { return };
        match self.load(owner.run, false) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, workflow_id = %owner.workflow_id, "a due run cannot be read; trying again in a second");
                let (core, owner) = (self.core.clone(), owner.clone());
                self.core.runtime.spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    core.shards.wake(owner);
                });
                return;
            }
        }
        let Some(run) = self.cache.get(owner.run).map(|e| e.run.clone()) else { return };
        let outcome = self.contain(&namespace, &owner.workflow_id, |cx| Ok(tidemill_engine::deadline::fire(&run, cx)));
        if let Ok(outcome) = outcome {
            self.apply::<()>(outcome, &namespace, Some(owner.run), None);
        }
    }

    pub(super) fn delete(&mut self, owner: &RunIdentity, reply: oneshot::Sender<Result<(), Error>>) {
        self.cache.remove(owner.run);
        self.core.waiters.run_dropped(owner.run);
        self.core.waiters.history_grew(owner.run, -1);
        let commit = Commit { deletes: vec![owner.run], ..Default::default() };
        self.submit(commit, move || {
            let _ = reply.send(Ok(()));
        });
    }
}

fn not_found(target: &Target) -> Error {
    Error::not_found(match target.run_id {
        None => format!("workflow not found for ID: {}", target.workflow_id),
        Some(run_id) => format!(
            "workflow execution not found for workflow ID {:?} and run ID {:?}",
            target.workflow_id,
            tidemill_engine::ids::format_uuid(&run_id)
        ),
    })
}

fn unavailable(error: tidemill_store::Error) -> Error {
    Error::Unavailable(error.to_string())
}

/// A run and the first part of its history, from its records.
fn rebuild(stored: StoredRun) -> Result<(Run, Tail), Error> {
    let broken = |e: prost::DecodeError| Error::DataLoss(format!("run {} cannot be decoded: {e}", stored.owner.run.0));
    let first = decode_batch(&stored.first_batch).map_err(broken)?;
    let started: HistoryEvent =
        first.events.first().cloned().ok_or_else(|| Error::DataLoss("a run's history is empty".into()))?;
    let rows = stored.state.iter().filter_map(|r| r.value.as_ref().map(|v| (r.kind, r.id, &v[..])));
    let mut run = Run::load(run_id(&stored.owner), Arc::new(started), rows).map_err(broken)?;
    run.core.stored_due = stored.due.unwrap_or(0);
    let mut tail = Tail::default();
    if first.last_event_id == run.last_event_id() {
        tail.push(Arc::new(first));
    }
    Ok((run, tail))
}

/// A stored batch with its events.
pub(crate) fn decode_batch(batch: &HistoryBatch) -> Result<tidemill_engine::Batch, prost::DecodeError> {
    let history = History::decode(batch.bytes.clone())?;
    Ok(tidemill_engine::Batch {
        first_event_id: batch.first_event_id,
        last_event_id: batch.last_event_id,
        events: history.events,
        bytes: batch.bytes.clone(),
    })
}

