//! One large run: whether an event costs the same in it as in a small one.
//!
//! What is compared is the CPU time of the server where it can be read, else time.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use super::open::load_prefix;
use super::{Outcome, at_size};
use crate::command;
use crate::lane::{Lane, Task};
use crate::stats::round;
use crate::table::{Figure, Wanted};
use crate::target::{Session, Target};

const EVENTS: usize = 50_000;
const ACTIVITIES: usize = 2_000;
const SIGNALS: usize = 10_000;
/// What a large run is compared with.
const SMALL: usize = 1_000;
/// Commands in one workflow task.
const COMMANDS: usize = 100;
/// What a workflow task adds beside what its commands do: scheduled, started, completed.
const TASK_EVENTS: usize = 3;
/// Calls at a time for one run.
const AT_ONCE: usize = 16;

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// Events of one run.
    #[arg(long, default_value_t = EVENTS)]
    pub(crate) events: usize,
    /// Pending activities of one run.
    #[arg(long, default_value_t = ACTIVITIES)]
    pub(crate) activities: usize,
    /// Signals to one run.
    #[arg(long, default_value_t = SIGNALS)]
    pub(crate) signals: usize,
}

/// Microseconds for each event: all of it, and what the last thousand took.
struct Cost {
    mean: f64,
    last: f64,
}

pub(crate) async fn run(target: &Target, options: &Options) -> Result<Outcome> {
    let Options {
        events,
        activities,
        signals,
    } = *options;
    ensure!(
        events >= 2 * SMALL && activities >= 10 && signals >= 2 * SMALL,
        "at least {} events and signals, and 10 activities",
        2 * SMALL
    );
    let session = target.open(4 * AT_ONCE).await?;
    println!(
        "{}: one run of {events} events, one of {activities} pending activities, one of {signals} signals, \
         each beside runs of {SMALL}",
        session.address
    );
    let prefix = load_prefix("limits");
    let mut bench = Bench {
        session: &session,
        prefix,
        number: 0,
    };
    // What is slow once is not what is looked for.
    bench.grow(SMALL).await?;
    let mut small = Vec::new();
    for _ in 0..5 {
        small.push(bench.grow(SMALL).await?.mean);
    }
    let small_events = mean(&small);
    let grown = bench.grow(events).await?;

    let base = SMALL.min(activities / 2);
    let small_activities = mean(&[
        bench.activities(base).await?,
        bench.activities(base).await?,
        bench.activities(base).await?,
    ]);
    let many_activities = bench.activities(activities).await?;

    let mut small = Vec::new();
    for _ in 0..5 {
        small.push(bench.signals(SMALL).await?.mean);
    }
    let small_signals = mean(&small);
    let signalled = bench.signals(signals).await?;

    let ratio = |large: f64, small: f64| round(large / small, 2);
    let events_last = ratio(grown.last, small_events);
    let activities_ratio = ratio(many_activities, small_activities);
    let signals_last = ratio(signalled.last, small_signals);
    let most = Wanted::AtMost(1.5);
    let figures = vec![
        Figure::new(
            format!("one run: cost of an event at {events} to that at 1,000"),
            Some(events_last),
            "x",
            at_size(events, EVENTS, most),
        ),
        Figure::new(
            format!("one run: cost of an activity among {activities} to that among {base}"),
            Some(activities_ratio),
            "x",
            at_size(activities, ACTIVITIES, most),
        ),
        Figure::new(
            format!("one run: cost of a signal at {signals} to that at 1,000"),
            Some(signals_last),
            "x",
            at_size(signals, SIGNALS, most),
        ),
    ];
    let report = json!({
        "cost": if session.probe.has_cpu() { "engine CPU" } else { "time" },
        "events": events,
        "event_us_at_1000": round(small_events, 1),
        "event_us": round(grown.mean, 1),
        "event_us_last_1000": round(grown.last, 1),
        "event_ratio": events_last,
        "activities": activities,
        "activity_us_few": round(small_activities, 1),
        "activity_us": round(many_activities, 1),
        "activity_ratio": activities_ratio,
        "signals": signals,
        "signal_us_at_1000": round(small_signals, 1),
        "signal_us": round(signalled.mean, 1),
        "signal_us_last_1000": round(signalled.last, 1),
        "signal_ratio": signals_last,
    });
    Ok(Outcome { report, figures })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

struct Bench<'a> {
    session: &'a Session,
    prefix: String,
    /// Runs so far.
    number: usize,
}

/// A point from which cost is counted.
struct Meter<'a> {
    session: &'a Session,
    at: Instant,
    cpu_us: Option<f64>,
}

impl<'a> Meter<'a> {
    fn start(session: &'a Session) -> Self {
        Self {
            session,
            at: Instant::now(),
            cpu_us: session.probe.cpu_us(),
        }
    }

    fn us(&self) -> f64 {
        let cpu = self.session.probe.cpu_us().zip(self.cpu_us);
        cpu.map_or_else(
            || self.at.elapsed().as_secs_f64() * 1e6,
            |(now, then)| now - then,
        )
    }
}

impl Bench<'_> {
    async fn begin(&mut self) -> Result<(Lane, String, Task)> {
        self.number += 1;
        let id = format!("{}-{}", self.prefix, self.number);
        let channel = &self.session.channels[0];
        let mut lane = Lane::new(channel, &self.session.namespace, format!("{id}-queue"));
        let (_, task) = lane.begin(&id, "large").await?;
        Ok((lane, id, task))
    }

    /// A run that records markers until it has so many events.
    async fn grow(&mut self, events: usize) -> Result<Cost> {
        let (mut lane, _, mut task) = self.begin().await?;
        let whole = Meter::start(self.session);
        let mut last = None;
        let mut written = TASK_EVENTS;
        while written + COMMANDS + TASK_EVENTS < events {
            if last.is_none() && written + SMALL >= events {
                last = Some((Meter::start(self.session), written));
            }
            let markers = (0..COMMANDS).map(|_| command::marker()).collect();
            let next = lane.complete(&task, markers, true, true).await?;
            task = next.context("the next task did not come with the answer")?;
            written += COMMANDS + TASK_EVENTS;
        }
        let mean = whole.us() / written as f64;
        let last = last.map_or(mean, |(meter, from)| meter.us() / (written - from) as f64);
        lane.complete(&task, vec![command::complete()], false, false)
            .await?;
        Ok(Cost { mean, last })
    }

    /// Microseconds for each of so many activities that are all scheduled before the first is taken.
    async fn activities(&mut self, count: usize) -> Result<f64> {
        let (mut lane, _, mut task) = self.begin().await?;
        let meter = Meter::start(self.session);
        for first in (0..count).step_by(COMMANDS) {
            let until = (first + COMMANDS).min(count);
            let commands = (first..until)
                .map(|n| command::activity(n, lane.task_queue()))
                .collect();
            let again = until < count;
            // The last one is on the normal queue: nobody takes it until all activities are done.
            let next = lane.complete(&task, commands, again, again).await?;
            if again {
                task = next.context("the next task did not come with the answer")?;
            }
        }
        let mut workers = JoinSet::new();
        for number in 0..AT_ONCE {
            let mut lane = lane.clone();
            let mine = (number..count).step_by(AT_ONCE).count();
            workers.spawn(async move {
                for _ in 0..mine {
                    let activity = lane.activity().await?;
                    lane.complete_activity(activity.task_token, activity.input)
                        .await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(done) = workers.join_next().await {
            done??;
        }
        let cost = meter.us() / count as f64;
        let task = lane.task(false).await?;
        lane.complete(&task, vec![command::complete()], false, false)
            .await
            .context("the run with many activities")?;
        Ok(cost)
    }

    /// Signals to a run whose workflow task nobody takes meanwhile.
    async fn signals(&mut self, count: usize) -> Result<Cost> {
        let (mut lane, id, task) = self.begin().await?;
        lane.complete(&task, Vec::new(), false, false).await?;
        let whole = Meter::start(self.session);
        self.send(&lane, &id, count - SMALL.min(count / 2)).await?;
        let tail = Meter::start(self.session);
        self.send(&lane, &id, SMALL.min(count / 2)).await?;
        let cost = Cost {
            mean: whole.us() / count as f64,
            last: tail.us() / SMALL.min(count / 2) as f64,
        };
        let task = lane.task(false).await?;
        lane.complete(&task, vec![command::complete()], false, false)
            .await
            .context("the run with many signals")?;
        Ok(cost)
    }

    async fn send(&self, lane: &Lane, id: &str, count: usize) -> Result<()> {
        let mut clients = JoinSet::new();
        for number in 0..AT_ONCE {
            let (mut lane, id) = (lane.clone(), id.to_owned());
            clients.spawn(async move {
                for _ in (number..count).step_by(AT_ONCE) {
                    lane.signal(&id).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(done) = clients.join_next().await {
            done??;
        }
        Ok(())
    }
}
