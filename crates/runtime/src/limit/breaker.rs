//! The circuit breaker of a limit: closed, open, half-open.

use serde::{Deserialize, Serialize};
use tidemill_pipeline::limit::{Breaker as Config, BreakerState, Outcomes};

/// How often the time for which it is open doubles when each trial fails.
const DOUBLINGS: u32 = 4;
/// A trial whose outcome is not known after so long is given up, and another worker tries.
const TRIAL_MS: i64 = 30_000;

/// `Closed` → (failures in a row) → `Open` → (time) → `HalfOpen` → (the trial's outcome) → `Closed`, or
/// `Open` for longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Breaker {
    Closed {
        failures: u64,
    },
    Open {
        until_ms: i64,
        /// Trials that failed.
        trials: u32,
    },
    HalfOpen {
        trial: Option<Trial>,
        trials: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    worker: String,
    until_ms: i64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// Whether a worker may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Pass,
    /// One request, whose outcome decides.
    Try,
    /// Not for so many milliseconds.
    Wait(u64),
}

impl Breaker {
    /// Takes in how requests of a worker went. Whether it opened.
    pub(super) fn note(
        &mut self,
        worker: &str,
        outcomes: &Outcomes,
        config: &Config,
        now_ms: i64,
    ) -> bool {
        // Who refuses is there.
        let answered = outcomes.answered + outcomes.refused > 0;
        let failed = outcomes.failed;
        match self {
            Breaker::Closed { failures } => {
                *failures = if answered { failed } else { *failures + failed };
                if *failures < u64::from(config.failures) {
                    return false;
                }
                self.open(0, config, now_ms);
                true
            }
            // Requests that were under way when it opened: they tell nothing new.
            Breaker::Open { .. } => false,
            Breaker::HalfOpen { trial, trials } => {
                let tried = trial.as_ref().is_some_and(|trial| trial.worker == worker);
                if !tried {
                    return false;
                }
                if failed > 0 {
                    let trials = *trials + 1;
                    self.open(trials, config, now_ms);
                    return true;
                }
                if answered {
                    *self = Self::default();
                }
                false
            }
        }
    }

    pub(super) fn gate(&mut self, worker: &str, now_ms: i64) -> Gate {
        if let Breaker::Open { until_ms, trials } = *self
            && now_ms >= until_ms
        {
            *self = Breaker::HalfOpen {
                trial: None,
                trials,
            };
        }
        match self {
            Breaker::Closed { .. } => Gate::Pass,
            Breaker::Open { until_ms, .. } => Gate::Wait((*until_ms - now_ms).max(1) as u64),
            Breaker::HalfOpen { trial, .. } => match trial {
                Some(trial) if now_ms < trial.until_ms => Gate::Wait(500),
                _ => {
                    *trial = Some(Trial {
                        worker: worker.to_owned(),
                        until_ms: now_ms + TRIAL_MS,
                    });
                    Gate::Try
                }
            },
        }
    }

    /// The trial was not sent after all.
    pub(super) fn untried(&mut self) {
        if let Breaker::HalfOpen { trial, .. } = self {
            *trial = None;
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match *self {
            Breaker::Closed { .. } => BreakerState::Closed,
            Breaker::Open { until_ms, .. } => BreakerState::Open { until_ms },
            Breaker::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn open(&mut self, trials: u32, config: &Config, now_ms: i64) {
        let open_ms = config.open_ms.saturating_mul(1 << trials.min(DOUBLINGS));
        *self = Breaker::Open {
            until_ms: now_ms.saturating_add_unsigned(open_ms),
            trials,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        failures: 3,
        open_ms: 1_000,
    };

    fn outcomes(answered: u64, failed: u64) -> Outcomes {
        Outcomes {
            answered,
            failed,
            ..Outcomes::default()
        }
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert!(breaker.note("a", &outcomes(0, 3), &CONFIG, 0));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_whoever_had_them() {
        let mut breaker = Breaker::default();
        for (worker, answered, failed, opens) in [
            ("a", 0, 2, false),
            // One was answered, then one failed.
            ("b", 1, 1, false),
            ("a", 0, 1, false),
            ("c", 0, 1, true),
        ] {
            let opened = breaker.note(worker, &outcomes(answered, failed), &CONFIG, 0);
            assert_eq!(opened, opens, "{worker}");
        }
        assert_eq!(breaker.state(), BreakerState::Open { until_ms: 1_000 });
        assert_eq!(breaker.gate("b", 400), Gate::Wait(600));
    }

    #[test]
    fn half_open_one_worker_tries_and_its_outcome_decides() {
        let mut breaker = opened();
        assert_eq!(breaker.gate("b", 1_000), Gate::Try);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.gate("c", 1_001), Gate::Wait(500));
        // Somebody else's late outcomes decide nothing.
        breaker.note("c", &outcomes(5, 0), &CONFIG, 1_002);
        breaker.note("c", &outcomes(0, 5), &CONFIG, 1_002);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.note("b", &outcomes(1, 0), &CONFIG, 1_003);
        assert_eq!(breaker, Breaker::default());
        assert_eq!(breaker.gate("c", 1_004), Gate::Pass);
    }

    #[test]
    fn each_trial_that_fails_doubles_the_wait_up_to_a_bound() {
        let mut breaker = opened();
        let mut now = 1_000;
        for expected in [2_000, 4_000, 8_000, 16_000, 16_000] {
            assert_eq!(breaker.gate("b", now), Gate::Try);
            assert!(breaker.note("b", &outcomes(0, 1), &CONFIG, now));
            assert_eq!(breaker.gate("b", now), Gate::Wait(expected));
            now += expected as i64;
        }
        breaker.gate("b", now);
        breaker.note("b", &outcomes(1, 0), &CONFIG, now);
        breaker.note("b", &outcomes(0, 3), &CONFIG, now);
        assert_eq!(
            breaker.gate("b", now),
            Gate::Wait(1_000),
            "once closed it begins anew"
        );
    }

    #[test]
    fn outcomes_of_what_was_under_way_do_not_prolong_it() {
        let mut breaker = opened();
        assert!(!breaker.note("a", &outcomes(0, 9), &CONFIG, 900));
        assert!(!breaker.note("a", &outcomes(9, 0), &CONFIG, 900));
        assert_eq!(breaker.state(), BreakerState::Open { until_ms: 1_000 });
    }

    #[test]
    fn a_worker_that_died_on_its_trial_is_followed_by_another() {
        let mut breaker = opened();
        assert_eq!(breaker.gate("dead", 1_000), Gate::Try);
        assert_eq!(breaker.gate("b", 1_000 + TRIAL_MS - 1), Gate::Wait(500));
        assert_eq!(breaker.gate("b", 1_000 + TRIAL_MS), Gate::Try);
        // A trial that the rates did not let through is another's.
        breaker.untried();
        assert_eq!(breaker.gate("c", 1_000 + TRIAL_MS), Gate::Try);
    }
}
