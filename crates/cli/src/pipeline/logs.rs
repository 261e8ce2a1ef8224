//! `tidemill logs`: what a run's tasks did, read from its history.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemill_pipeline::task::{Input, TaskInput, TaskOutput};
use tidemill_proto::api::common::v1::WorkflowExecution;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{ActivityTaskScheduledEventAttributes, HistoryEvent};
use tidemill_proto::wkt::{Duration, Timestamp};

use super::Target;
use super::history::{Histories, from_payloads};
use super::view::span;
use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The run's id.
    #[arg(value_name = "RUN")]
    run: String,
    /// Go on until the run ends, showing tasks as they end.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut histories = Histories::connect(&arguments.target).await?;
    let mut execution = WorkflowExecution {
        workflow_id: arguments.run.clone(),
        run_id: String::new(),
    };
    if !arguments.follow {
        // From the first run of the chain on.
        let (events, _) = histories.page(&execution, Vec::new(), false).await?;
        if let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) =
            events.into_iter().next().and_then(|event| event.attributes)
        {
            execution.run_id = started.first_execution_run_id;
        }
    }
    let mut tasks = Tasks::default();
    let mut token = Vec::new();
    loop {
        let (events, next) = histories.page(&execution, token, arguments.follow).await?;
        let mut continued = None;
        for event in &events {
            if let Some(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(a)) =
                &event.attributes
            {
                continued = Some(a.new_execution_run_id.clone());
            }
            if let Some(line) = tasks.line(event) {
                match arguments.target.json {
                    true => output::line(line.json()),
                    false => output::line(line.text()),
                }
            }
        }
        token = next;
        match continued {
            Some(run_id) => {
                execution.run_id = run_id;
                token = Vec::new();
            }
            None if token.is_empty() => return Ok(()),
            None => {}
        }
    }
}

/// Tasks that were scheduled, by the number of that event.
#[derive(Default)]
struct Tasks(BTreeMap<i64, Task>);

struct Task {
    name: String,
    started: Option<Timestamp>,
    attempt: i32,
    worker: String,
    /// The queue of its model, if it was put there.
    preferred: Option<String>,
}

/// One thing that happened.
struct Line {
    time: Option<Timestamp>,
    task: String,
    what: &'static str,
    detail: String,
}

impl Tasks {
    fn line(&mut self, event: &HistoryEvent) -> Option<Line> {
        let line = |task: String, what, detail: String| {
            Some(Line {
                time: event.event_time,
                task,
                what,
                detail,
            })
        };
        match event.attributes.as_ref()? {
            Attributes::WorkflowExecutionStartedEventAttributes(a)
                if a.continued_execution_run_id.is_empty() =>
            {
                line("run".to_owned(), "started", String::new())
            }
            Attributes::ActivityTaskScheduledEventAttributes(a) => {
                let ty = a.activity_type.as_ref().map_or("", |ty| ty.name.as_str());
                let name = from_payloads::<TaskInput>(a.input.as_ref())
                    .map_or_else(|| ty.to_owned(), |input| name(&input));
                let task = Task {
                    name,
                    started: None,
                    attempt: 0,
                    worker: String::new(),
                    preferred: preferred(a),
                };
                self.0.insert(event.event_id, task);
                None
            }
            Attributes::ActivityTaskStartedEventAttributes(a) => {
                let task = self.0.get_mut(&a.scheduled_event_id)?;
                task.started = event.event_time;
                task.attempt = a.attempt;
                task.worker.clone_from(&a.identity);
                let failure = a.last_failure.as_ref()?;
                let detail = format!("attempt {}: {}", a.attempt - 1, failure.message);
                line(task.name.clone(), "retried", detail)
            }
            Attributes::ActivityTaskCompletedEventAttributes(a) => {
                let task = self.0.remove(&a.scheduled_event_id)?;
                let output = from_payloads::<TaskOutput>(a.result.as_ref());
                let detail = task.ended(event, output.map(|output| json!(output)));
                line(task.name, "done", detail)
            }
            Attributes::ActivityTaskFailedEventAttributes(a) => {
                let task = self.0.remove(&a.scheduled_event_id)?;
                let why = a.failure.as_ref().map_or("", |f| f.message.as_str());
                line(task.name, "failed", why.to_owned())
            }
            Attributes::ActivityTaskTimedOutEventAttributes(a) => {
                let task = self.0.remove(&a.scheduled_event_id)?;
                if let Some(queue) = task.preferred.filter(|_| task.started.is_none()) {
                    let why = format!("nobody took it from `{queue}` in time: to all of its class");
                    return line(task.name, "passed on", why);
                }
                let why = a.failure.as_ref().map_or("", |f| f.message.as_str());
                line(task.name, "timed out", why.to_owned())
            }
            Attributes::ActivityTaskCanceledEventAttributes(a) => {
                let task = self.0.remove(&a.scheduled_event_id)?;
                line(task.name, "cancelled", String::new())
            }
            Attributes::WorkflowExecutionCompletedEventAttributes(_) => {
                line("run".to_owned(), "done", String::new())
            }
            Attributes::WorkflowExecutionFailedEventAttributes(a) => {
                let why = a.failure.as_ref().map_or("", |f| f.message.as_str());
                line("run".to_owned(), "failed", why.to_owned())
            }
            Attributes::WorkflowExecutionCanceledEventAttributes(_) => {
                line("run".to_owned(), "cancelled", String::new())
            }
            Attributes::WorkflowExecutionTerminatedEventAttributes(a) => {
                line("run".to_owned(), "terminated", a.reason.clone())
            }
            _ => None,
        }
    }
}

/// The queue of a task that is given to others when nobody takes it there: it need not start there as
/// late as it has to end.
fn preferred(scheduled: &ActivityTaskScheduledEventAttributes) -> Option<String> {
    let of = |span: &Option<Duration>| span.map_or((0, 0), |span| (span.seconds, span.nanos));
    let start = of(&scheduled.schedule_to_start_timeout);
    let close = of(&scheduled.schedule_to_close_timeout);
    let bounded = start > (0, 0) && (close == (0, 0) || start < close);
    let queue = scheduled.task_queue.as_ref().filter(|_| bounded)?;
    Some(queue.name.clone())
}

fn name(input: &TaskInput) -> String {
    match &input.input {
        Input::Chunk(chunk) => format!("{} #{}", input.stage, chunk.index),
        _ => input.stage.clone(),
    }
}

impl Task {
    fn ended(&self, event: &HistoryEvent, output: Option<Value>) -> String {
        let mut parts = Vec::new();
        if let (Some(started), Some(ended)) = (self.started, event.event_time) {
            let nanos = i64::from(ended.nanos) - i64::from(started.nanos);
            let ms = (ended.seconds - started.seconds) * 1_000 + nanos / 1_000_000;
            parts.push(span(ms));
        }
        if self.attempt > 1 {
            parts.push(format!("attempt {}", self.attempt));
        }
        if let Some(output) = output {
            if output["cached"] == true {
                parts.push("from the cache".to_owned());
            }
            let part = &output["output"]["part"];
            if let (Some(count), Some(failed)) = (part["count"].as_u64(), part["failed"].as_u64()) {
                parts.push(format!("{count} items"));
                if failed > 0 {
                    let why = part["first_error"].as_str().unwrap_or_default();
                    parts.push(format!("{failed} failed: {why}"));
                }
            }
        }
        parts.push(self.worker.clone());
        parts.join(", ")
    }
}

impl Line {
    fn time(&self) -> String {
        let time = self
            .time
            .as_ref()
            .and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
        time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
    }

    fn text(&self) -> String {
        let detail = self.detail.replace('\n', " ");
        format!("{}  {:20} {:9} {detail}", self.time(), self.task, self.what)
            .trim_end()
            .to_owned()
    }

    fn json(&self) -> Value {
        json!({
            "time": self.time(), "task": self.task, "what": self.what, "detail": self.detail,
        })
    }
}
