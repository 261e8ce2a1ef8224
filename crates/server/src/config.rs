//! What the composition root decides about a server.

use std::time::Duration;

use tidemill_engine::Limits;

use crate::namespaces::Registration;

#[derive(Clone, Debug)]
pub struct Config {
    pub limits: Limits,
    /// Namespaces that are made if they are missing.
    pub namespaces: Vec<Registration>,
    /// Actors that runs are spread over.
    pub shards: usize,
    /// Memory for runs that are not being worked on, about, over all shards.
    pub cache_bytes: usize,
    /// How long a request for new history or an update's outcome is held.
    pub long_poll: Duration,
    /// How long a poll for a task is held.
    pub task_poll: Duration,
    /// An answer leaves this long before the caller's own deadline.
    pub deadline_margin: Duration,
    /// How far ahead wake-up times are held in memory.
    pub timer_horizon: Duration,
    /// How often closed runs are looked through for those whose retention has passed.
    pub retention_interval: Duration,
    /// A caller who has long been alone writes its commit itself. By default where the runtime has a thread that
    /// serves meanwhile.
    pub callers_commit: Option<bool>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            namespaces: Vec::new(),
            shards: 4,
            cache_bytes: 256 * 1024 * 1024,
            long_poll: Duration::from_secs(20),
            task_poll: Duration::from_secs(60),
            deadline_margin: Duration::from_secs(1),
            timer_horizon: Duration::from_secs(120),
            // Retention is counted in hours: a look each minute is often enough.
            retention_interval: Duration::from_secs(60),
            callers_commit: None,
        }
    }
}
