//! What is known of resource classes, put together: from what the engine says of task queues and
//! workers to the figures that people and autoscalers read. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tidemill_pipeline::run::TASK_QUEUE;

/// One task queue as the engine describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Queue {
    pub(crate) queue: String,
    /// Tasks that wait.
    pub(crate) backlog: i64,
    /// How long the oldest of them has waited.
    pub(crate) backlog_age_seconds: f64,
    /// Tasks in and out, each second, over the last half minute.
    pub(crate) add_rate: f64,
    pub(crate) dispatch_rate: f64,
    /// Who polled of late.
    #[serde(skip)]
    pub(crate) pollers: Vec<Poller>,
}

/// Somebody who polled a queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Poller {
    pub(crate) identity: String,
    pub(crate) seconds_ago: f64,
}

/// What a worker of a queue last said of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Worker {
    pub(crate) identity: String,
    pub(crate) queue: String,
    pub(crate) host: String,
    pub(crate) process: String,
    pub(crate) status: Status,
    pub(crate) last_heartbeat_seconds: f64,
    pub(crate) slots_used: i32,
    pub(crate) slots_free: i32,
    pub(crate) polls: i32,
    /// Of the host, 0 to 1.
    pub(crate) cpu: f32,
    pub(crate) memory: f32,
    pub(crate) sdk: String,
    /// As it offers them: `nvml:0 80 GiB`.
    pub(crate) devices: Vec<String>,
}

/// How a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Running,
    /// It has missed two heartbeats without a word: killed, or cut off.
    #[default]
    Silent,
    Draining,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Silent => "silent",
            Status::Draining => "draining",
            Status::Stopped => "stopped",
        }
    }
}

/// A task that has begun and cannot go on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Held {
    pub(crate) run: String,
    pub(crate) task: String,
    pub(crate) queue: String,
    pub(crate) worker: String,
    /// What its last heartbeat says.
    pub(crate) says: String,
}

/// A resource class: its queue and those of the models that its workers hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Class {
    pub(crate) class: String,
    pub(crate) backlog: i64,
    pub(crate) backlog_age_seconds: f64,
    pub(crate) add_rate: f64,
    pub(crate) dispatch_rate: f64,
    /// How long a task waits for its start: the scale signal.
    pub(crate) wait_seconds: f64,
    /// Used slots to all slots of the workers that run; 0 without any.
    pub(crate) busy: f64,
    pub(crate) slots: i64,
    pub(crate) slots_used: i64,
    /// Who polls, by what the engine saw.
    pub(crate) pollers: usize,
    /// Processes that serve it, by their heartbeats.
    pub(crate) workers: usize,
    /// What is wrong, and what to do.
    pub(crate) advice: Option<String>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) inventory: Vec<Worker>,
    pub(crate) held: Vec<Held>,
}

/// A poll of a live worker may be so old: it waits for a minute, then another follows.
const POLL_SECONDS: f64 = 75.0;

/// The class that a queue belongs to: `accelerator` for `accelerator/minilm`.
pub(crate) fn class_of(queue: &str) -> &str {
    queue.split_once('/').map_or(queue, |(class, _)| class)
}

/// One class from its queues, and of all workers and held tasks those that are its.
pub(crate) fn class(
    name: &str,
    engine: &str,
    queues: Vec<Queue>,
    workers: &[Worker],
    held: &[Held],
) -> Class {
    let ours: BTreeSet<&str> = queues.iter().map(|q| q.queue.as_str()).collect();
    let inventory: Vec<Worker> = workers
        .iter()
        .filter(|worker| ours.contains(worker.queue.as_str()))
        .cloned()
        .collect();
    let held = held
        .iter()
        .filter(|held| ours.contains(held.queue.as_str()));
    let held: Vec<Held> = held.cloned().collect();
    let sum = |figure: fn(&Queue) -> f64| queues.iter().map(figure).sum::<f64>();
    let backlog = queues.iter().map(|q| q.backlog).sum();
    let ages = queues.iter().map(|q| q.backlog_age_seconds);
    let backlog_age_seconds = ages.fold(0.0, f64::max);
    let dispatch_rate = sum(|q| q.dispatch_rate);
    let (used, free) = slots(&inventory);
    let mut class = Class {
        class: name.to_owned(),
        backlog,
        backlog_age_seconds,
        add_rate: sum(|q| q.add_rate),
        dispatch_rate,
        wait_seconds: wait(backlog, dispatch_rate, backlog_age_seconds),
        busy: used as f64 / (used + free).max(1) as f64,
        slots: used + free,
        slots_used: used,
        pollers: pollers(&queues, &inventory),
        workers: processes(&inventory).len(),
        advice: None,
        queues,
        inventory,
        held,
    };
    class.advice = advice(&class, engine);
    class
}

/// How long a task that joins the queue now is likely to wait, and no less than the oldest has waited
/// already. Where nothing is dispatched, that is all that is known.
fn wait(backlog: i64, dispatch_rate: f64, age: f64) -> f64 {
    if backlog <= 0 {
        return 0.0;
    }
    let drained = match dispatch_rate > 0.0 {
        true => backlog as f64 / dispatch_rate,
        false => 0.0,
    };
    drained.max(age)
}

/// Processes that run, with their queues.
fn processes(inventory: &[Worker]) -> BTreeMap<(&str, &str, &str), Vec<&Worker>> {
    let mut processes: BTreeMap<_, Vec<&Worker>> = BTreeMap::new();
    for worker in inventory.iter().filter(|w| w.status == Status::Running) {
        let key = (
            worker.host.as_str(),
            worker.process.as_str(),
            worker.identity.as_str(),
        );
        processes.entry(key).or_default().push(worker);
    }
    processes
}

/// Slots that are used and free. The queues of a class share the slots of a process, so each says the
/// same of what is free; an SDK that does not know says -1.
fn slots(inventory: &[Worker]) -> (i64, i64) {
    let mut sums = (0, 0);
    for queues in processes(inventory).values() {
        sums.0 += queues.iter().map(|w| i64::from(w.slots_used)).sum::<i64>();
        let free = queues.iter().map(|w| i64::from(w.slots_free)).min();
        sums.1 += free.unwrap_or(0).max(0);
    }
    sums
}

/// Identities that poll. The engine remembers a poller for minutes; one whose process is known to be
/// gone is none.
fn pollers(queues: &[Queue], inventory: &[Worker]) -> usize {
    let mut alive: BTreeMap<&str, bool> = BTreeMap::new();
    for worker in inventory {
        *alive.entry(&worker.identity).or_default() |= worker.status == Status::Running;
    }
    let polls = queues.iter().flat_map(|queue| &queue.pollers);
    let polls = polls.filter(|p| p.seconds_ago <= POLL_SECONDS);
    let identities: BTreeSet<&str> = polls.map(|p| p.identity.as_str()).collect();
    let gone = |identity: &&str| alive.get(identity) == Some(&false);
    identities.iter().filter(|identity| !gone(identity)).count()
}

fn advice(class: &Class, engine: &str) -> Option<String> {
    // A worker whose slots are all in use does not poll, and is no reason to start another by hand.
    if class.backlog == 0 || class.pollers > 0 || class.workers > 0 {
        return None;
    }
    let name = &class.class;
    let tasks = match class.backlog {
        1 => "1 task waits".to_owned(),
        many => format!("{many} tasks wait"),
    };
    let silent = class
        .inventory
        .iter()
        .filter(|w| w.status == Status::Silent);
    let latest = silent.min_by(|a, b| {
        a.last_heartbeat_seconds
            .total_cmp(&b.last_heartbeat_seconds)
    });
    let why = match latest {
        Some(worker) => format!(
            "the last worker, {} on {}, has been silent for {:.0} s",
            worker.identity, worker.host, worker.last_heartbeat_seconds
        ),
        None => "no worker polls it".to_owned(),
    };
    let offer = match name == TASK_QUEUE {
        // Every worker interprets plans, unless it was told not to.
        true => String::new(),
        false => format!(" --offer {name}"),
    };
    Some(format!(
        "{tasks} in {name} and {why}. Start one: tidemill worker --engine {engine}{offer}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, backlog: i64, rate: f64, age: f64) -> Queue {
        Queue {
            queue: name.to_owned(),
            backlog,
            backlog_age_seconds: age,
            add_rate: 1.0,
            dispatch_rate: rate,
            pollers: Vec::new(),
        }
    }

    fn worker(identity: &str, queue: &str, status: Status, slots: (i32, i32)) -> Worker {
        Worker {
            identity: identity.to_owned(),
            queue: queue.to_owned(),
            host: "node-1".to_owned(),
            process: identity.to_owned(),
            status,
            last_heartbeat_seconds: 12.0,
            slots_used: slots.0,
            slots_free: slots.1,
            ..Worker::default()
        }
    }

    fn polled(mut queue: Queue, polls: &[(&str, f64)]) -> Queue {
        queue.pollers = polls
            .iter()
            .map(|(identity, seconds_ago)| Poller {
                identity: (*identity).to_owned(),
                seconds_ago: *seconds_ago,
            })
            .collect();
        queue
    }

    #[test]
    fn the_same_depth_waits_longer_where_service_is_slower() {
        // (backlog, dispatched each second, age of the oldest, wait)
        for (backlog, rate, age, expected) in [
            (0, 0.0, 0.0, 0.0),
            (0, 5.0, 0.0, 0.0),
            (100, 10.0, 3.0, 10.0),
            (100, 1.0, 3.0, 100.0),
            // Nobody serves it: what is known is how long the oldest has waited.
            (100, 0.0, 42.0, 42.0),
            // Tasks of low priority starve behind a fast queue.
            (1, 50.0, 600.0, 600.0),
        ] {
            assert_eq!(wait(backlog, rate, age), expected, "{backlog} {rate} {age}");
        }
    }

    #[test]
    fn a_class_is_the_sum_of_its_queues() {
        let queues = vec![
            polled(
                queue("accelerator", 10, 1.0, 5.0),
                &[("a", 1.0), ("b", 70.0)],
            ),
            polled(queue("accelerator/minilm", 20, 2.0, 1.0), &[("a", 2.0)]),
        ];
        let running = Status::Running;
        let workers = [
            worker("a", "accelerator", running, (3, 5)),
            worker("a", "accelerator/minilm", running, (0, 5)),
            worker("b", "accelerator", running, (0, 8)),
            worker("c", "accelerator", Status::Stopped, (4, 4)),
            worker("d", "cpu", running, (1, 1)),
            worker("e", "accelerator", running, (1, -1)),
        ];
        let class = class("accelerator", "here:1", queues, &workers, &[]);
        assert_eq!((class.backlog, class.backlog_age_seconds), (30, 5.0));
        assert_eq!((class.add_rate, class.dispatch_rate), (2.0, 3.0));
        assert_eq!(class.wait_seconds, 10.0);
        assert_eq!((class.slots_used, class.slots), (4, 17));
        assert_eq!(class.busy, 4.0 / 17.0);
        assert_eq!((class.pollers, class.workers), (2, 3));
        assert_eq!(class.inventory.len(), 5, "the other class's is not shown");
        assert_eq!(class.advice, None);
    }

    #[test]
    fn a_backlog_that_nobody_polls_is_named_with_what_to_do() {
        let advice = |queue: Queue, workers: &[Worker]| {
            class("video", "here:7233", vec![queue], workers, &[]).advice
        };
        let start = "Start one: tidemill worker --engine here:7233 --offer video";
        let alone = advice(queue("video", 1, 0.0, 3.0), &[]).unwrap();
        assert_eq!(
            alone,
            format!("1 task waits in video and no worker polls it. {start}")
        );
        // The engine still remembers the polls of one that was killed.
        let dead = [worker("w", "video", Status::Silent, (2, 0))];
        let after = advice(polled(queue("video", 7, 1.0, 3.0), &[("w", 15.0)]), &dead);
        assert_eq!(
            after.unwrap(),
            format!(
                "7 tasks wait in video and the last worker, w on node-1, has been silent for 12 s. \
                 {start}"
            )
        );
        let old = polled(queue("video", 7, 1.0, 3.0), &[("unknown", 200.0)]);
        assert!(advice(old, &[]).is_some());
        let served = polled(queue("video", 7, 1.0, 3.0), &[("unknown", 60.0)]);
        assert_eq!(advice(served, &[]), None);
        assert_eq!(advice(queue("video", 0, 0.0, 0.0), &[]), None);
        // All its slots are in use: it does not poll.
        let full = [worker("w", "video", Status::Running, (2, 0))];
        assert_eq!(advice(queue("video", 7, 1.0, 3.0), &full), None);
        let runs = vec![queue(TASK_QUEUE, 2, 0.0, 3.0)];
        let runs = class(TASK_QUEUE, "here:7233", runs, &[], &[])
            .advice
            .unwrap();
        assert!(
            runs.ends_with("tidemill worker --engine here:7233"),
            "{runs}"
        );
    }

    #[test]
    fn queues_of_models_belong_to_their_class() {
        for (queue, class) in [
            ("cpu", "cpu"),
            ("accelerator/minilm@3f2a", "accelerator"),
            ("a/b/c", "a"),
        ] {
            assert_eq!(class_of(queue), class);
        }
    }
}
