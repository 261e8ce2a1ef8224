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
    while let Some((at, what)) = tx.run.deadlines.first().copied() {
        if at > now {
            break;
        }
        match what {
            Deadline::Timer(started_id) => timer::fire(&mut tx, started_id),
            Deadline::Activity(scheduled_id) => activity::fire(&mut tx, scheduled_id),
        }
        if tx.run.deadlines.first() == Some(&(at, what)) {
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

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::EventType as E;
    use tidemill_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
    use tidemill_proto::api::history::v1::history_event::Attributes as A;

    use crate::fixture::seconds;
    use crate::testing::{Rig, schedule_activity, start_timer};

    #[test]
    fn all_that_is_due_fires_in_order() {
        let mut rig = Rig::new();
        rig.task(vec![
            start_timer("c", 3),
            start_timer("a", 1),
            start_timer("b2", 2),
            start_timer("b1", 2),
            start_timer("late", 9),
        ]);
        rig.types();
        let writes = rig.writes;
        rig.after(3.0);
        let events = rig.new_events();
        let fired: Vec<_> = events
            .iter()
            .filter_map(|e| match &e.attributes {
                Some(A::TimerFiredEventAttributes(a)) => Some(a.timer_id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(fired, ["a", "b2", "b1", "c"]);
        // In one step, with one workflow task for all.
        assert_eq!(
            (rig.writes, events.len(), rig.state().as_str()),
            (writes + 1, 5, "scheduled")
        );
    }

    #[test]
    fn a_look_that_finds_nothing_moves_the_wake_up_time() {
        let mut rig = Rig::new();
        rig.task(vec![start_timer("t", 60)]);
        // The workflow task's timeout is the time in the store; it is not worth a write to move it.
        let early = rig.due.unwrap();
        let timer = rig.run.next_deadline().unwrap();
        assert!(early < timer);
        rig.now = early;
        let transitions = rig.run.core.transitions;
        rig.fire();
        assert_eq!(rig.run.core.transitions, transitions);
        assert_eq!(
            (rig.due, rig.types().last().copied()),
            (Some(timer), Some(E::TimerStarted))
        );
        let writes = rig.writes;
        rig.wait(1.0);
        rig.fire();
        assert_eq!(rig.writes, writes);
        // Nothing left to wait for.
        rig.now = timer;
        rig.fire();
        rig.task(vec![]);
        rig.after(3600.0);
        assert_eq!((rig.run.next_deadline(), rig.due), (None, None));
        rig.terminate().unwrap();
        let writes = rig.writes;
        rig.after(1.0);
        assert_eq!(rig.writes, writes);
    }

    #[test]
    fn what_ends_a_run() {
        let started = |run, execution, backoff| WorkflowExecutionStartedEventAttributes {
            workflow_run_timeout: seconds(run),
            workflow_execution_timeout: seconds(execution),
            first_workflow_task_backoff: seconds(backoff),
            ..Default::default()
        };
        // run timeout, execution timeout and backoff; seconds until it ends.
        for (run, execution, backoff, end) in [
            (10, 0, 0, 10),
            (0, 10, 0, 10),
            (20, 10, 0, 10),
            (10, 20, 0, 10),
            (10, 0, 5, 15),
            (0, 10, 5, 10),
            (0, 5, 10, 5),
        ] {
            let mut rig = Rig::with(started(run, execution, backoff));
            rig.after(end as f64 - 0.001);
            assert!(rig.run.is_open(), "{run} {execution} {backoff}");
            rig.after(0.001);
            assert_eq!(rig.state(), "timedout", "{run} {execution} {backoff}");
        }
        // The engine was down over both the end of the backoff and that of the run.
        let mut rig = Rig::with(started(10, 0, 5));
        rig.after(60.0);
        while rig.run.is_open() && rig.due.is_some_and(|at| at <= rig.now) {
            rig.fire();
        }
        assert_eq!(rig.state(), "timedout");
    }

    #[test]
    fn activities_and_timers_share_a_step() {
        let mut rig = Rig::new();
        rig.task(vec![schedule_activity("a", 1), start_timer("t", 1800)]);
        rig.start_activity("a");
        rig.types();
        rig.after(1800.0);
        assert_eq!(
            rig.types(),
            [
                E::TimerFired,
                E::ActivityTaskStarted,
                E::ActivityTaskTimedOut,
                E::WorkflowTaskScheduled
            ]
        );
    }
}
