//! Asking the engine, Tidemill's or a Temporal server, for what it knows of queues and workers.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use tidemill_pipeline::device::Advertised;
use tidemill_pipeline::run::{TASK_QUEUE, WORKFLOW};
use tidemill_pipeline::size;
use tidemill_proto::api::common::v1::Payloads;
use tidemill_proto::api::enums::v1::{
    DescribeTaskQueueMode, PendingActivityState, TaskQueueKind, TaskQueueType, WorkerStatus,
};
use tidemill_proto::api::taskqueue::v1::{PollerInfo, TaskQueue, TaskQueueStats};
use tidemill_proto::api::worker::v1::{WorkerHeartbeat, WorkerListInfo};
use tidemill_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, DescribeTaskQueueResponse, DescribeWorkerRequest,
    DescribeWorkflowExecutionRequest, ListWorkersRequest, ListWorkflowExecutionsRequest,
};
use tidemill_proto::client::{self, Client, Code, Request, Status as Refusal};
use tidemill_proto::wkt;
use tokio::sync::OnceCell;

use super::TIMEOUT;
use super::report::{Class, Held, Poller, Queue, Status, Worker, class, class_of};

/// Calls side by side.
const AT_ONCE: usize = 8;
const PAGE: i32 = 500;
/// Workers that are looked at, and runs whose tasks are: enough to see what is wrong.
const WORKERS_MAX: usize = 2_000;
const RUNS_MAX: i32 = 100;
/// A clock may be so wrong before a worker that beats is taken for silent.
const SKEW_SECONDS: f64 = 5.0;
/// The interval of a worker that has not told it yet.
const INTERVAL_SECONDS: f64 = 60.0;

/// An engine to ask. It is connected to when it is first asked, and again when it was away.
pub(crate) struct Source {
    pub(crate) engine: String,
    pub(crate) namespace: String,
    client: OnceCell<Client>,
}

/// What to look at.
pub(crate) struct Asked<'a> {
    /// These classes, whether anything is known of them or not.
    pub(crate) classes: &'a [String],
    /// All others that something is known of.
    pub(crate) others: bool,
    /// What tasks that have begun wait for. This looks at runs, which costs.
    pub(crate) held: bool,
}

impl Source {
    pub(crate) fn new(engine: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self {
            engine: engine.into(),
            namespace: namespace.into(),
            client: OnceCell::new(),
        }
    }

    async fn client(&self) -> Result<Client, String> {
        let connect = || async {
            client::connect(&self.engine).await.map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                let cause = cause.unwrap_or_default();
                format!(
                    "the engine at {} is not reached: {error}{cause}. Start one with `tidemill \
                     up`, or name another with --engine.",
                    self.engine
                )
            })
        };
        self.client.get_or_try_init(connect).await.cloned()
    }

    /// The classes that were asked for, in the order of their names.
    pub(crate) async fn classes(&self, asked: &Asked<'_>) -> Result<Vec<Class>, String> {
        let workers = self.workers().await?;
        let held = match asked.held {
            true => self.pending().await?,
            false => Pending::default(),
        };
        let mut queues: BTreeSet<&str> = asked.classes.iter().map(String::as_str).collect();
        if asked.others {
            queues.extend(["cpu", "accelerator", TASK_QUEUE]);
            queues.extend(held.queues.iter().map(String::as_str));
        }
        // A queue that was asked for by its own name is no class with queues.
        let whole: BTreeSet<&str> = queues
            .iter()
            .copied()
            .filter(|q| class_of(q) == *q)
            .collect();
        let of_workers = workers.iter().map(|worker| worker.queue.as_str());
        queues.extend(of_workers.filter(|q| asked.others || whole.contains(class_of(q))));
        queues.extend(
            held.queues
                .iter()
                .map(String::as_str)
                .filter(|q| whole.contains(class_of(q))),
        );
        let queues: Vec<String> = queues.into_iter().map(str::to_owned).collect();
        let described = stream::iter(queues).map(|queue| self.queue(queue));
        let described: Vec<Queue> = described.buffered(AT_ONCE).try_collect().await?;

        let name_of = |queue: &Queue| match asked.classes.contains(&queue.queue) {
            true => queue.queue.clone(),
            false => class_of(&queue.queue).to_owned(),
        };
        let names: BTreeSet<String> = described.iter().map(name_of).collect();
        let classes = names.into_iter().map(|name| {
            let of_class = |queue: &&Queue| {
                queue.queue == name || (class_of(&name) == name && class_of(&queue.queue) == name)
            };
            let queues = described.iter().filter(of_class).cloned().collect();
            class(&name, &self.engine, queues, &workers, &held.held)
        });
        let known = |class: &Class| {
            asked.classes.contains(&class.class)
                || class.backlog > 0
                || class.pollers > 0
                || class.inventory.iter().any(|w| w.status != Status::Stopped)
        };
        Ok(classes.filter(known).collect())
    }

    async fn queue(&self, name: String) -> Result<Queue, String> {
        let name = name.as_str();
        let kind = match name == TASK_QUEUE {
            true => TaskQueueType::Workflow,
            false => TaskQueueType::Activity,
        };
        let mut client = self.client().await?;
        let answer = client.describe_task_queue(quick(default_mode(&self.namespace, name, kind)));
        let answer = answer.await.map_err(|refusal| self.refused(&refusal))?;
        let answer = answer.into_inner();
        if answer.stats.is_some() {
            return Ok(queue(name, answer));
        }
        // A server from before there were figures in this mode.
        let enhanced =
            client.describe_task_queue(quick(enhanced_mode(&self.namespace, name, kind)));
        let enhanced = enhanced.await.map_err(|refusal| self.refused(&refusal))?;
        Ok(queue_enhanced(name, &enhanced.into_inner()))
    }

    /// All workers that send heartbeats; none where the server has no inventory.
    async fn workers(&self) -> Result<Vec<Worker>, String> {
        let mut client = self.client().await?;
        let mut workers = Vec::new();
        let mut next_page_token = Vec::new();
        loop {
            let request = ListWorkersRequest {
                namespace: self.namespace.clone(),
                page_size: PAGE,
                next_page_token,
                ..Default::default()
            };
            let page = match client.list_workers(quick(request)).await {
                Ok(page) => page.into_inner(),
                Err(refusal) if refusal.code() == Code::Unimplemented => return Ok(Vec::new()),
                Err(refusal) => return Err(self.refused(&refusal)),
            };
            #[expect(
                deprecated,
                reason = "it saves a call for each worker where it is sent"
            )]
            let full = page.workers_info;
            match full.is_empty() {
                false => {
                    let beats = full.into_iter().filter_map(|info| info.worker_heartbeat);
                    workers.extend(beats.map(worker));
                }
                true => {
                    let described = stream::iter(page.workers).map(|info| self.worker(info));
                    let mut described = described.buffered(AT_ONCE);
                    while let Some(worker) = described.next().await {
                        workers.extend(worker?);
                    }
                }
            }
            next_page_token = page.next_page_token;
            if next_page_token.is_empty() || workers.len() >= WORKERS_MAX {
                return Ok(workers);
            }
        }
    }

    /// One worker; `None` when it has gone in the meantime.
    async fn worker(&self, info: WorkerListInfo) -> Result<Option<Worker>, String> {
        let request = DescribeWorkerRequest {
            namespace: self.namespace.clone(),
            worker_instance_key: info.worker_instance_key,
        };
        let mut client = self.client().await?;
        match client.describe_worker(quick(request)).await {
            Ok(answer) => {
                let described = answer.into_inner().worker_info;
                Ok(described.and_then(|info| info.worker_heartbeat).map(worker))
            }
            Err(refusal) if refusal.code() == Code::NotFound => Ok(None),
            Err(refusal) => Err(self.refused(&refusal)),
        }
    }

    /// Queues of tasks that runs wait for, and what those that have begun say.
    async fn pending(&self) -> Result<Pending, String> {
        let mut client = self.client().await?;
        let request = ListWorkflowExecutionsRequest {
            namespace: self.namespace.clone(),
            page_size: RUNS_MAX,
            query: format!("WorkflowType = '{WORKFLOW}' AND ExecutionStatus = 'Running'"),
            ..Default::default()
        };
        let runs = client.list_workflow_executions(quick(request)).await;
        let runs = runs.map_err(|refusal| self.refused(&refusal))?.into_inner();
        let runs = runs.executions.into_iter().filter_map(|run| run.execution);
        let described = stream::iter(runs).map(|execution| async {
            let run = execution.workflow_id.clone();
            let request = DescribeWorkflowExecutionRequest {
                namespace: self.namespace.clone(),
                execution: Some(execution),
            };
            let mut client = self.client().await?;
            match client.describe_workflow_execution(quick(request)).await {
                Ok(answer) => Ok((run, answer.into_inner().pending_activities)),
                Err(refusal) if refusal.code() == Code::NotFound => Ok((run, Vec::new())),
                Err(refusal) => Err(self.refused(&refusal)),
            }
        });
        let mut described = described.buffered(AT_ONCE);
        let mut pending = Pending::default();
        while let Some(described) = described.next().await {
            let (run, activities) = described?;
            for activity in activities {
                let started = activity.state() == PendingActivityState::Started;
                let options = activity.activity_options.unwrap_or_default();
                let queue = options.task_queue.unwrap_or_default().name;
                if queue.is_empty() {
                    continue;
                }
                let says = activity.heartbeat_details.as_ref().and_then(line);
                if let Some(says) = says.filter(|_| started).filter(|text| waits(text)) {
                    pending.held.push(Held {
                        run: run.clone(),
                        task: activity.activity_id,
                        queue: queue.clone(),
                        worker: activity.last_worker_identity,
                        says,
                    });
                }
                pending.queues.insert(queue);
            }
        }
        Ok(pending)
    }

    fn refused(&self, refusal: &Refusal) -> String {
        let what = match refusal.message() {
            "" => refusal.code().description(),
            message => message,
        };
        format!("the engine at {}: {what}", self.engine)
    }
}

fn quick<M>(message: M) -> Request<M> {
    client::request(message, TIMEOUT)
}

#[derive(Default)]
struct Pending {
    queues: BTreeSet<String>,
    held: Vec<Held>,
}

/// Whether a task's line of progress tells what it waits for.
fn waits(line: &str) -> bool {
    ["wait", "need"].iter().any(|word| line.starts_with(word))
}

/// The text that a heartbeat carries.
fn line(details: &Payloads) -> Option<String> {
    let payload = details.payloads.first()?;
    serde_json::from_slice(&payload.data).ok()
}

fn default_mode(namespace: &str, name: &str, kind: TaskQueueType) -> DescribeTaskQueueRequest {
    DescribeTaskQueueRequest {
        namespace: namespace.to_owned(),
        task_queue: Some(normal(name)),
        task_queue_type: kind as i32,
        report_stats: true,
        ..Default::default()
    }
}

#[expect(
    deprecated,
    reason = "servers before 1.27 have figures in this mode only"
)]
fn enhanced_mode(namespace: &str, name: &str, kind: TaskQueueType) -> DescribeTaskQueueRequest {
    DescribeTaskQueueRequest {
        namespace: namespace.to_owned(),
        task_queue: Some(normal(name)),
        api_mode: DescribeTaskQueueMode::Enhanced as i32,
        task_queue_types: vec![kind as i32],
        report_stats: true,
        report_pollers: true,
        ..Default::default()
    }
}

fn normal(name: &str) -> TaskQueue {
    TaskQueue {
        name: name.to_owned(),
        kind: TaskQueueKind::Normal as i32,
        ..Default::default()
    }
}

fn queue(name: &str, answer: DescribeTaskQueueResponse) -> Queue {
    let mut queue = Queue {
        queue: name.to_owned(),
        pollers: answer.pollers.iter().map(poller).collect(),
        ..Queue::default()
    };
    add(&mut queue, &answer.stats.unwrap_or_default());
    queue
}

fn queue_enhanced(name: &str, answer: &DescribeTaskQueueResponse) -> Queue {
    let mut queue = Queue {
        queue: name.to_owned(),
        ..Queue::default()
    };
    let types = answer
        .versions_info
        .values()
        .flat_map(|v| v.types_info.values());
    for info in types {
        queue.pollers.extend(info.pollers.iter().map(poller));
        add(&mut queue, &info.stats.unwrap_or_default());
    }
    queue
}

fn add(queue: &mut Queue, stats: &TaskQueueStats) {
    queue.backlog += stats.approximate_backlog_count.max(0);
    let age = stats.approximate_backlog_age.as_ref().map_or(0.0, seconds);
    // What waits is what has an age.
    if stats.approximate_backlog_count > 0 {
        queue.backlog_age_seconds = queue.backlog_age_seconds.max(age);
    }
    queue.add_rate += rate(stats.tasks_add_rate);
    queue.dispatch_rate += rate(stats.tasks_dispatch_rate);
}

/// As many digits as the server's float has, so that 0.1 is not shown as 0.10000000149.
fn rate(rate: f32) -> f64 {
    let rate = (f64::from(rate) * 1e4).round() / 1e4;
    rate.max(0.0)
}

fn poller(info: &PollerInfo) -> Poller {
    Poller {
        identity: info.identity.clone(),
        seconds_ago: info.last_access_time.as_ref().map_or(0.0, seconds_since),
    }
}

fn worker(beat: WorkerHeartbeat) -> Worker {
    let interprets = beat.task_queue == TASK_QUEUE;
    let (slots, polls) = match interprets {
        true => (&beat.workflow_task_slots_info, &beat.workflow_poller_info),
        false => (&beat.activity_task_slots_info, &beat.activity_poller_info),
    };
    let (slots, polls) = (slots.clone().unwrap_or_default(), polls.unwrap_or_default());
    let ago = beat.heartbeat_time.as_ref().map_or(0.0, seconds_since);
    let interval = beat.elapsed_since_last_heartbeat.as_ref().map(seconds);
    let status = status(beat.status(), ago, interval);
    let host = beat.host_info.unwrap_or_default();
    let devices = beat.plugins.iter().filter_map(|plugin| {
        let device = Advertised::from_plugin(&plugin.name, &plugin.version)?;
        let memory = match device.memory {
            0 => String::new(),
            bytes => format!(" {}", size::down(bytes)),
        };
        Some(format!("{}{memory}", device.name))
    });
    Worker {
        identity: beat.worker_identity,
        queue: beat.task_queue,
        host: host.host_name,
        process: host.process_id,
        status,
        last_heartbeat_seconds: ago,
        slots_used: slots.current_used_slots,
        slots_free: slots.current_available_slots,
        polls: polls.current_pollers,
        cpu: host.current_host_cpu_usage,
        memory: host.current_host_mem_usage,
        sdk: format!("{} {}", beat.sdk_name, beat.sdk_version),
        devices: devices.collect(),
    }
}

/// Tidemill's engine marks a silent worker itself; of a Temporal server's it is told by the age of what
/// it said last.
fn status(said: WorkerStatus, ago: f64, interval: Option<f64>) -> Status {
    let interval = interval.unwrap_or(INTERVAL_SECONDS).clamp(1.0, 60.0);
    match said {
        WorkerStatus::Running if ago > 2.0 * interval + SKEW_SECONDS => Status::Silent,
        WorkerStatus::Running => Status::Running,
        WorkerStatus::ShuttingDown => Status::Draining,
        WorkerStatus::Shutdown => Status::Stopped,
        WorkerStatus::Unspecified => Status::Silent,
    }
}

fn seconds(span: &wkt::Duration) -> f64 {
    span.seconds as f64 + f64::from(span.nanos) / 1e9
}

fn seconds_since(time: &wkt::Timestamp) -> f64 {
    let now = jiff::Timestamp::now();
    let since = now.as_second() - time.seconds;
    let nanos = now.subsec_nanosecond() - time.nanos;
    (since as f64 + f64::from(nanos) / 1e9).max(0.0)
}

#[cfg(test)]
mod tests;
