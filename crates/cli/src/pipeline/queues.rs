//! `tidemill queues`: what waits for whom, and whether anybody comes for it.

mod endpoint;
mod gather;
pub(crate) mod list;
mod report;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidemill_proto::maintenance::ListQueuesRequest;
use tidemill_worker::http::{self, Routes};

pub(crate) use endpoint::{Watch, mount};
pub(crate) use gather::Source;

use self::gather::Asked;
use self::report::{Class, Status, Worker};
use super::Target;
use crate::exit::Failure;
use crate::serve::listen::Listen;
use crate::{output, table};

/// Between two pictures.
const EVERY: Duration = Duration::from_secs(2);
/// The deadline of each call.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// A resource class to show, whether anything is known of it or not; repeat for more [default: all
    /// that tasks or workers are known of]
    #[arg(long, value_name = "NAME")]
    class: Vec<String>,
    /// Show it again every two seconds, until Ctrl-C.
    #[arg(long, conflicts_with = "listen")]
    watch: bool,
    /// Serve the figures as JSON instead, at /v1/queues and /v1/queues/CLASS, for autoscalers.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Listen on addresses that other machines can reach, without authentication.
    #[arg(long, requires = "listen")]
    allow_remote: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let target = &arguments.target;
    let source = Source::new(&target.engine, &target.namespace);
    if let Some(address) = &arguments.listen {
        return serve(address, arguments.allow_remote, source).await;
    }
    let asked = Asked {
        classes: &arguments.class,
        others: arguments.class.is_empty(),
        held: true,
    };
    loop {
        let classes = source.classes(&asked).await.map_err(Failure::General)?;
        if target.json {
            output::line(json!({ "queues": classes }));
        } else {
            if arguments.watch && std::io::stdout().is_terminal() {
                output::write("\x1b[H\x1b[2J");
            }
            let others = others(&target.engine, &target.namespace, &classes).await?;
            output::write(&(text(&classes) + &others));
        }
        if !arguments.watch {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Queues of no class here that wait in vain: a workflow may use whatever queue it likes.
async fn others(engine: &str, namespace: &str, classes: &[Class]) -> Result<String, Failure> {
    let request = ListQueuesRequest {
        namespace: namespace.to_owned(),
        unattended_only: true,
    };
    let unattended = list::fetch(engine, request).await?.unwrap_or_default();
    let shown = |name: &str| {
        let mut queues = classes.iter().flat_map(|class| &class.queues);
        queues.any(|queue| queue.queue == name)
    };
    let others = unattended.iter().filter(|queue| !shown(&queue.name));
    Ok(others
        .map(|queue| format!("\n! {}\n", list::advice(queue, engine)))
        .collect())
}

async fn serve(address: &str, allow_remote: bool, source: Source) -> Result<(), Failure> {
    let listen = Listen::parse(address, "--listen")?;
    listen.check_remote(allow_remote)?;
    let listener = listen.bind()?;
    let address = listener.local_addr().map_err(Failure::general)?;
    output::line(format_args!("queues on http://{address}/v1/queues"));
    let mut stop = crate::serve::run::Stop::new()?;
    let watch = Arc::new(Watch::new(source));
    let of_queues = watch.clone();
    let routes = Routes::new().metrics(move || {
        let watch = of_queues.clone();
        async move { vec![watch.metrics().await] }
    });
    let routes = mount(routes, watch);
    http::serve(listener, routes, async {
        stop.wait().await;
    })
    .await;
    Ok(())
}

/// Everything, for people.
fn text(classes: &[Class]) -> String {
    if classes.is_empty() {
        return "no tasks wait, and no worker polls\n".to_owned();
    }
    let header = [
        "CLASS", "WAITING", "OLDEST", "WAIT", "IN/s", "OUT/s", "POLLERS", "WORKERS", "SLOTS",
    ];
    let mut rows = Vec::new();
    for class in classes {
        rows.push(vec![
            class.class.clone(),
            class.backlog.to_string(),
            span(class.backlog_age_seconds),
            span(class.wait_seconds),
            rate(class.add_rate),
            rate(class.dispatch_rate),
            class.pollers.to_string(),
            class.workers.to_string(),
            format!("{}/{}", class.slots_used, class.slots),
        ]);
        let others = class.queues.iter().filter(|q| q.queue != class.class);
        rows.extend(others.map(|queue| {
            vec![
                format!("  {}", queue.queue),
                queue.backlog.to_string(),
                span(queue.backlog_age_seconds),
                String::new(),
                rate(queue.add_rate),
                rate(queue.dispatch_rate),
            ]
        }));
    }
    let mut text = table::render(&header, &rows);

    let all = classes.iter().flat_map(|class| &class.inventory);
    let shown: Vec<Vec<String>> = all
        .filter(|worker| worker.status != Status::Stopped)
        .map(row)
        .collect();
    if !shown.is_empty() {
        text.push('\n');
        text += &table::render(
            &[
                "WORKER", "QUEUE", "HOST", "STATUS", "SEEN", "SLOTS", "POLLS", "CPU", "MEMORY",
                "DEVICES", "SDK",
            ],
            &shown,
        );
    }
    let held: Vec<Vec<String>> = classes
        .iter()
        .flat_map(|class| &class.held)
        .map(|held| {
            vec![
                held.run.clone(),
                held.task.clone(),
                held.worker.clone(),
                held.says.clone(),
            ]
        })
        .collect();
    if !held.is_empty() {
        text.push('\n');
        text += &table::render(&["RUN", "TASK", "WORKER", "SAYS"], &held);
    }
    let advice: Vec<&str> = classes.iter().filter_map(|c| c.advice.as_deref()).collect();
    for advice in advice {
        text += &format!("\n! {advice}\n");
    }
    text
}

fn row(worker: &Worker) -> Vec<String> {
    let free = match worker.slots_free {
        // An SDK that does not know.
        ..0 => "?".to_owned(),
        free => (worker.slots_used + free).to_string(),
    };
    vec![
        worker.identity.clone(),
        worker.queue.clone(),
        format!("{}:{}", worker.host, worker.process),
        worker.status.name().to_owned(),
        format!("{} ago", span(worker.last_heartbeat_seconds)),
        format!("{}/{free}", worker.slots_used),
        worker.polls.to_string(),
        format!("{:.0}%", worker.cpu * 100.0),
        format!("{:.0}%", worker.memory * 100.0),
        worker.devices.join(", "),
        worker.sdk.clone(),
    ]
}

fn span(seconds: f64) -> String {
    super::view::span((seconds * 1000.0) as i64)
}

fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        rate => format!("{rate:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::report::Queue;
    use super::*;

    #[test]
    fn a_class_is_a_line_and_what_is_wrong_comes_last() {
        let queue = |name: &str, backlog| Queue {
            queue: name.to_owned(),
            backlog,
            backlog_age_seconds: 90.0,
            add_rate: 2.0,
            dispatch_rate: 0.0,
            pollers: Vec::new(),
        };
        let queues = vec![queue("accelerator", 3), queue("accelerator/minilm", 1)];
        let worker = Worker {
            identity: "w-1".to_owned(),
            queue: "accelerator".to_owned(),
            host: "node".to_owned(),
            process: "7".to_owned(),
            status: Status::Silent,
            last_heartbeat_seconds: 12.0,
            slots_used: 2,
            slots_free: 6,
            polls: 1,
            cpu: 0.5,
            memory: 0.25,
            sdk: "sdk 1".to_owned(),
            devices: vec!["nvml:0 80 GiB".to_owned()],
        };
        let held = report::Held {
            run: "run-1".to_owned(),
            task: "7".to_owned(),
            queue: "accelerator".to_owned(),
            worker: "w-1".to_owned(),
            says: "needs 82 GiB, 30 GiB free on device 0".to_owned(),
        };
        let class = report::class("accelerator", "here:1", queues, &[worker], &[held]);
        assert_eq!(
            text(&[class]),
            "\
CLASS                 WAITING  OLDEST  WAIT   IN/s  OUT/s  POLLERS  WORKERS  SLOTS
accelerator           4        1m30s   1m30s  4.0   0      0        0        0/0
  accelerator/minilm  1        1m30s          2.0   0

WORKER  QUEUE        HOST    STATUS  SEEN     SLOTS  POLLS  CPU  MEMORY  DEVICES        SDK
w-1     accelerator  node:7  silent  12s ago  2/8    1      50%  25%     nvml:0 80 GiB  sdk 1

RUN    TASK  WORKER  SAYS
run-1  7     w-1     needs 82 GiB, 30 GiB free on device 0

! 4 tasks wait in accelerator and the last worker, w-1 on node, has been silent for 12 s. Start one: \
tidemill worker --engine here:1 --offer accelerator
"
        );
        assert_eq!(text(&[]), "no tasks wait, and no worker polls\n");
    }
}
