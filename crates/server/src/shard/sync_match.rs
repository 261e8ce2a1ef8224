//! Starts tasks in the transition that adds them, for polls that wait for them already.
//!
//! The start is the same operation of the engine as for a task that was offered first, on the run as
//! the transition leaves it; what it changes is put behind the transition, and both are one commit.
//! So a task that meets a worker needs no row and no commit of its own. The poll is answered when
//! the commit is durable; when that fails, the poll waits on.

use tidemill_engine::activity::{self, StartActivity, StartedActivity};
use tidemill_engine::workflow_task::{self, Start, Started};
use tidemill_engine::{NewTask, Outcome, Run, TaskKind, Transition, ids};
use tidemill_store::{QueueName, RunNo};

use super::Done;
use super::actor::{Actor, View};
use crate::commit::queue_kind;
use crate::matching::Reservation;
use crate::namespaces::Namespace;

/// A task that has started in memory, and the poll that gets it.
pub(super) struct Matched {
    pub(super) run: RunNo,
    task: StartedTask,
    poll: Reservation,
}

enum StartedTask {
    Workflow(Started),
    Activity(StartedActivity),
}

impl Matched {
    /// Answers the poll: the start is durable.
    pub(super) fn hand_over(self, view: View) {
        match self.task {
            StartedTask::Workflow(value) => self.poll.fulfil(Done { value, view }),
            StartedTask::Activity(value) => self.poll.fulfil(Done { value, view }),
        }
    }
}

impl Actor {
    /// Starts those tasks that the transitions add and a poll waits for.
    pub(super) fn match_tasks(
        &self,
        transitions: &mut Vec<Transition>,
        namespace: &Namespace,
    ) -> Vec<Matched> {
        let mut matched = Vec::new();
        let mut at = 0;
        while at < transitions.len() {
            let mut unmatched = 0;
            while let Some(task) = transitions[at].tasks_added.get(unmatched) {
                let run = &transitions[at].run;
                let no = run.id.no;
                if transitions[at + 1..].iter().any(|t| t.run.id.no == no) {
                    // It is started as it is in the end, not half way.
                    break;
                }
                let Some((task, outcome, poll)) = self.start_for_poll(run, task, namespace) else {
                    unmatched += 1;
                    continue;
                };
                matched.push(Matched {
                    run: RunNo(no),
                    task,
                    poll,
                });
                for next in outcome {
                    if next.run.id.no == no {
                        transitions[at].then(next);
                    } else {
                        transitions.push(next);
                    }
                }
            }
            at += 1;
        }
        matched
    }

    fn start_for_poll(
        &self,
        run: &Run,
        task: &NewTask,
        namespace: &Namespace,
    ) -> Option<(StartedTask, Vec<Transition>, Reservation)> {
        let poll = self.reserve(run, task)?;
        let started = self.contain(namespace, &run.id.workflow_id, |cx| {
            let (scheduled_id, stamp) = (task.scheduled_id, task.stamp);
            let identity = poll.identity().to_owned();
            let request_id = ids::uuid(&self.core.ids);
            let worker_version = poll.worker().version_stamp();
            Ok(match task.kind {
                TaskKind::Workflow => {
                    let start = Start {
                        scheduled_id,
                        stamp,
                        identity,
                        request_id,
                        from_sticky: poll.sticky(),
                        worker_version,
                    };
                    workflow_task::start(run, &start, cx)?.map(StartedTask::Workflow)
                }
                TaskKind::Activity => {
                    let start = StartActivity {
                        scheduled_id,
                        stamp,
                        identity,
                        request_id,
                        worker_version,
                    };
                    activity::start(run, &start, cx)?.map(StartedTask::Activity)
                }
            })
        });
        match started {
            Ok(Outcome {
                transitions,
                reply: Ok(task),
            }) => Some((task, transitions, poll)),
            // Offered in the ordinary way, it comes to the same end there.
            Ok(Outcome { reply: Err(_), .. }) | Err(_) => None,
        }
    }

    /// The poll that is to get a task, as it would be when the task is offered: a sticky task goes to the
    /// normal queue when the worker of its own has gone.
    fn reserve(&self, run: &Run, task: &NewTask) -> Option<Reservation> {
        let matching = &self.core.matching;
        let priority = task.place.priority as u8;
        let queue = |name: &str| QueueName {
            namespace: run.id.namespace_id,
            name: name.into(),
            kind: queue_kind(task.kind),
        };
        let own = queue(&task.place.queue);
        matching.reserve(&own, priority).or_else(|| {
            let elsewhere = task.sticky && !matching.sticky_available(&own);
            elsewhere
                .then(|| matching.reserve(&queue(&task.normal_queue), priority))
                .flatten()
        })
    }
}
