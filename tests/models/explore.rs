//! Runs a model under many schedules.

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Tries a model under so many random schedules and as many that prefer few, deep switches.
///
/// `SCHEDULES` gives another number, `SEED` other ones. What fails prints its schedule, which
/// `shuttle::replay` runs again.
pub(crate) fn explore(schedules: usize, model: impl Fn() + Send + Sync + Copy + 'static) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let schedules = number("SCHEDULES").unwrap_or(schedules as u64) as usize;
    let seed = number("SEED").unwrap_or(1);
    let mut config = Config::new();
    // SQLite's share.
    config.stack_size = 1 << 20;
    // Who waits for what never comes does not wait for ever.
    config.max_steps = MaxSteps::FailAfter(20_000);
    let random = RandomScheduler::new_from_seed(seed, schedules);
    Runner::new(random, config.clone()).run(model);
    let few_switches = PctScheduler::new_from_seed(seed, 3, schedules);
    Runner::new(few_switches, config).run(model);
}
