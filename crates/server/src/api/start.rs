//! StartWorkflowExecution and SignalWithStartWorkflowExecution (contract section 4).

use std::time::Duration;

use tidemill_engine::close::{self, Termination};
use tidemill_engine::id_policy::{self, Decision};
use tidemill_engine::options::{self, Attachment};
use tidemill_engine::signal::{self, Signal};
use tidemill_engine::start::{self, NewRun};
use tidemill_engine::time::{proto_span, proto_span_opt, span};
use tidemill_engine::workflow_task::{self, Started};
use tidemill_engine::{Cx, Error, Outcome, Run, RunId, cron, retry, search_attribute};
use tidemill_proto::api::common::v1::{Memo, SearchAttributes};
use tidemill_proto::api::enums::v1::{
    ContinueAsNewInitiator, EventType, WorkflowIdConflictPolicy, WorkflowIdReusePolicy,
};
use tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use tidemill_proto::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest, StartWorkflowExecutionResponse,
};

use super::{Call, event_link, request_link};
use crate::Server;
use crate::namespaces::Namespace;
use crate::shard::Done;

/// How a start ended.
#[derive(Clone, Debug)]
pub(super) struct StartReply {
    pub(super) run: RunId,
    pub(super) first_run_id: String,
    pub(super) started: bool,
    pub(super) status: i32,
    /// The request id by which the answer's link refers to the run's event.
    pub(super) attached: bool,
    /// The first workflow task, when the caller takes it at once.
    pub(super) eager: Option<Started>,
}

impl StartReply {
    pub(super) fn of(run: &Run, started: bool, attached: bool) -> Self {
        Self {
            run: run.id.clone(),
            first_run_id: run.first_run_id().to_owned(),
            started,
            status: run.core.status,
            attached,
            eager: None,
        }
    }
}

impl Server {
    pub async fn start_workflow_execution(
        &self,
        namespace: &Namespace,
        request: StartWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<StartWorkflowExecutionResponse, Error> {
        let request_id = request.request_id.clone();
        let ns = namespace.clone();
        let workflow_id = request.workflow_id.clone();
        let done = self
            .core
            .shards
            .on_workflow(namespace, &workflow_id, move |current, cx| {
                start_or_use(current, request, &ns, cx)
            })
            .await?;
        let Done { value, view } = done;
        let link = if value.attached {
            request_link(
                namespace,
                &value.run,
                &request_id,
                EventType::WorkflowExecutionOptionsUpdated,
            )
        } else {
            event_link(
                namespace,
                &value.run,
                1,
                EventType::WorkflowExecutionStarted,
            )
        };
        let eager_workflow_task = match value.eager {
            Some(task) => Some(self.inner_task(namespace, &view, task).await?),
            None => None,
        };
        Ok(StartWorkflowExecutionResponse {
            run_id: value.run.run_id.to_string(),
            first_execution_run_id: value.first_run_id,
            started: value.started,
            status: value.status,
            eager_workflow_task,
            link: Some(link),
        })
    }

    pub async fn signal_with_start_workflow_execution(
        &self,
        namespace: &Namespace,
        request: SignalWithStartWorkflowExecutionRequest,
        _call: Call,
    ) -> Result<SignalWithStartWorkflowExecutionResponse, Error> {
        let request_id = request.request_id.clone();
        let workflow_id = request.workflow_id.clone();
        let ns = namespace.clone();
        let done = self
            .core
            .shards
            .on_workflow(namespace, &workflow_id, move |current, cx| {
                signal_with_start(current, request, &ns, cx)
            })
            .await?;
        Ok(SignalWithStartWorkflowExecutionResponse {
            run_id: done.value.run.run_id.to_string(),
            first_execution_run_id: done.value.first_run_id.clone(),
            started: done.value.started,
            signal_link: Some(request_link(
                namespace,
                &done.value.run,
                &request_id,
                EventType::WorkflowExecutionSignaled,
            )),
        })
    }
}

/// Starts a run, or answers with the one that is there, as the policies say.
pub(super) fn start_or_use(
    current: Option<&Run>,
    request: StartWorkflowExecutionRequest,
    namespace: &Namespace,
    cx: &Cx<'_>,
) -> Result<Outcome<StartReply>, Error> {
    let reuse = request.workflow_id_reuse_policy();
    let conflict = request.workflow_id_conflict_policy();
    let decision = id_policy::decide(current, &request.request_id, reuse, conflict)?;
    match (decision, current) {
        (Decision::Repeated, Some(run)) => Ok(repeated(run, &request, cx)),
        (Decision::Attached, Some(run)) => Ok(Outcome::unchanged(StartReply::of(run, false, true))),
        (Decision::UseExisting, Some(run)) => use_existing(run, request, cx),
        (Decision::Replace, Some(run)) => {
            let new = new_run(&request, namespace, cx)?;
            let mut replaced = terminate_for(run, &new, cx)?;
            let created = create(new, request.request_eager_execution, &request.identity, cx);
            replaced.transitions.extend(created.transitions);
            Ok(Outcome {
                transitions: replaced.transitions,
                reply: created.reply,
            })
        }
        _ => {
            let new = new_run(&request, namespace, cx)?;
            Ok(create(
                new,
                request.request_eager_execution,
                &request.identity,
                cx,
            ))
        }
    }
}

/// The request that made the run has come again.
fn repeated(
    run: &Run,
    request: &StartWorkflowExecutionRequest,
    _cx: &Cx<'_>,
) -> Outcome<StartReply> {
    let mut reply = StartReply::of(run, true, false);
    if request.request_eager_execution && run.is_open() {
        // The first answer may have been lost: the task is given again while it is still the first.
        reply.eager = workflow_task::resend_first(run);
    }
    Outcome::unchanged(reply)
}

fn use_existing(
    run: &Run,
    request: StartWorkflowExecutionRequest,
    cx: &Cx<'_>,
) -> Result<Outcome<StartReply>, Error> {
    let Some(on_conflict) = request.on_conflict_options else {
        return Ok(Outcome::unchanged(StartReply::of(run, false, false)));
    };
    let attachment = Attachment {
        request_id: if on_conflict.attach_request_id {
            request.request_id
        } else {
            String::new()
        },
        callbacks: if on_conflict.attach_completion_callbacks {
            request.completion_callbacks
        } else {
            Vec::new()
        },
        links: if on_conflict.attach_links {
            request.links
        } else {
            Vec::new()
        },
        identity: request.identity,
    };
    let attaches_request = !attachment.request_id.is_empty();
    if !attaches_request && attachment.callbacks.is_empty() && attachment.links.is_empty() {
        return Ok(Outcome::unchanged(StartReply::of(run, false, false)));
    }
    let reply = StartReply::of(run, false, attaches_request);
    Ok(options::attach(run, attachment, cx)?.map(|()| reply))
}

/// The commit that makes the new run ends the old one.
pub(super) fn terminate_for(run: &Run, new: &NewRun, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    let details = format!("New RunID: {}", new.id.run_id);
    let termination = Termination {
        details: Some(tidemill_proto::api::common::v1::Payloads {
            payloads: vec![json(&details)],
        }),
        ..Termination::by_engine("TerminateIfRunning WorkflowIdReusePolicy Policy")
    };
    close::terminate_run(run, termination, cx)
}

fn json(text: &str) -> tidemill_proto::api::common::v1::Payload {
    tidemill_proto::api::common::v1::Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: serde_json::to_vec(text).unwrap_or_default(),
        ..Default::default()
    }
}

fn create(mut new: NewRun, eager: bool, identity: &str, cx: &Cx<'_>) -> Outcome<StartReply> {
    let eager = eager && span(&new.started.first_workflow_task_backoff).is_zero();
    new.started.eager_execution_accepted = eager;
    let mut tx = start::create(new, cx);
    let task = if eager {
        workflow_task::start_eagerly(&mut tx, identity)
    } else {
        None
    };
    let reply = StartReply {
        eager: task,
        ..StartReply::of(&tx.run, true, false)
    };
    tx.finish(reply)
}

/// Signals the run that is there, or starts one with the signal already in it.
fn signal_with_start(
    current: Option<&Run>,
    request: SignalWithStartWorkflowExecutionRequest,
    namespace: &Namespace,
    cx: &Cx<'_>,
) -> Result<Outcome<StartReply>, Error> {
    let sent = Signal {
        name: request.signal_name.clone(),
        input: request.signal_input.clone(),
        header: request.header.clone(),
        identity: request.identity.clone(),
        request_id: request.request_id.clone(),
        links: request.links.clone(),
        external: None,
    };
    let conflict = match request.workflow_id_conflict_policy() {
        WorkflowIdConflictPolicy::Unspecified => WorkflowIdConflictPolicy::UseExisting,
        other => other,
    };
    let start = start_request(request);
    let decision = id_policy::decide(
        current,
        &start.request_id,
        start.workflow_id_reuse_policy(),
        conflict,
    )?;
    let create_signaled = |new: NewRun| {
        let mut tx = start::create(new, cx);
        signal::record(&mut tx, sent.clone());
        let reply = StartReply::of(&tx.run, true, false);
        tx.finish(reply)
    };
    match (decision, current) {
        (Decision::Repeated, Some(run)) if !run.is_open() => {
            Ok(Outcome::unchanged(StartReply::of(run, true, false)))
        }
        (Decision::Repeated | Decision::Attached | Decision::UseExisting, Some(run)) => {
            let started = decision == Decision::Repeated;
            let reply = StartReply::of(run, started, false);
            Ok(signal::signal(run, sent, cx)?.map(|()| reply))
        }
        (Decision::Replace, Some(run)) => {
            let new = new_run(&start, namespace, cx)?;
            let mut replaced = terminate_for(run, &new, cx)?;
            let created = create_signaled(new);
            replaced.transitions.extend(created.transitions);
            Ok(Outcome {
                transitions: replaced.transitions,
                reply: created.reply,
            })
        }
        _ => Ok(create_signaled(new_run(&start, namespace, cx)?)),
    }
}

/// The start half of a signal-with-start.
fn start_request(r: SignalWithStartWorkflowExecutionRequest) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest {
        workflow_id: r.workflow_id,
        workflow_type: r.workflow_type,
        task_queue: r.task_queue,
        input: r.input,
        workflow_execution_timeout: r.workflow_execution_timeout,
        workflow_run_timeout: r.workflow_run_timeout,
        workflow_task_timeout: r.workflow_task_timeout,
        identity: r.identity,
        request_id: r.request_id,
        workflow_id_reuse_policy: r.workflow_id_reuse_policy,
        workflow_id_conflict_policy: r.workflow_id_conflict_policy,
        retry_policy: r.retry_policy,
        cron_schedule: r.cron_schedule,
        memo: r.memo,
        search_attributes: r.search_attributes,
        header: r.header,
        workflow_start_delay: r.workflow_start_delay,
        user_metadata: r.user_metadata,
        links: r.links,
        priority: r.priority,
        ..Default::default()
    }
}

/// The run that a request describes, with every default filled in.
pub(super) fn new_run(
    r: &StartWorkflowExecutionRequest,
    namespace: &Namespace,
    cx: &Cx<'_>,
) -> Result<NewRun, Error> {
    if let Some(attributes) = &r.search_attributes {
        search_attribute::validate(attributes, namespace, cx.limits)
            .map_err(Error::InvalidArgument)?;
    }
    if !r.cron_schedule.is_empty() {
        cron::validate(&r.cron_schedule, cx.now)
            .map_err(|e| Error::invalid(format!("Invalid CronSchedule, {e}.")))?;
    }
    let terminates = r.workflow_id_reuse_policy() == WorkflowIdReusePolicy::TerminateIfRunning;
    debug_assert!(
        !terminates || r.workflow_id_conflict_policy() == WorkflowIdConflictPolicy::Unspecified
    );
    let execution_timeout = span(&r.workflow_execution_timeout);
    let run_timeout = start::run_timeout(span(&r.workflow_run_timeout), execution_timeout);
    let task_timeout = start::task_timeout(span(&r.workflow_task_timeout), run_timeout, cx.limits);
    let cron = !r.cron_schedule.is_empty();
    let backoff = if cron {
        cron::next_backoff(&r.cron_schedule, cx.now, cx.now).unwrap_or(Duration::ZERO)
    } else {
        span(&r.workflow_start_delay)
    };
    let started = WorkflowExecutionStartedEventAttributes {
        workflow_type: r.workflow_type.clone(),
        task_queue: r.task_queue.clone(),
        input: r.input.clone(),
        workflow_execution_timeout: proto_span_opt(execution_timeout),
        workflow_run_timeout: proto_span_opt(run_timeout),
        workflow_task_timeout: proto_span(task_timeout),
        initiator: if cron {
            ContinueAsNewInitiator::CronSchedule as i32
        } else {
            0
        },
        identity: r.identity.clone(),
        retry_policy: r.retry_policy.clone().map(|p| retry::normalise(Some(p))),
        attempt: 1,
        cron_schedule: r.cron_schedule.clone(),
        first_workflow_task_backoff: proto_span(backoff),
        memo: r.memo.clone().and_then(without_null_memo),
        search_attributes: search_attribute::typed(r.search_attributes.as_ref(), namespace)
            .and_then(without_null_attributes),
        header: r.header.clone(),
        completion_callbacks: r.completion_callbacks.clone(),
        priority: r.priority.clone(),
        last_completion_result: r.last_completion_result.clone(),
        continued_failure: r.continued_failure.clone(),
        ..Default::default()
    };
    Ok(NewRun {
        id: RunId {
            no: cx.ids.run_no(),
            namespace_id: namespace.id,
            workflow_id: r.workflow_id.as_str().into(),
            run_id: cx.run_id().into(),
        },
        started,
        metadata: r.user_metadata.clone(),
        links: r.links.clone(),
        create_request_id: r.request_id.clone(),
        awaits_parent: false,
    })
}

fn without_null_memo(mut memo: Memo) -> Option<Memo> {
    memo.fields.retain(|_, p| !search_attribute::is_unset(p));
    (!memo.fields.is_empty()).then_some(memo)
}

fn without_null_attributes(mut attributes: SearchAttributes) -> Option<SearchAttributes> {
    attributes
        .indexed_fields
        .retain(|_, p| !search_attribute::is_unset(p));
    (!attributes.indexed_fields.is_empty()).then_some(attributes)
}
