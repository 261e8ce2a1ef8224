//! The inventory of workers, and workers that take their leave (contract 8.6).

use std::time::Duration;

use prost::Message;
use tidemill_engine::Error;
use tidemill_proto::api::worker::v1::{WorkerHeartbeat, WorkerInfo, WorkerListInfo};
use tidemill_proto::api::workflowservice::v1::{
    CountWorkersRequest, CountWorkersResponse, DescribeWorkerRequest, DescribeWorkerResponse,
    ListWorkersRequest, ListWorkersResponse, RecordWorkerHeartbeatRequest,
    RecordWorkerHeartbeatResponse, ShutdownWorkerRequest, ShutdownWorkerResponse,
};
use tidemill_store::QueueName;
use tokio::time::Instant;

use super::Call;
use crate::Server;
use crate::commit::WORKFLOW_QUEUE;
use crate::namespaces::Namespace;
use crate::sticky;
use crate::workers::{Query, Worker};

/// Workers in a page at most, and when the caller does not say.
const PAGE_MAX: usize = 1000;

/// How long a worker that leaves waits at most until its polls are answered.
const LEAVE: Duration = Duration::from_secs(1);

/// Where a list of workers goes on.
#[derive(Clone, PartialEq, Message)]
struct PageToken {
    /// The last worker of the page before.
    #[prost(string, tag = "1")]
    after: String,
    /// The query that the token belongs to.
    #[prost(string, tag = "2")]
    query: String,
}

impl Server {
    pub async fn record_worker_heartbeat(
        &self,
        namespace: &Namespace,
        request: RecordWorkerHeartbeatRequest,
        _call: Call,
    ) -> Result<RecordWorkerHeartbeatResponse, Error> {
        self.core
            .workers
            .record(namespace.id, request.worker_heartbeat, Instant::now());
        Ok(RecordWorkerHeartbeatResponse {})
    }

    /// Lists workers in the order of their instance keys. The server runs no workers of its own, so
    /// `include_system_workers` makes no difference.
    pub async fn list_workers(
        &self,
        namespace: &Namespace,
        request: ListWorkersRequest,
        _call: Call,
    ) -> Result<ListWorkersResponse, Error> {
        let query = Query::parse(&request.query)?;
        let after = after(&request.next_page_token, &request.query)?;
        let size = page_size(request.page_size);
        // One more than the page shows whether another follows.
        let mut workers = self.core.workers.list(
            namespace.id,
            &query,
            after.as_deref(),
            size + 1,
            Instant::now(),
        );
        let more = workers.len() > size;
        workers.truncate(size);
        let next_page_token = match workers.last().filter(|_| more) {
            Some(last) => PageToken {
                after: last.heartbeat.worker_instance_key.clone(),
                query: request.query,
            }
            .encode_to_vec(),
            None => Vec::new(),
        };
        #[expect(deprecated, reason = "clients still read `workers_info`")]
        Ok(ListWorkersResponse {
            workers: workers.iter().map(listed).collect(),
            workers_info: workers.iter().map(described).collect(),
            next_page_token,
        })
    }

    pub async fn count_workers(
        &self,
        namespace: &Namespace,
        request: CountWorkersRequest,
        _call: Call,
    ) -> Result<CountWorkersResponse, Error> {
        let query = Query::parse(&request.query)?;
        let count = self
            .core
            .workers
            .count(namespace.id, &query, Instant::now());
        Ok(CountWorkersResponse {
            count: i64::try_from(count).unwrap_or(i64::MAX),
        })
    }

    pub async fn describe_worker(
        &self,
        namespace: &Namespace,
        request: DescribeWorkerRequest,
        _call: Call,
    ) -> Result<DescribeWorkerResponse, Error> {
        let key = &request.worker_instance_key;
        let worker = self.core.workers.get(namespace.id, key, Instant::now());
        let worker = worker.ok_or_else(|| Error::NotFound(format!("Worker {key} not found")))?;
        Ok(DescribeWorkerResponse {
            worker_info: Some(described(&worker)),
        })
    }

    /// A worker begins to shut down: its polls end, those that were matched with their tasks and the
    /// others empty, and it is answered after them. Its sticky queue is given up, and what waited there
    /// goes to any worker.
    pub async fn shutdown_worker(
        &self,
        namespace: &Namespace,
        request: ShutdownWorkerRequest,
        call: Call,
    ) -> Result<ShutdownWorkerResponse, Error> {
        self.core.workers.shut_down(
            namespace.id,
            &request.worker_instance_key,
            request.worker_heartbeat,
            Instant::now(),
        );
        self.core
            .matching
            .end_polls_of(&request.worker_instance_key);
        if !request.sticky_task_queue.is_empty() {
            let queue = QueueName {
                namespace: namespace.id,
                name: request.sticky_task_queue.as_str().into(),
                kind: WORKFLOW_QUEUE,
            };
            let (core, namespace) = (self.core.clone(), namespace.clone());
            // Apart from the call: its caller may go away, and the tasks are in nobody's hands
            // until they are in their next queue.
            let moved = self.core.runtime.spawn(async move {
                for task in core.matching.unload(&queue) {
                    sticky::to_normal_queue(&core, &namespace, task).await;
                }
            });
            moved.await.map_err(|error| {
                Error::Internal(format!("a sticky queue was not given up: {error}"))
            })?;
        }
        let answered = self
            .core
            .matching
            .polls_answered(&request.worker_instance_key);
        let _ = tokio::time::timeout_at(self.wait_until(&call, LEAVE), answered).await;
        Ok(ShutdownWorkerResponse {})
    }

    /// Returns when the worker has begun to shut down, as it does for those of its polls that nothing is
    /// ever matched with.
    pub async fn worker_left(&self, instance: &str) {
        self.core.matching.left(instance).await;
    }
}

fn page_size(asked: i32) -> usize {
    match usize::try_from(asked) {
        Ok(size @ 1..=PAGE_MAX) => size,
        _ => PAGE_MAX,
    }
}

/// The key after which the list goes on; `None` for the first page.
fn after(token: &[u8], query: &str) -> Result<Option<String>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    match PageToken::decode(token) {
        Ok(token) if token.query == query && !token.after.is_empty() => Ok(Some(token.after)),
        _ => Err(Error::invalid("Invalid NextPageToken.")),
    }
}

fn described(worker: &Worker) -> WorkerInfo {
    let heartbeat = WorkerHeartbeat {
        status: worker.status as i32,
        ..(*worker.heartbeat).clone()
    };
    WorkerInfo {
        worker_heartbeat: Some(heartbeat),
    }
}

fn listed(worker: &Worker) -> WorkerListInfo {
    let beat = (*worker.heartbeat).clone();
    let host = beat.host_info.unwrap_or_default();
    WorkerListInfo {
        worker_instance_key: beat.worker_instance_key,
        worker_identity: beat.worker_identity,
        task_queue: beat.task_queue,
        deployment_version: beat.deployment_version,
        sdk_name: beat.sdk_name,
        sdk_version: beat.sdk_version,
        status: worker.status as i32,
        start_time: beat.start_time,
        host_name: host.host_name,
        worker_grouping_key: host.worker_grouping_key,
        process_id: host.process_id,
        plugins: beat.plugins,
        drivers: beat.drivers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_have_a_default_and_a_bound() {
        for (asked, size) in [
            (0, 1000),
            (-1, 1000),
            (1, 1),
            (1000, 1000),
            (1001, 1000),
            (i32::MAX, 1000),
        ] {
            assert_eq!(page_size(asked), size, "{asked}");
        }
    }

    #[test]
    fn tokens_belong_to_their_query() {
        let token = PageToken {
            after: "a".into(),
            query: "q".into(),
        }
        .encode_to_vec();
        assert_eq!(after(&token, "q"), Ok(Some("a".into())));
        assert_eq!(after(&[], "q"), Ok(None));
        let no_key = PageToken {
            query: "q".into(),
            ..Default::default()
        }
        .encode_to_vec();
        for (token, query) in [(&token[..], "other"), (b"garbage", "q"), (&no_key[..], "q")] {
            assert_eq!(
                after(token, query),
                Err(Error::invalid("Invalid NextPageToken.")),
                "{token:?}"
            );
        }
    }
}
