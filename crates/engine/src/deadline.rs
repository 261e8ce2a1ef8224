//! Acting on what is due: timers, timeouts, the end of backoffs.

use crate::run::{Deadline, Run};
use crate::time::Time;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};
use crate::{activity, close, timer, workflow_task};

/// Carries out everything of a run that is due by now, in time order. Nothing due is no change,
/// but for the wake-up time in the store, which moves on.
pub fn fire(run: &Run, cx: &Cx<'_>) -> Outcome<()> {
    let mut tx = Tx::new(run, cx);
    let now = tx.now();
    if !run.is_open() {
        return tx.finish(());
    }
    if is_due(run.core.run_expiration, now) && run.core.backoff_until == 0 {
        close::time_out(&mut tx);
        return tx.finish(());
    }
    if is_due(run.core.execution_expiration, now) {
        close::time_out(&mut tx);
        return tx.finish(());
    }
    while let Some((at, what)) = tx.run.deadlines.get_min().copied() {
        if at > now {
            break;
        }
        match what {
            Deadline::Timer(started_id) => timer::fire(&mut tx, started_id),
            Deadline::Activity(scheduled_id) => activity::fire(&mut tx, scheduled_id),
        }
        if tx.run.deadlines.get_min() == Some(&(at, what)) {
            // It did not move: leave it for the next look instead of turning here for ever.
            break;
        }
    }
    workflow_task::fire(&mut tx);
    if is_due(tx.run.core.backoff_until, now) {
        workflow_task::end_backoff(&mut tx);
    }
    tx.finish(())
}

fn is_due(at: i64, now: Time) -> bool {
    at != 0 && at <= now.0
}
