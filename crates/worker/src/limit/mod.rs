//! Limits that this worker shares with all others: what its tasks do under them.
//!
//! For each limit there is one [`agent`], which asks the limit's workflow for allotments and slots and
//! gives them to the tasks that wait. A task [enters](Limits::enter) the limit of its stage before the
//! stage runs, and the stage's requests to a provider [wait](Limiter) for permits.

mod agent;
mod rpc;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tidemill_connect::inference::Error as CallError;
use tidemill_connect::limiter::{Limiter, Outcome};
use tidemill_pipeline::limit::{self, Slot};
use tidemill_pipeline::task::TaskInput;
use tidemill_stages::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use self::agent::{Agent, Standing};
pub(crate) use self::rpc::Updates;

/// While a task waits, a line of progress this often.
const TELL_EVERY: Duration = Duration::from_secs(2);

type Progress = Arc<dyn Fn(String) + Send + Sync>;

/// The limits of a worker.
pub(crate) struct Limits {
    /// This process, and not the next one of the same name.
    worker: String,
    /// Where limits are asked: not on the threads of stages, which may be busy.
    threads: Option<Handle>,
    engine: watch::Sender<Option<Arc<Updates>>>,
    agents: Mutex<HashMap<String, Arc<Agent>>>,
}

impl Limits {
    /// For a worker of this identity. Limits are asked on the runtime of the caller.
    pub(crate) fn new(identity: &str) -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let unique = RandomState::new().hash_one(now);
        Self {
            worker: format!("{identity}/{unique:016x}"),
            threads: Handle::try_current().ok(),
            engine: watch::Sender::new(None),
            agents: Mutex::default(),
        }
    }

    /// Where to ask from now on.
    pub(crate) fn connected(&self, updates: Updates) {
        self.engine.send_replace(Some(Arc::new(updates)));
    }

    /// Waits until a task may run under the limit of its stage, if it has one.
    ///
    /// # Errors
    /// There is no such limit, the task can never run under it, or it was cancelled.
    pub(crate) async fn enter(
        &self,
        task: &TaskInput,
        attempt: u32,
        cancelled: &CancellationToken,
        progress: &Progress,
    ) -> Result<Option<Entered>, Error> {
        let Some(of) = &task.demands.limit else {
            return Ok(None);
        };
        limit::check_name(&of.name).map_err(Error::invalid)?;
        let agent = self.agent(&of.name);
        let mut entered = Entered {
            limiter: Arc::new(TaskLimiter {
                agent: agent.clone(),
                progress: progress.clone(),
            }),
            slot: None,
        };
        if agent.lets_all_run() {
            return Ok(Some(entered));
        }
        let (id, watched) = agent.line_up(Slot {
            task: key(task),
            attempt,
            weight: of.weight.max(1),
            runs: false,
        });
        let mut taken = Taken {
            agent: agent.clone(),
            id,
            watched,
        };
        tokio::select! {
            () = cancelled.cancelled() => return Err(Error::cancelled()),
            may = telling(&agent, progress, taken.granted()) => may?,
        }
        entered.slot = Some(taken);
        Ok(Some(entered))
    }

    fn agent(&self, name: &str) -> Arc<Agent> {
        let mut agents = self.agents.lock();
        if let Some(agent) = agents.get(name) {
            return agent.clone();
        }
        let agent = Agent::new(name, &self.worker, self.engine.subscribe());
        if let Some(threads) = &self.threads {
            threads.spawn(agent.clone().run());
        }
        agents.insert(name.to_owned(), agent.clone());
        agent
    }
}

/// The same for all attempts of a task, and for no other task.
fn key(task: &TaskInput) -> String {
    // A task came as JSON.
    let json = serde_json::to_vec(task).unwrap_or_default();
    let hash = Sha256::digest(json);
    let short: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}/{}#{short}", task.run.id, task.stage)
}

/// A task that may run under a limit, until this is dropped.
pub(crate) struct Entered {
    limiter: Arc<TaskLimiter>,
    slot: Option<Taken>,
}

impl Entered {
    /// For the requests of the task's stage.
    pub(crate) fn limiter(&self) -> Arc<dyn Limiter> {
        self.limiter.clone()
    }
}

/// Runs the work of a task that has entered a limit, or has none. The work ends when its slot is lost:
/// another task may have it.
pub(crate) async fn under<T>(
    entered: &Option<Entered>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(slot) = entered.as_ref().and_then(|entered| entered.slot.as_ref()) else {
        return work.await;
    };
    tokio::select! {
        done = work => done,
        () = slot.lost() => Err(Error::unavailable(
            "it lost its slot: its limit did not hear of this worker for as long as a lease lasts",
        )),
    }
}

/// A place in line, or a slot.
struct Taken {
    agent: Arc<Agent>,
    id: u64,
    watched: watch::Receiver<Standing>,
}

impl Taken {
    async fn granted(&mut self) -> Result<(), Error> {
        let decided = |standing: &Standing| !matches!(standing, Standing::Waits);
        match self.watched.wait_for(decided).await.as_deref() {
            Ok(Standing::Refused(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::cancelled()),
        }
    }

    /// Ends when the task should not run any more.
    async fn lost(&self) {
        let mut watched = self.watched.clone();
        loop {
            let standing = watched.borrow_and_update().clone();
            match standing {
                Standing::Lost => return,
                Standing::Runs { until } => tokio::select! {
                    () = sleep_until(until) => {
                        let standing = watched.borrow().clone();
                        if matches!(standing, Standing::Runs { until } if until <= Instant::now()) {
                            return;
                        }
                    }
                    changed = watched.changed() => if changed.is_err() {
                        // The limit was removed.
                        return std::future::pending().await;
                    },
                },
                Standing::Waits | Standing::Refused(_) => return std::future::pending().await,
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.agent.leave(self.id);
    }
}

/// A limit for the requests of one task.
struct TaskLimiter {
    agent: Arc<Agent>,
    progress: Progress,
}

#[async_trait]
impl Limiter for TaskLimiter {
    async fn permit(&self, tokens: u64) -> Result<u64, CallError> {
        telling(&self.agent, &self.progress, self.agent.permit(tokens)).await
    }

    async fn ended(&self, permit: u64, outcome: Outcome) -> bool {
        self.agent.ended(permit, outcome).await
    }
}

/// Waits, and tells now and then why.
async fn telling<T>(agent: &Agent, progress: &Progress, wait: impl Future<Output = T>) -> T {
    let mut ticks = interval_at(Instant::now() + TELL_EVERY, TELL_EVERY);
    tokio::pin!(wait);
    loop {
        tokio::select! {
            done = &mut wait => return done,
            _ = ticks.tick() => progress(agent.why()),
        }
    }
}
