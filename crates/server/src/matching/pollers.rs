//! Who polls a queue: what `DescribeTaskQueue` lists, and whether anybody is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_proto::api::common::v1::{WorkerVersionCapabilities, WorkerVersionStamp};
use tidemill_proto::api::deployment::v1::WorkerDeploymentOptions;
use tidemill_store::Nanos;
use tokio::time::Instant;

/// What a poll says about its worker; kept for the description of the queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerInfo {
    pub worker_instance_key: String,
    pub deployment_options: Option<WorkerDeploymentOptions>,
    pub version_capabilities: Option<WorkerVersionCapabilities>,
}

impl WorkerInfo {
    /// The worker's version as tasks that it starts are stamped with it.
    pub fn version_stamp(&self) -> Option<WorkerVersionStamp> {
        let version = self.version_capabilities.as_ref()?;
        Some(WorkerVersionStamp {
            build_id: version.build_id.clone(),
            use_versioning: version.use_versioning,
        })
    }
}

/// A poller that was seen in the last five minutes.
#[derive(Clone, Debug, PartialEq)]
pub struct PollerInfo {
    pub identity: Arc<str>,
    /// Wall clock.
    pub last_access: Nanos,
    /// What the poller asked for; `None` when it set no limit.
    pub max_tasks_per_second: Option<f64>,
    pub worker: Arc<WorkerInfo>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    info: PollerInfo,
}

/// The pollers of one queue.
#[derive(Debug, Default)]
pub(super) struct Pollers {
    seen: HashMap<Arc<str>, Seen>,
    /// When this many identities are known, those that left are forgotten.
    prune_at: usize,
    /// Polls in progress.
    polls: usize,
    last: Option<(Instant, Nanos)>,
}

/// Identities that are kept before the first pruning.
const PRUNE_MIN: usize = 64;

impl Pollers {
    /// A poll began.
    pub(super) fn began(&mut self, info: PollerInfo, now: Instant, retention: Duration) {
        self.polls += 1;
        self.last = Some((now, info.last_access));
        self.seen
            .insert(info.identity.clone(), Seen { at: now, info });
        if self.seen.len() > self.prune_at.max(PRUNE_MIN) {
            self.prune(now, retention);
            self.prune_at = self.seen.len() * 2;
        }
    }

    /// A poll ended, whatever its outcome.
    pub(super) fn ended(&mut self, identity: &Arc<str>, now: Instant, wall: Nanos) {
        self.polls -= 1;
        // After an unload nobody counts as present until a new poll begins.
        if self.last.is_some() {
            self.last = Some((now, wall));
        }
        if let Some(seen) = self.seen.get_mut(identity) {
            seen.at = now;
            seen.info.last_access = wall;
        }
    }

    /// Polls in progress.
    pub(super) fn polls(&self) -> usize {
        self.polls
    }

    /// True when a poll is in progress, or one ended in the last `window`.
    pub(super) fn present(&self, now: Instant, window: Duration) -> bool {
        self.last
            .is_some_and(|(at, _)| self.polls > 0 || now.saturating_duration_since(at) < window)
    }

    /// When somebody polled last, by the wall clock.
    pub(super) fn last_access(&self) -> Option<Nanos> {
        self.last.map(|(_, wall)| wall)
    }

    /// Forgets that anybody was there; the list of pollers stays.
    pub(super) fn absent(&mut self) {
        self.last = None;
    }

    pub(super) fn prune(&mut self, now: Instant, retention: Duration) {
        self.seen
            .retain(|_, seen| now.saturating_duration_since(seen.at) < retention);
    }

    /// Those seen within `retention`, by identity.
    pub(super) fn list(&self, now: Instant, retention: Duration) -> Vec<PollerInfo> {
        let recent = |seen: &&Seen| now.saturating_duration_since(seen.at) < retention;
        let mut pollers: Vec<_> = self
            .seen
            .values()
            .filter(recent)
            .map(|seen| seen.info.clone())
            .collect();
        pollers.sort_by(|a, b| a.identity.cmp(&b.identity));
        pollers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Duration = Duration::from_secs(300);

    fn info(identity: &str, wall: Nanos) -> PollerInfo {
        PollerInfo {
            identity: identity.into(),
            last_access: wall,
            max_tasks_per_second: None,
            worker: Arc::default(),
        }
    }

    #[test]
    fn presence_lasts_for_the_window_after_the_end_of_a_poll() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let window = Duration::from_secs(10);
        let mut pollers = Pollers::default();
        assert!(!pollers.present(start, window));
        pollers.began(info("a", 0), start, RETENTION);
        assert!(pollers.present(after(60), window));
        pollers.ended(&"a".into(), after(60), 60);
        assert!(pollers.present(after(69), window));
        assert!(!pollers.present(after(70), window));
        assert_eq!(pollers.last_access(), Some(60));
    }

    #[test]
    fn after_an_unload_only_a_new_poll_counts() {
        let start = Instant::now();
        let window = Duration::from_secs(10);
        let mut pollers = Pollers::default();
        pollers.began(info("a", 0), start, RETENTION);
        pollers.absent();
        assert!(!pollers.present(start, window));
        pollers.ended(&"a".into(), start, 0);
        assert!(!pollers.present(start, window));
        pollers.began(info("a", 0), start, RETENTION);
        assert!(pollers.present(start, window));
    }

    #[test]
    fn pollers_are_listed_for_five_minutes() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut pollers = Pollers::default();
        pollers.began(info("b", 1), start, RETENTION);
        pollers.began(info("a", 2), after(100), RETENTION);
        let names = |p: &Pollers, now| {
            p.list(now, RETENTION)
                .iter()
                .map(|i| i.identity.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&pollers, after(100)), ["a", "b"]);
        assert_eq!(names(&pollers, after(300)), ["a"]);
        pollers.ended(&"b".into(), after(350), 3);
        assert_eq!(names(&pollers, after(399)), ["a", "b"]);
        assert_eq!(names(&pollers, after(400)), ["b"]);
        assert!(names(&pollers, after(650)).is_empty());
    }

    #[test]
    fn ever_new_identities_do_not_pile_up() {
        let start = Instant::now();
        let mut pollers = Pollers::default();
        for n in 0..100_000_u64 {
            let now = start + Duration::from_secs(n);
            let identity = format!("worker-{n}");
            pollers.began(info(&identity, 0), now, RETENTION);
            pollers.ended(&identity.as_str().into(), now, 0);
        }
        assert!(
            pollers.seen.len() <= 2 * 300 + PRUNE_MIN,
            "{}",
            pollers.seen.len()
        );
    }
}
