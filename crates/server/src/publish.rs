//! What follows a durable commit: tasks are offered, those who wait are told, effects on other
//! runs are carried out.

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::{Effect, OutboxEntry, Time, Transition, UpdateEvent};
use tidemill_store::{QueueName, RunIdentity, RunNo, StoredTask, TaskKey};
use tokio::time::Instant;

use crate::commit::{WORKFLOW_QUEUE, queue_kind, task_row};
use crate::core::{Core, identity};
use crate::matching::SpeculativeTask;
use crate::namespaces::Namespace;
use crate::waiters::QueryEvent;

/// Everything that some transitions want to have told, in plain form.
pub(crate) struct Published {
    namespace: Namespace,
    runs: Vec<RunNotice>,
}

struct RunNotice {
    run: RunIdentity,
    grew: bool,
    closed: bool,
    due: Option<Time>,
    added: Vec<Added>,
    removed: Vec<TaskKey>,
    outbox: Vec<OutboxEntry>,
    effects: Vec<Effect>,
}

struct Added {
    task: StoredTask,
    /// For a task on a sticky queue: where it goes when the queue's worker has gone.
    normal_queue: Option<QueueName>,
}

/// How long a speculative task is offered at most; the run's own timer is shorter.
const SPECULATIVE_MAX: Duration = Duration::from_secs(60);

/// Takes out of the transitions what is told; the runs, rows and batches stay in them.
pub(crate) fn prepare(transitions: &mut [Transition], namespace: &Namespace) -> Published {
    let runs = transitions.iter_mut().map(notice).collect();
    Published {
        namespace: namespace.clone(),
        runs,
    }
}

fn notice(t: &mut Transition) -> RunNotice {
    let run = identity(&t.run.id);
    let queue = |name: &str, kind| QueueName {
        namespace: run.namespace,
        name: Arc::from(name),
        kind,
    };
    RunNotice {
        grew: !t.batches.is_empty(),
        closed: !t.run.is_open(),
        due: t.due.flatten(),
        added: t
            .tasks_added
            .iter()
            .map(|task| Added {
                task: StoredTask {
                    task: task_row(&t.run, task),
                    owner: run.clone(),
                },
                normal_queue: task
                    .sticky
                    .then(|| queue(&task.normal_queue, queue_kind(task.kind))),
            })
            .collect(),
        removed: t
            .tasks_removed
            .iter()
            .map(|(kind, place)| TaskKey {
                queue: queue(&place.queue, queue_kind(*kind)),
                priority: place.priority as u8,
                seq: place.seq,
            })
            .collect(),
        outbox: std::mem::take(&mut t.outbox_added),
        effects: std::mem::take(&mut t.effects),
        run,
    }
}

impl Published {
    /// Tells the world. Only called once the commit is durable.
    pub(crate) fn publish(self, core: &Arc<Core>) {
        for notice in self.runs {
            let RunNotice {
                run,
                grew,
                closed,
                due,
                added,
                removed,
                outbox,
                effects,
            } = notice;
            for key in &removed {
                core.matching.remove(key);
            }
            for Added { task, normal_queue } in added {
                match normal_queue {
                    Some(normal) if !core.matching.sticky_available(&task.task.key.queue) => {
                        core.matching.add_to(&normal, task);
                    }
                    _ => {
                        core.matching.add(task);
                    }
                }
            }
            if let Some(at) = due {
                core.timers.arm(run.clone(), at);
            }
            if grew {
                core.waiters.history_grew(run.run, closed);
            }
            for effect in effects {
                tell(core, &run, effect);
            }
            for entry in outbox {
                crate::outbox::spawn(core, self.namespace.clone(), run.clone(), entry);
            }
        }
    }
}

fn tell(core: &Arc<Core>, run: &RunIdentity, effect: Effect) {
    match effect {
        Effect::Speculative {
            queue,
            normal_queue,
            sticky,
            priority,
            scheduled_id,
            stamp,
        } => {
            let name = |n: String| QueueName {
                namespace: run.namespace,
                name: n.into(),
                kind: WORKFLOW_QUEUE,
            };
            let sticky_queue = name(queue);
            let queue = if sticky && core.matching.sticky_available(&sticky_queue) {
                sticky_queue
            } else {
                name(normal_queue)
            };
            let task = SpeculativeTask {
                owner: run.clone(),
                scheduled_event_id: scheduled_id,
                stamp,
                priority,
                deadline: Instant::now() + SPECULATIVE_MAX,
            };
            core.matching.add_transient(&queue, task);
        }
        Effect::QueryAnswered { id, result } => {
            core.waiters.query_event(&id, QueryEvent::Answered(result))
        }
        Effect::QueryReleased { id } => core.waiters.query_event(&id, QueryEvent::Released),
        Effect::QueryFailed { id, error } => {
            core.waiters.query_event(&id, QueryEvent::Failed(error))
        }
        Effect::Update { update_id, event } => tell_update(core, run.run, &update_id, event),
    }
}

fn tell_update(core: &Arc<Core>, run: RunNo, update_id: &str, event: UpdateEvent) {
    core.waiters.update_event(run, update_id, &event);
}
