//! `tidemill queue list`: every task queue of an engine, whoever uses it.

use serde_json::json;
use tidemill_proto::client::{self, Code};
use tidemill_proto::maintenance::{ListQueuesRequest, Queue, TaskKind};

use super::TIMEOUT;
use crate::exit::Failure;
use crate::pipeline::view::span;
use crate::workflow::{connection, json};
use crate::{output, table};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the task queues of all namespaces, and name those that wait in vain.
    List(List),
}

#[derive(clap::Args)]
struct List {
    /// The engine's address.
    #[arg(
        long,
        alias = "address",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7233",
        env = "TIDEMILL_ENGINE"
    )]
    engine: String,
    /// One namespace only.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    namespace: String,
    /// Only queues with a backlog that nobody polls.
    #[arg(long)]
    unattended: bool,
    /// The queues of single workers' caches, too.
    #[arg(long)]
    sticky: bool,
    /// Print JSON for programs instead of text for people.
    #[arg(long)]
    json: bool,
}

pub(in crate::pipeline) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Command::List(list) = arguments.command;
    let request = ListQueuesRequest {
        namespace: list.namespace.clone(),
        unattended_only: list.unattended,
    };
    let mut queues = match fetch(&list.engine, request).await? {
        Some(queues) => queues,
        None => {
            return Err(Failure::general(format!(
                "the server at {} cannot list its queues: it is not Tidemill's, or older than this \
                 binary. `tidemill queues --class NAME` asks for one by its name.",
                list.engine
            )));
        }
    };
    queues.retain(|queue| list.sticky || !queue.sticky);
    if list.json {
        let shown = queues.iter().map(|queue| json::plain("Queue", queue));
        let queues: Result<Vec<_>, _> = shown.collect();
        output::line(json!({ "queues": queues? }));
    } else {
        output::write(&text(&queues, &list.engine));
    }
    Ok(())
}

/// The queues that an engine knows; `None` where it has no such list, as a Temporal server.
pub(super) async fn fetch(
    engine: &str,
    request: ListQueuesRequest,
) -> Result<Option<Vec<Queue>>, Failure> {
    let mut client = client::connect_maintenance(engine)
        .await
        .map_err(|error| connection::unreachable(engine, &error))?;
    match client.list_queues(client::request(request, TIMEOUT)).await {
        Ok(answer) => Ok(Some(answer.into_inner().queues)),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(connection::refused(status)),
    }
}

fn text(queues: &[Queue], engine: &str) -> String {
    if queues.is_empty() {
        return "no task waits, and nobody polls\n".to_owned();
    }
    let rows: Vec<Vec<String>> = queues
        .iter()
        .map(|queue| {
            vec![
                queue.name.clone(),
                queue.namespace.clone(),
                kind(queue.kind()).to_owned(),
                queue.backlog.to_string(),
                match queue.backlog {
                    0 => "-".to_owned(),
                    _ => span(queue.backlog_age_ms),
                },
                queue.polls.to_string(),
                match queue.last_poll_ms {
                    Some(_) if queue.polls > 0 => "now".to_owned(),
                    Some(ms) => format!("{} ago", span(ms)),
                    None => "never".to_owned(),
                },
            ]
        })
        .collect();
    let header = [
        "QUEUE",
        "NAMESPACE",
        "KIND",
        "WAITING",
        "OLDEST",
        "POLLS",
        "LAST POLL",
    ];
    let mut text = table::render(&header, &rows);
    for queue in queues.iter().filter(|queue| queue.unattended) {
        text += &format!("\n! {}\n", advice(queue, engine));
    }
    text
}

pub(crate) fn kind(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Workflow => "workflow",
        TaskKind::Activity => "activity",
        TaskKind::Unspecified => "-",
    }
}

/// What is wrong with a queue that nobody polls.
pub(super) fn advice(queue: &Queue, engine: &str) -> String {
    let tasks = match queue.backlog {
        1 => "1 task waits".to_owned(),
        many => format!("{many} tasks wait"),
    };
    let absent = match queue.last_poll_ms {
        Some(ms) => format!("nobody has polled it for {}", span(ms)),
        None => "nobody has polled it since the engine was started".to_owned(),
    };
    format!(
        "{tasks} in {} ({}, namespace {}) and {absent}. Start a worker that polls it at {engine}",
        queue.name,
        kind(queue.kind()),
        queue.namespace
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_wait_in_vain_are_named_below() {
        let queue = |name: &str, backlog, polls, last_poll_ms| Queue {
            namespace: "default".into(),
            name: name.into(),
            kind: TaskKind::Workflow.into(),
            backlog,
            backlog_age_ms: 90_000,
            polls,
            last_poll_ms,
            unattended: polls == 0 && backlog > 0,
            ..Default::default()
        };
        let queues = [
            queue("idle", 0, 2, Some(5_000)),
            queue("left", 1, 0, Some(40_000)),
            queue("never", 2, 0, None),
        ];
        assert_eq!(
            text(&queues, "here:1"),
            "\
QUEUE  NAMESPACE  KIND      WAITING  OLDEST  POLLS  LAST POLL
idle   default    workflow  0        -       2      now
left   default    workflow  1        1m30s   0      40s ago
never  default    workflow  2        1m30s   0      never

! 1 task waits in left (workflow, namespace default) and nobody has polled it for 40s. Start a worker that polls it at here:1

! 2 tasks wait in never (workflow, namespace default) and nobody has polled it since the engine was started. Start a worker that polls it at here:1
"
        );
    }
}
