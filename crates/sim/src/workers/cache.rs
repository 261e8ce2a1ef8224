//! What a worker keeps of the runs whose tasks it has done: their histories. It asks that their next tasks
//! be sent to a queue of its own, with what came since alone.
//!
//! A worker that dies takes this with it, and its queue: the next one has another.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::TaskQueueKind;
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use tidemill_proto::api::workflowservice::v1::*;
use tokio::sync::Notify;

use super::decide::millis;
use crate::clients::{QUEUE, pages};
use crate::life::Link;

/// How long a task waits for the worker that it is for, in milliseconds.
pub(crate) const STICKY_TIMEOUT: i64 = 3_000;

#[derive(Default)]
pub(crate) struct Cache {
    /// How often the worker died before.
    life: u64,
    died: Arc<Notify>,
    runs: BTreeMap<String, Vec<HistoryEvent>>,
}

/// A worker in one of its lives.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    life: u64,
}

impl Worker {
    pub(super) fn now(link: &Link, number: usize) -> Self {
        let life = link.world.with(|shared| shared.caches[number].life);
        Worker { number, life }
    }

    pub(super) fn lives(self, link: &Link) -> bool {
        self == Self::now(link, self.number)
    }

    /// Done when the worker dies after this call.
    pub(super) fn death(self, link: &Link) -> impl Future<Output = ()> + use<> {
        let died = link
            .world
            .with(|shared| shared.caches[self.number].died.clone());
        died.notified_owned()
    }

    pub(super) fn dies(self, link: &Link) {
        link.world.say(format_args!("worker {} died", self.number));
        link.world.with(|shared| {
            let cache = &mut shared.caches[self.number];
            cache.life += 1;
            cache.runs.clear();
            cache.died.notify_waiters();
        });
    }

    pub(super) fn queue(self) -> Option<TaskQueue> {
        Some(TaskQueue {
            name: format!("sticky-{}-{}", self.number, self.life),
            kind: TaskQueueKind::Sticky as i32,
            normal_name: QUEUE.into(),
        })
    }

    /// Where the next task of a run is to be sent.
    pub(super) fn wish(self, link: &Link) -> Option<StickyExecutionAttributes> {
        let wish = StickyExecutionAttributes {
            worker_task_queue: self.queue(),
            schedule_to_start_timeout: millis(STICKY_TIMEOUT),
        };
        link.world.plan.sticky.then_some(wish)
    }

    /// A task was done: its worker knows the history up to its start.
    pub(super) fn keep(self, link: &Link, run: &str, events: &[HistoryEvent]) {
        if link.world.plan.sticky && self.lives(link) {
            link.world.with(|shared| {
                let cache = &mut shared.caches[self.number];
                cache.runs.insert(run.to_owned(), events.to_vec());
            });
        }
    }

    /// The whole history that a task is about.
    pub(super) async fn history(
        self,
        link: &Link,
        task: &PollWorkflowTaskQueueResponse,
    ) -> Result<Vec<HistoryEvent>, Error> {
        let run = task.workflow_execution.clone().unwrap_or_default();
        let mut events = task.history.clone().unwrap_or_default().events;
        let token = task.next_page_token.clone();
        if !token.is_empty() {
            let request = GetWorkflowExecutionHistoryRequest {
                next_page_token: token,
                ..Default::default()
            };
            events.extend(pages(link, &run.workflow_id, &run.run_id, request).await?);
        }
        let first = events.first().map(|event| event.event_id);
        if first == Some(1) {
            return Ok(events);
        }
        // A query alone comes without a history: what the worker has seen is all there is.
        let needed = first.map_or(task.previous_started_event_id, |first| first - 1);
        let needed = usize::try_from(needed).unwrap_or(0);
        let known = link.world.with(|shared| {
            let cache = &shared.caches[self.number];
            let known = cache
                .runs
                .get(&run.run_id)
                .filter(|_| self.life == cache.life);
            known
                .and_then(|known| known.get(..needed))
                .map(<[_]>::to_vec)
        });
        let mut all = match known {
            Some(known) => known,
            None => {
                let request = GetWorkflowExecutionHistoryRequest::default();
                pages(link, &run.workflow_id, &run.run_id, request).await?
            }
        };
        if first.is_some() {
            all.truncate(needed);
        }
        all.extend(events);
        Ok(all)
    }
}
