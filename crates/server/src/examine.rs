//! An examination for operators: what the store says of its data, and how each open run goes on.
//!
//! It works on a store that nobody serves, too, and then says nothing of what time alone has made late.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tidemill_engine::model::TaskPlace;
use tidemill_engine::progress::{Outlook, Stored, outlook};
use tidemill_engine::{Run, StartFacts, TaskKind, Time};
use tidemill_proto::maintenance as op;
use tidemill_store::{
    Error, NamespaceId, QueueName, RunIdentity, RunNo, Size, Store, StoredRun, TaskRow,
};

use crate::commit::WORKFLOW_QUEUE;
use crate::core::run_id;

/// Runs that are looked at before the next are read.
const PAGE: usize = 500;
const STUCK_MAX: usize = 100;
/// Wake-ups that are counted; so many that are late say enough.
const OVERDUE_MAX: usize = 10_000;
/// So much later than it should, a run is woken under load.
const LATE: std::time::Duration = std::time::Duration::from_secs(60);

/// What is known of a store that is being served.
#[derive(Clone, Debug)]
pub struct Serving {
    pub now: Time,
    /// Queues with a backlog that nobody polls.
    pub unattended: BTreeSet<QueueName>,
}

/// Examines a store. Damage is a finding; an error means that nothing could be looked at.
pub fn examine(
    store: &dyn Store,
    request: &op::ExamineRequest,
    serving: Option<&Serving>,
) -> Result<op::Examination, Error> {
    let found = store.examine(!request.quick)?;
    let mut examination = op::Examination {
        data: found
            .path
            .map_or_else(|| "memory".to_owned(), |path| path.display().to_string()),
        format: found.format,
        page_bytes: found.page_bytes,
        bytes: found.bytes,
        free_bytes: found.free_bytes,
        checksums: found.checksums,
        beside: found.beside.into_iter().map(size).collect(),
        unapplied: found.unapplied,
        tables: found.tables.into_iter().map(size).collect(),
        complete: !request.quick,
        damage: found.damage,
        runs_open: found.runs_open,
        runs_closed: found.runs_closed,
        effects: found.effects,
        ..Default::default()
    };
    let names = match store.namespaces() {
        Ok(records) => records.into_iter().map(|n| (n.id, n.name)).collect(),
        Err(error) => {
            examination.damage.push(format!("namespaces: {error}"));
            HashMap::new()
        }
    };
    let mut look = Look {
        store,
        serving,
        names,
        stuck_max: match request.runs_max as usize {
            0 => STUCK_MAX,
            most => most,
        },
        examination,
    };
    if let Err(error) = look.queues() {
        look.examination.damage.push(format!("tasks: {error}"));
    }
    if let Err(error) = look.runs() {
        look.examination.damage.push(format!("executions: {error}"));
    }
    if let Some(serving) = serving
        && let Err(error) = look.overdue(serving.now)
    {
        look.examination.damage.push(format!("due: {error}"));
    }
    Ok(look.examination)
}

fn size(size: Size) -> op::Size {
    op::Size {
        name: size.name,
        bytes: size.bytes,
    }
}

struct Look<'a> {
    store: &'a dyn Store,
    serving: Option<&'a Serving>,
    names: HashMap<NamespaceId, String>,
    stuck_max: usize,
    examination: op::Examination,
}

impl Look<'_> {
    fn name_of(&self, namespace: &NamespaceId) -> String {
        let unnamed = || tidemill_engine::ids::format_uuid(namespace);
        self.names.get(namespace).cloned().unwrap_or_else(unnamed)
    }

    fn queues(&mut self) -> Result<(), Error> {
        let now = self.serving.map(|serving| serving.now);
        let mut queues = Vec::new();
        for queue in self.store.queues_with_tasks()? {
            let (backlog, oldest) = self.store.count_tasks(&queue)?;
            let age = now.zip(oldest).map(|(now, oldest)| now.since(Time(oldest)));
            let unattended = |serving: &Serving| serving.unattended.contains(&queue);
            queues.push((
                oldest,
                op::Queue {
                    namespace: self.name_of(&queue.namespace),
                    name: queue.name.to_string(),
                    kind: i32::from(queue.kind),
                    backlog,
                    backlog_age_ms: age.map_or(0, |age| age.as_millis() as i64),
                    unattended: self.serving.is_some_and(unattended),
                    ..Default::default()
                },
            ));
        }
        queues.sort_by_key(|(oldest, _)| *oldest);
        self.examination.queues = queues.into_iter().map(|(_, queue)| queue).collect();
        Ok(())
    }

    fn overdue(&mut self, now: Time) -> Result<(), Error> {
        let until = now.0 - LATE.as_nanos() as i64;
        let first = (i64::MIN, RunNo(0));
        let late = self.store.due_runs(first, until, OVERDUE_MAX)?;
        self.examination.overdue = late.len() as i64;
        if let Some((oldest, _)) = late.first() {
            self.examination.overdue_ms = now.since(Time(*oldest)).as_millis() as i64;
        }
        Ok(())
    }

    fn runs(&mut self) -> Result<(), Error> {
        let mut after = RunNo(0);
        loop {
            let page = self.store.open_runs(after, PAGE)?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.run;
            for run in &page {
                match self.run(run) {
                    Ok(()) => {}
                    // One that cannot be read does not hide the others.
                    Err(Error::Corrupt(what)) => {
                        let reason = format!("it cannot be read: {what}");
                        self.stuck(run, String::new(), vec![reason]);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn run(&mut self, identity: &RunIdentity) -> Result<(), Error> {
        // Deleted or closed meanwhile, it has nothing to tell.
        let Some(stored) = self.store.load_run(identity.run)? else {
            return Ok(());
        };
        let last = self
            .store
            .read_history(identity.run, 1, i64::MAX, 1, true)?;
        let beside = beside(&stored, last.first().map_or(0, |batch| batch.last_event_id));
        let mut reasons = self.unattended(&stored.tasks);
        let run = rebuild(&stored)?;
        if run.last_event_id() != beside.last_event_id && self.has_moved(identity, &run)? {
            return Ok(());
        }
        match outlook(&run, &beside, self.serving.map(|serving| serving.now)) {
            Outlook::GoesOn => {}
            Outlook::WaitsOutside => self.examination.runs_waiting_outside += 1,
            Outlook::Stuck(obstacles) => {
                reasons.extend(obstacles.iter().map(ToString::to_string));
            }
        }
        if !reasons.is_empty() {
            self.stuck(identity, run.workflow_type().to_owned(), reasons);
        }
        Ok(())
    }

    /// State and history are two reads: whether the run went on between them.
    fn has_moved(&self, identity: &RunIdentity, before: &Run) -> Result<bool, Error> {
        let Some(stored) = self.store.load_run(identity.run)? else {
            return Ok(true);
        };
        Ok(rebuild(&stored)?.core.transitions != before.core.transitions)
    }

    fn unattended(&self, tasks: &[TaskRow]) -> Vec<String> {
        let Some(serving) = self.serving else {
            return Vec::new();
        };
        let waits_in_vain = tasks
            .iter()
            .filter(|task| serving.unattended.contains(&task.key.queue));
        waits_in_vain
            .map(|task| {
                let queue = &task.key.queue;
                let what = match queue.kind {
                    WORKFLOW_QUEUE => "its workflow task".to_owned(),
                    _ => format!("an activity (event {})", task.scheduled_event_id),
                };
                let waited = serving.now.since(Time(task.created)).as_secs();
                format!(
                    "{what} has waited for {waited} s in queue {}, which nobody polls: start a worker",
                    queue.name
                )
            })
            .collect()
    }

    fn stuck(&mut self, run: &RunIdentity, workflow_type: String, reasons: Vec<String>) {
        self.examination.runs_stuck += 1;
        if self.examination.stuck.len() < self.stuck_max {
            let named = op::StuckRun {
                namespace: self.name_of(&run.namespace),
                workflow_id: run.workflow_id.to_string(),
                run_id: run_id(run).run_id.to_string(),
                workflow_type,
                reasons,
            };
            self.examination.stuck.push(named);
        }
    }
}

/// The run of these records; unlike a shard, it takes nothing in them for granted.
fn rebuild(stored: &StoredRun) -> Result<Run, Error> {
    let corrupt = |error: prost::DecodeError| Error::Corrupt(error.to_string());
    let started = StartFacts::read(&stored.first_batch.bytes).map_err(corrupt)?;
    let started = started.ok_or_else(|| Error::Corrupt("its first event is no start".into()))?;
    let rows = stored
        .state
        .iter()
        .filter_map(|row| Some((row.kind, row.id, &**row.value.as_ref()?)));
    Run::load(run_id(&stored.owner), Arc::new(started), rows).map_err(corrupt)
}

fn beside(stored: &StoredRun, last_event_id: i64) -> Stored {
    let place = |task: &TaskRow| {
        let kind = match task.key.queue.kind {
            WORKFLOW_QUEUE => TaskKind::Workflow,
            _ => TaskKind::Activity,
        };
        let place = TaskPlace {
            queue: task.key.queue.name.to_string(),
            priority: u32::from(task.key.priority),
            seq: task.key.seq,
        };
        (kind, place)
    };
    Stored {
        due: stored.due.map(Time),
        tasks: stored.tasks.iter().map(place).collect(),
        last_event_id,
        effects: stored.outbox.len(),
    }
}
