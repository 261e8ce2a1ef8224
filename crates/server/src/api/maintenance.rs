//! What operators ask, beside Temporal's protocol.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use tidemill_engine::{Error, Time};
use tidemill_proto::maintenance as op;

use crate::Server;
use crate::core::{blocking, now, read_failed};
use crate::examine::{Serving, examine};
use crate::matching::QueueSummary;

/// A queue that nobody polled for so long has no poller. Workers poll again at once, so that a shorter
/// time would do; a worker that was just started again is not worth an alarm.
const UNATTENDED_AFTER: Duration = Duration::from_secs(30);

impl Server {
    /// All queues that are known, by namespace and name.
    pub fn list_queues(&self, request: &op::ListQueuesRequest) -> op::ListQueuesResponse {
        let now = now();
        let mut queues: Vec<op::Queue> = self
            .core
            .matching
            .queues()
            .iter()
            .map(|summary| self.queue(summary, now))
            .filter(|queue| request.namespace.is_empty() || queue.namespace == request.namespace)
            .filter(|queue| queue.unattended || !request.unattended_only)
            .collect();
        queues
            .sort_by(|a, b| (&a.namespace, &a.name, a.kind).cmp(&(&b.namespace, &b.name, b.kind)));
        op::ListQueuesResponse {
            queues,
            unattended_after_ms: UNATTENDED_AFTER.as_millis() as i64,
        }
    }

    fn queue(&self, summary: &QueueSummary, now: Time) -> op::Queue {
        let namespaces = &self.core.namespaces;
        let id = tidemill_engine::ids::format_uuid(&summary.queue.namespace);
        let namespace = namespaces.by_id_text(&id).map(|found| found.name.clone());
        op::Queue {
            namespace: namespace.unwrap_or(id),
            name: summary.queue.name.to_string(),
            kind: i32::from(summary.queue.kind),
            sticky: summary.sticky,
            backlog: summary.backlog_count,
            backlog_age_ms: summary.backlog_age.as_millis() as i64,
            polls: summary.polls as i64,
            last_poll_ms: summary
                .last_poll
                .map(|at| now.since(Time(at)).as_millis() as i64),
            unattended: is_unattended(summary, now),
        }
    }

    /// Examines the data that is being served.
    pub async fn examine(&self, request: op::ExamineRequest) -> Result<op::Examination, Error> {
        let queues = self.core.matching.queues();
        let unattended: BTreeSet<_> = queues
            .into_iter()
            .filter(|queue| is_unattended(queue, now()))
            .map(|queue| queue.queue)
            .collect();
        // Whatever was answered before is seen.
        self.core.barrier().await;
        let serving = Serving {
            now: now(),
            unattended,
        };
        let store = self.core.store.clone();
        read(move || examine(&*store, &request, Some(&serving))).await
    }

    /// A copy of all data as one file without a name, which ends with its handle.
    pub async fn backup(&self) -> Result<File, Error> {
        self.core.barrier().await;
        let store = self.core.store.clone();
        read(move || store.backup()).await
    }
}

fn is_unattended(queue: &QueueSummary, now: Time) -> bool {
    let absent = queue
        .last_poll
        .is_none_or(|at| now.since(Time(at)) >= UNATTENDED_AFTER);
    // What a sticky queue holds goes to the normal one by itself.
    queue.backlog_count > 0 && queue.polls == 0 && absent && !queue.sticky
}

async fn read<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, tidemill_store::Error> + Send + 'static,
) -> Result<T, Error> {
    match blocking(call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(read_failed(error)),
        Err(error) => Err(Error::Internal(error.to_string())),
    }
}
