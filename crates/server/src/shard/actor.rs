//! One shard: takes operations in order, holds runs, hands commits to the committer.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemill_engine::{Cx, Error, Outcome, Run, StartFacts, Time, Transition};
use tidemill_store::committer::OnDone;
use tidemill_store::{Commit, RunIdentity, RunNo, StoredRun};
use tokio::sync::{mpsc, oneshot};

use super::cache::{Cache, TAIL_BYTES, Tail};
use super::{Done, Target};
use crate::core::{Core, identity, now, read_failed, run_id, stopping};
use crate::namespaces::Namespace;
use crate::publish;

pub(crate) enum Message {
    Job(Box<dyn FnOnce(&mut Actor) + Send>),
    /// A run, and the time that it wanted to be woken at.
    Wake(RunIdentity, Time),
    /// A commit of this generation failed.
    Failed(u64, Arc<tidemill_store::Error>),
    Stop,
}

/// A run as an operation left it, with its newest history.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) run: Arc<Run>,
    pub(crate) tail: Tail,
}

pub(crate) struct Actor {
    pub(super) core: Arc<Core>,
    lane: usize,
    generation: u64,
    cache: Cache,
    /// The shard numbers its commits; this is the last number.
    submitted: u64,
    /// Commits up to this number are durable, those after it are not or not yet: a failed one does
    /// not count, so nothing that rests on it is shown before the shard learns of the failure.
    durable: Arc<AtomicU64>,
    /// Runs whose deletion may not be durable yet, with its number: the store may still have them.
    deleted: HashMap<RunNo, u64>,
    /// How long to wait with what is tried again after a failure.
    pause: Duration,
    /// `durable` at the last failure.
    durable_at_failure: u64,
}

type Reply<T> = oneshot::Sender<Result<Done<T>, Error>>;

const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MOST: Duration = Duration::from_secs(30);

impl Actor {
    pub(super) fn new(core: Arc<Core>, lane: usize, cache_bytes: usize) -> Self {
        Self {
            core,
            lane,
            generation: 0,
            cache: Cache::new(cache_bytes),
            submitted: 0,
            durable: Arc::default(),
            deleted: HashMap::new(),
            pause: PAUSE_FIRST,
            durable_at_failure: 0,
        }
    }

    pub(super) async fn run(mut self, mut mailbox: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            if matches!(message, Message::Stop) {
                return;
            }
            // What the engine does is contained closer to it. This is for all else: a shard that
            // ends would take all its runs along.
            if catch_unwind(AssertUnwindSafe(|| self.handle(message))).is_err() {
                self.core.metrics.contained_failures.inc();
                tracing::error!(
                    shard = self.lane,
                    "an operation panicked; its caller gets no answer"
                );
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Job(job) => job(self),
            Message::Wake(run, at) => self.wake(run, at),
            Message::Failed(generation, error) => self.reload(generation, &error),
            Message::Stop => {}
        }
    }

    fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// A commit failed: nothing in memory can be trusted, the store is asked again.
    fn reload(&mut self, generation: u64, error: &tidemill_store::Error) {
        if generation != self.generation {
            return;
        }
        self.generation += 1;
        self.deleted.clear();
        let durable = self.durable();
        let mut lost = Vec::new();
        for (run, commit) in self.cache.clear() {
            self.core.waiters.run_dropped(RunNo(run.id.no));
            if commit > durable {
                lost.push(identity(&run.id));
            }
        }
        tracing::error!(%error, shard = self.lane, runs = lost.len(), "a commit failed; runs are read again from the store");
        self.pause = if durable == self.durable_at_failure {
            (self.pause * 2).min(PAUSE_MOST)
        } else {
            PAUSE_FIRST
        };
        self.durable_at_failure = durable;
        // A wake-up may have come while the run in memory was ahead of the store: then nothing
        // else would bring it again.
        self.wake_later(lost);
    }

    /// Looks at runs after a pause.
    fn wake_later(&self, runs: Vec<RunIdentity>) {
        if runs.is_empty() {
            return;
        }
        let (core, pause) = (self.core.clone(), self.pause);
        self.core.runtime.spawn(async move {
            if core.stop.sleep(pause).await {
                runs.into_iter()
                    .for_each(|run| core.shards.wake(run, now()));
            }
        });
    }

    pub(super) fn on_run<T: Send + 'static>(
        &mut self,
        target: &Target,
        operation: impl FnOnce(&Run, &Cx<'_>) -> Result<Outcome<T>, Error>,
        reply: Reply<T>,
    ) {
        // Whoever asked has gone: a task that nobody would get must not start.
        if reply.is_closed() {
            return;
        }
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
        if reply.is_closed() {
            return;
        }
        match self.find(target) {
            Ok(Some(no)) => self.operate(
                no,
                &target.namespace,
                |run, cx| operation(Some(run), cx),
                reply,
            ),
            Ok(None) => {
                let outcome = self.contain(&target.namespace, &target.workflow_id, |cx| {
                    operation(None, cx)
                });
                match outcome {
                    Ok(outcome) => self.apply(
                        outcome,
                        &target.namespace,
                        &target.workflow_id,
                        None,
                        Some(reply),
                    ),
                    Err(error) => self.answer(Err(error), reply),
                }
            }
            Err(error) => self.answer(Err(error), reply),
        }
    }

    /// The run that a target means, loaded; `None` when there is none.
    fn find(&mut self, target: &Target) -> Result<Option<RunNo>, Error> {
        let namespace = target.namespace.id;
        let Some(run_id) = target.run_id else {
            if let Some(no) = self.cache.current(namespace, &target.workflow_id) {
                return Ok(Some(no));
            }
            let found = self
                .core
                .store
                .current_run(&namespace, &target.workflow_id)
                .map_err(read_failed)?;
            let Some(found) = found else { return Ok(None) };
            return Ok(self.load(found.run, true)?.then_some(found.run));
        };
        // Memory first: a run that was created a moment ago may not be in the store yet.
        if let Some((no, run)) = self.cache.by_run_id(&run_id) {
            let is_it =
                run.id.namespace_id == namespace && run.id.workflow_id == target.workflow_id;
            return Ok(is_it.then_some(no));
        }
        let found = self
            .core
            .store
            .find_run(&namespace, &target.workflow_id, &run_id)
            .map_err(read_failed)?;
        let Some(found) = found else { return Ok(None) };
        Ok(self.load(found.run, false)?.then_some(found.run))
    }

    /// Makes sure that a run is in memory; false when the store does not have it.
    fn load(&mut self, no: RunNo, is_current: bool) -> Result<bool, Error> {
        if self.cache.get(no).is_some() {
            if is_current {
                self.cache.set_current(no);
            }
            return Ok(true);
        }
        let durable = self.durable();
        if self
            .deleted
            .get(&no)
            .is_some_and(|deletion| *deletion > durable)
        {
            return Ok(false);
        }
        let Some(stored) = self.core.store.load_run(no).map_err(read_failed)? else {
            return Ok(false);
        };
        let (run, tail) = rebuild(stored)?;
        self.cache.insert(Arc::new(run), tail, is_current, durable);
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
        let run = entry.run.clone();
        let commit = entry.commit;
        match self.contain(namespace, &run.id.workflow_id, |cx| operation(&run, cx)) {
            Ok(outcome) => self.apply(
                outcome,
                namespace,
                &run.id.workflow_id,
                Some(no),
                Some(reply),
            ),
            // The error may rest on what is not durable yet: it waits like any answer.
            Err(error) => self.after(commit, move |durable| {
                let _ = reply.send(Err(durable.err().unwrap_or(error)));
            }),
        }
    }

    /// Calls the engine.
    pub(super) fn contain<T>(
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
        self.guard(namespace, workflow_id, || call(&cx))
    }

    /// A broken invariant is contained here: the run stays as it was.
    fn guard<R>(
        &self,
        namespace: &Namespace,
        workflow_id: &str,
        call: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            tracing::error!(
                namespace = namespace.name,
                workflow_id,
                what,
                "a broken invariant was contained: the run was rolled back"
            );
            self.core.metrics.contained_failures.inc();
            Err(Error::Internal(format!(
                "the engine broke an invariant: {what}"
            )))
        })
    }

    /// Takes an outcome over: the runs' next states into memory, the commit to the store, and
    /// what the world is told to behind it.
    fn apply<T: Send + 'static>(
        &mut self,
        outcome: Outcome<T>,
        namespace: &Namespace,
        workflow_id: &str,
        no: Option<RunNo>,
        reply: Option<Reply<T>>,
    ) {
        let Outcome {
            mut transitions,
            reply: answer,
        } = outcome;
        // Dropped without being handed over, the polls wait on.
        let matched = self.match_tasks(&mut transitions, namespace);
        let built = self.guard(namespace, workflow_id, || {
            let commit = crate::commit::commit(&transitions, namespace);
            Ok((commit, publish::prepare(&mut transitions, namespace)))
        });
        let (commit, published) = match built {
            Ok(built) => built,
            Err(error) => {
                if let Some(reply) = reply {
                    let _ = reply.send(Err(error));
                }
                return;
            }
        };
        let number = (!commit.is_empty()).then_some(self.submitted + 1);
        let mut rests_on = no.and_then(|no| self.cache.get(no)).map_or(0, |e| e.commit);
        // What was asked for is about the run that it made, if it made one.
        let mut viewed = no;
        for transition in transitions {
            let created = transition.created;
            let run = self.install(transition, number);
            if created || viewed.is_none() {
                viewed = Some(run);
            }
            rests_on = self
                .cache
                .get(run)
                .map_or(rests_on, |e| e.commit.max(rests_on));
        }
        let view = viewed.and_then(|no| self.view(no));
        let matched: Vec<_> = matched
            .into_iter()
            .filter_map(|matched| self.view(matched.run).map(|view| (matched, view)))
            .collect();
        let answer = answer.and_then(|value| {
            let view =
                view.ok_or_else(|| Error::Internal("an operation answered without a run".into()))?;
            Ok(Done { value, view })
        });
        let core = self.core.clone();
        let finish = move |durable: Result<(), Error>| {
            if durable.is_ok() {
                published.publish(&core);
                for (matched, view) in matched {
                    matched.hand_over(view);
                }
            }
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(durable.and(answer));
            }
        };
        if commit.is_empty() {
            self.after(rests_on, finish);
        } else {
            self.submit(commit, finish);
        }
    }

    fn view(&mut self, no: RunNo) -> Option<View> {
        self.cache.get(no).map(|e| View {
            run: e.run.clone(),
            tail: e.tail.clone(),
        })
    }

    /// Takes a run's next state into memory. `number` is that of the commit which is about to be
    /// submitted. The run has it at once: room for another run of the same commit must not be made by
    /// dropping this one, which the store does not have yet.
    fn install(&mut self, transition: Transition, number: Option<u64>) -> RunNo {
        let Transition {
            run,
            created,
            batches,
            ..
        } = transition;
        let no = RunNo(run.id.no);
        let durable = self.durable();
        self.cache.put(run, &batches, created, durable);
        if let (Some(number), Some(entry)) = (number, self.cache.get(no)) {
            entry.commit = number;
        }
        no
    }

    /// Hands a commit over; `finish` is called when it is durable or has failed. Returns its number.
    fn submit(
        &mut self,
        commit: Commit,
        finish: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> u64 {
        self.submitted += 1;
        let number = self.submitted;
        let (core, durable) = (self.core.clone(), self.durable.clone());
        let (lane, generation) = (self.lane, self.generation);
        let on_done: OnDone = Box::new(move |result| match result {
            Ok(()) => {
                durable.fetch_max(number, Ordering::AcqRel);
                finish(Ok(()));
            }
            Err(error) => {
                let answer = failed_commit(&core, &error);
                // First of all, so that what the caller asks next meets a shard that knows.
                core.shards.send(lane, Message::Failed(generation, error));
                finish(Err(answer));
            }
        });
        let (committer, lone) = (&self.core.committer, &self.core.lone);
        if lone.may_commit() {
            committer.submit_here(lane, generation, commit, on_done);
        } else {
            committer.submit(lane, generation, commit, on_done);
        }
        lone.committed(number <= self.durable());
        number
    }

    /// Calls `finish` once the commit with this number is durable or has failed.
    fn after(&mut self, number: u64, finish: impl FnOnce(Result<(), Error>) + Send + 'static) {
        if number <= self.durable() {
            finish(Ok(()));
        } else {
            self.submit(Commit::default(), finish);
        }
    }

    /// Answers what rests on no run in memory. That a run is missing may rest on a deletion.
    fn answer<T: Send + 'static>(&mut self, result: Result<Done<T>, Error>, reply: Reply<T>) {
        let deletion = self.deleted.values().copied().max().unwrap_or(0);
        self.after(deletion, move |durable| {
            let _ = reply.send(durable.and(result));
        });
    }

    /// A run's wake-up time has come.
    fn wake(&mut self, owner: RunIdentity, at: Time) {
        if now() < at {
            // The clock was set back meanwhile: this wake-up would not come again.
            return self.core.timers.arm(owner, at);
        }
        let Ok(namespace) = self.core.namespaces.by_id(&owner.namespace) else {
            return;
        };
        match self.load(owner.run, false) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, workflow_id = %owner.workflow_id, "a due run cannot be read; it is tried again");
                return self.wake_later(vec![owner]);
            }
        }
        let Some(run) = self.cache.get(owner.run).map(|e| e.run.clone()) else {
            return;
        };
        let outcome = self.contain(&namespace, &owner.workflow_id, |cx| {
            Ok(tidemill_engine::deadline::fire(&run, cx))
        });
        if let Ok(outcome) = outcome {
            self.apply::<()>(
                outcome,
                &namespace,
                &owner.workflow_id,
                Some(owner.run),
                None,
            );
        }
    }

    pub(super) fn delete(
        &mut self,
        owner: &RunIdentity,
        reply: oneshot::Sender<Result<(), Error>>,
    ) {
        let run = owner.run;
        self.cache.remove(run);
        let core = self.core.clone();
        let commit = Commit {
            deletes: vec![run],
            ..Default::default()
        };
        let number = self.submit(commit, move |durable| {
            if durable.is_ok() {
                core.waiters.run_dropped(run);
                core.waiters.history_grew(run, true);
            }
            let _ = reply.send(durable);
        });
        let durable = self.durable();
        self.deleted.retain(|_, deletion| *deletion > durable);
        self.deleted.insert(run, number);
    }
}

/// What the caller of a commit that failed is told. It may be another's failure that took this one
/// along, so it is always worth another try.
fn failed_commit(core: &Core, error: &tidemill_store::Error) -> Error {
    if core.stop.has_begun() {
        return stopping();
    }
    Error::Unavailable(format!(
        "the change could not be stored, try again: {error}"
    ))
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

/// A run and the first part of its history, from its records.
fn rebuild(stored: StoredRun) -> Result<(Run, Tail), Error> {
    let broken = |e: prost::DecodeError| {
        Error::DataLoss(format!("run {} cannot be decoded: {e}", stored.owner.run.0))
    };
    let started = StartFacts::read(&stored.first_batch.bytes).map_err(broken)?;
    let started = started.ok_or_else(|| Error::DataLoss("a run's history has no start".into()))?;
    let rows = stored
        .state
        .iter()
        .filter_map(|r| r.value.as_ref().map(|v| (r.kind, r.id, &v[..])));
    let mut run = Run::load(run_id(&stored.owner), Arc::new(started), rows).map_err(broken)?;
    run.core.stored_due = stored.due.unwrap_or(0);
    let mut tail = Tail::default();
    if stored.first_batch.last_event_id == run.last_event_id() {
        tail.push(stored.first_batch, TAIL_BYTES, i64::MAX);
    }
    Ok((run, tail))
}
