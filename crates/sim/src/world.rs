//! What outlives the server's process: clients, workers, and what they know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_store::log::sim::Random;

use crate::host;
use crate::oracle::Ledger;
use crate::oracle::retention::Retention;
use crate::plan::{Limits, Plan};
use crate::trace::Trace;
use crate::workers::{Answer, Cache};

/// Shared by everything on the thread of a simulation. It is never held over an `await`.
#[derive(Clone)]
pub(crate) struct World {
    shared: Arc<Mutex<Shared>>,
    pub(crate) plan: Arc<Plan>,
    /// The names of all that could be left out of the plan.
    pub(crate) parts: Arc<[String]>,
    /// Workflows of the plan by their ids.
    pub(crate) workflows: Arc<HashMap<String, usize>>,
}

pub(crate) struct Shared {
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) findings: Vec<String>,
    pub(crate) clients: Vec<Client>,
    /// Tasks that workers have in hand.
    pub(crate) held: BTreeMap<u64, Held>,
    pub(crate) last_held: u64,
    /// By worker.
    pub(crate) caches: Vec<Cache>,
    /// Everything is done: nobody asks for anything any more.
    pub(crate) is_over: bool,
    pub(crate) ledger: Ledger,
    /// Once everything else was looked at.
    pub(crate) retention: Option<Retention>,
    /// How long a flush of the log takes at most.
    pub(crate) latency_ms: usize,
    /// By the wall clock; later than all times while it is bad.
    pub(crate) disk_bad_until: i64,
    /// How many commits there were at the last moment at which there was one.
    rush: (u64, usize),
    pub(crate) stats: Stats,
}

/// So many commits at one moment are a loop.
const RUSH: usize = 5_000;

/// How far a client has got with its workflow.
#[derive(Clone, Default)]
pub(crate) struct Client {
    pub(crate) run_id: Option<String>,
    pub(crate) started_at: Duration,
    pub(crate) signals: usize,
    /// Numbers of updates and queries that are over.
    pub(crate) updated: BTreeSet<usize>,
    pub(crate) queried: BTreeSet<usize>,
    pub(crate) cancelled: bool,
    pub(crate) terminated: bool,
    pub(crate) reset: Option<Reset>,
    pub(crate) closed: bool,
}

/// A reset that a client wants.
#[derive(Clone)]
pub(crate) struct Reset {
    pub(crate) base: String,
    /// The event by which the workflow task ended that is done again.
    pub(crate) finish_event_id: i64,
    pub(crate) new_run: Option<String>,
}

/// A task that a worker will answer.
#[derive(Clone)]
pub(crate) struct Held {
    /// In simulated nanoseconds, once for each time that the answer is sent.
    pub(crate) at: Vec<u64>,
    /// When it says before that that it is alive.
    pub(crate) beats: Vec<u64>,
    pub(crate) answer: Answer,
}

/// What a seed did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub requests: u64,
    pub failed_requests: u64,
    pub crashes: u64,
    pub tasks: u64,
    /// Tasks that a worker had sent to itself.
    pub sticky_tasks: u64,
    pub updates: u64,
    pub queries: u64,
    pub cancels: u64,
    pub resets: u64,
    pub heartbeats: u64,
    /// Closed runs that were seen to be deleted.
    pub expired: u64,
}

impl Stats {
    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        Stats {
            requests: self.requests + other.requests,
            failed_requests: self.failed_requests + other.failed_requests,
            crashes: self.crashes + other.crashes,
            tasks: self.tasks + other.tasks,
            sticky_tasks: self.sticky_tasks + other.sticky_tasks,
            updates: self.updates + other.updates,
            queries: self.queries + other.queries,
            cancels: self.cancels + other.cancels,
            resets: self.resets + other.resets,
            heartbeats: self.heartbeats + other.heartbeats,
            expired: self.expired + other.expired,
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64, limits: &Limits, loud: bool) -> Self {
        let mut random = Random(seed);
        random.draw();
        let mut plan = Plan::draw(&mut random);
        let parts = plan.part_names();
        plan.limit(limits);
        let clients = vec![Client::default(); plan.workflows.len()];
        let workflows = plan.workflows.iter().enumerate();
        let workflows = workflows.map(|(at, workflow)| (workflow.id.clone(), at));
        World {
            workflows: Arc::new(workflows.collect()),
            shared: Arc::new(Mutex::new(Shared {
                random,
                trace: Trace::new(loud),
                findings: Vec::new(),
                clients,
                held: BTreeMap::new(),
                last_held: 0,
                caches: (0..plan.workers).map(|_| Cache::default()).collect(),
                disk_bad_until: 0,
                is_over: false,
                ledger: Ledger::default(),
                retention: None,
                latency_ms: 2,
                rush: (0, 0),
                stats: Stats::default(),
            })),
            plan: Arc::new(plan),
            parts: parts.into(),
        }
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Shared) -> T) -> T {
        f(&mut self.shared.lock())
    }

    pub(crate) fn say(&self, what: impl Display) {
        self.with(|shared| shared.trace.say(what));
    }

    /// Something that must not be.
    pub(crate) fn find(&self, what: impl Display) {
        self.with(|shared| shared.find(what));
    }

    pub(crate) fn below(&self, n: usize) -> usize {
        self.with(|shared| shared.random.below(n))
    }

    pub(crate) fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Counts a commit.
    pub(crate) fn committed(&self) {
        self.with(|shared| {
            let now = host::now();
            let before = match shared.rush {
                (at, count) if at == now => count,
                _ => 0,
            };
            shared.rush = (now, before + 1);
            if before + 1 == RUSH {
                shared.find("commits follow one another without any pause");
            }
        });
    }

    /// The time stands still: there is no end to commits.
    pub(crate) fn is_stuck(&self) -> bool {
        self.with(|shared| shared.rush.1 >= RUSH)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.with(|shared| shared.is_over)
    }

    pub(crate) fn is_calm(&self) -> bool {
        now() >= self.plan.calm_from
    }

    /// Sleeps for some milliseconds, at most so many; for none it lets others go first.
    pub(crate) async fn dawdle(&self, most: usize) {
        match self.below(most + 1) {
            0 => tokio::task::yield_now().await,
            ms => tokio::time::sleep(Duration::from_millis(ms as u64)).await,
        }
    }
}

impl Shared {
    pub(crate) fn find(&mut self, what: impl Display) {
        self.trace.say(format!("FOUND: {what}"));
        let what = what.to_string();
        if !self.findings.contains(&what) {
            self.findings.push(what);
        }
    }
}

/// Since the simulation began.
pub(crate) fn now() -> Duration {
    Duration::from_nanos(host::now())
}
