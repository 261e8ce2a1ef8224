//! How busy the host is, and the gate that closes above a target of it.
//!
//! In a container with limits, "the host" is what the container may use.

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sysinfo::System;
use tokio::time::{MissedTickBehavior, interval_at};
use tracing::debug;

use crate::slots::Gate;

/// Between two looks at the host. A share of CPU over less than 200 ms says little.
const EVERY: Duration = Duration::from_millis(250);
/// Between two admissions below the target: a task shows in the next looks, not at once.
const PACE: Duration = Duration::from_millis(50);

/// Shares of the host, 0 to 1, above which nothing more is admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Targets {
    pub(crate) cpu: Option<f64>,
    pub(crate) memory: Option<f64>,
}

/// Shares of the host in use, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu: f64,
    pub(crate) memory: f64,
}

/// A gate for a class, and what keeps it up to date for as long as it is polled. Without a target the
/// gate is always open, and the future waits for good.
pub(crate) fn gate(
    targets: Targets,
) -> (Arc<Gate>, impl Future<Output = Infallible> + Send + 'static) {
    let targeted = targets != Targets::default();
    let gate = if targeted {
        Gate::paced(PACE)
    } else {
        Gate::open()
    };
    let kept = gate.clone();
    let watch = async move {
        if !targeted {
            return std::future::pending().await;
        }
        let mut host = Host::new();
        // The first look has nothing to compare with.
        let mut ticks = interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let before = kept.is_open();
            apply(targets, host.usage(), &kept);
            match (before, kept.is_open()) {
                (true, false) => debug!("no more is admitted: {}", kept.reasons().join("; ")),
                (false, true) => debug!("the host has room again"),
                _ => {}
            }
        }
    };
    (gate, watch)
}

fn apply(targets: Targets, usage: Usage, gate: &Gate) {
    let above = |what: &str, used: f64, target: Option<f64>| {
        let target = target.filter(|target| used > *target)?;
        Some(format!(
            "{what} of the host is {:.0} % used, above its target of {:.0} %",
            used * 100.0,
            target * 100.0
        ))
    };
    gate.set("cpu", above("CPU", usage.cpu, targets.cpu));
    gate.set("memory", above("memory", usage.memory, targets.memory));
}

/// Looks at the host.
struct Host {
    system: System,
    /// CPU time that the container had used at the last look.
    container: Option<(Instant, u64)>,
}

impl Host {
    fn new() -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        Self {
            system,
            container: None,
        }
    }

    /// Since the last look.
    fn usage(&mut self) -> Usage {
        self.system.refresh_memory();
        let (used, total) = match self.system.cgroup_limits() {
            // Not the page cache, which goes when it is in the way.
            Some(limits) => (limits.rss, limits.total_memory),
            None => (self.system.used_memory(), self.system.total_memory()),
        };
        Usage {
            cpu: self.cpu(),
            memory: used as f64 / total.max(1) as f64,
        }
    }

    fn cpu(&mut self) -> f64 {
        self.system.refresh_cpu_usage();
        let host = f64::from(self.system.global_cpu_usage()) / 100.0;
        let read = |file| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok();
        let (Some(max), Some(stat)) = (read("cpu.max"), read("cpu.stat")) else {
            return host;
        };
        let (Some(cores), Some(used)) = (quota(&max), used_us(&stat)) else {
            return host;
        };
        let now = Instant::now();
        let Some((at, before)) = self.container.replace((now, used)) else {
            return host;
        };
        let available_us = (now - at).as_secs_f64() * 1e6 * cores;
        used.saturating_sub(before) as f64 / available_us.max(1.0)
    }
}

/// Cores that a control group may use (`cpu.max`: microseconds in a period); `None` without a limit.
fn quota(max: &str) -> Option<f64> {
    let (quota, period) = max.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// CPU time that a control group has used (`cpu.stat`).
fn used_us(stat: &str) -> Option<u64> {
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_closes_above_a_target_and_says_why() {
        let targets = Targets {
            cpu: Some(0.8),
            memory: Some(0.9),
        };
        let gate = Gate::open();
        for (cpu, memory, reasons) in [
            (0.1, 0.1, &[][..]),
            (0.8, 0.9, &[]),
            (
                0.93,
                0.1,
                &["CPU of the host is 93 % used, above its target of 80 %"],
            ),
            (
                1.0,
                0.95,
                &[
                    "CPU of the host is 100 % used, above its target of 80 %",
                    "memory of the host is 95 % used, above its target of 90 %",
                ],
            ),
            (0.2, 0.2, &[]),
        ] {
            apply(targets, Usage { cpu, memory }, &gate);
            assert_eq!(gate.reasons(), reasons, "{cpu} {memory}");
            assert_eq!(gate.is_open(), reasons.is_empty());
        }
        let only_cpu = Targets {
            memory: None,
            ..targets
        };
        let full = Usage {
            cpu: 0.1,
            memory: 1.0,
        };
        apply(only_cpu, full, &gate);
        assert!(gate.is_open());
    }

    #[test]
    fn limits_of_a_container_are_read() {
        assert_eq!(quota("150000 100000\n"), Some(1.5));
        for text in ["max 100000\n", "", "1", "0 100000"] {
            assert_eq!(quota(text), None, "{text}");
        }
        let stat = "nr_periods 1\nusage_usec 1234\nuser_usec 1000\n";
        assert_eq!(used_us(stat), Some(1234));
        assert_eq!(used_us("user_usec 1"), None);
    }

    #[test]
    fn shares_are_shares() {
        let usage = Host::new().usage();
        assert!((0.0..=1.5).contains(&usage.cpu), "{usage:?}");
        assert!(usage.memory > 0.0 && usage.memory <= 1.0, "{usage:?}");
    }

    #[tokio::test]
    async fn a_class_without_targets_is_never_held() {
        let (gate, watch) = super::gate(Targets::default());
        assert!(gate.is_open());
        let waited = tokio::time::timeout(Duration::from_millis(1), watch).await;
        assert!(waited.is_err());
    }
}
