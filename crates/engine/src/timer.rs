//! User timers: started and cancelled by commands, fired by time.
//!
//! ```text
//! started ──deadline──▶ fired      started ──cancel command──▶ cancelled
//! ```
//! A fired event that is still buffered can be cancelled as well: it is taken back.

use tidemill_proto::api::command::v1::{CancelTimerCommandAttributes, StartTimerCommandAttributes};
use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use tidemill_proto::api::history::v1::history_event::Attributes;
use tidemill_proto::api::history::v1::{
    TimerCanceledEventAttributes, TimerFiredEventAttributes, TimerStartedEventAttributes,
};

use crate::command::{CommandContext, Refused};
use crate::model::Timer;
use crate::time::{is_negative, span};
use crate::tx::Tx;

pub(crate) fn start(
    tx: &mut Tx<'_>,
    a: StartTimerCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    let bad = |m: String| Refused::new(Cause::BadStartTimerAttributes, m);
    if a.timer_id.is_empty() {
        return Err(bad("TimerId is not set on StartTimerCommand.".into()));
    }
    if a.timer_id.len() > tx.limits().id_length {
        return Err(bad(format!(
            "TimerId on StartTimerCommand exceeds length limit of {} bytes.",
            tx.limits().id_length
        )));
    }
    if is_negative(&a.start_to_fire_timeout) {
        return Err(bad(format!(
            "An invalid StartToFireTimeout is set on StartTimerCommand: must not be negative. TimerId={}",
            a.timer_id
        )));
    }
    if tx.run.timer_ids.contains_key(&a.timer_id) {
        return Err(Refused::new(
            Cause::StartTimerDuplicateId,
            format!("timer with ID {} has been started before", a.timer_id),
        ));
    }
    let fire_time = tx.now().plus(span(&a.start_to_fire_timeout));
    let started_id = tx.push_event(command.event(TimerStartedEventAttributes {
        timer_id: a.timer_id.clone(),
        start_to_fire_timeout: a.start_to_fire_timeout,
        workflow_task_completed_event_id: command.completed_id,
    }));
    tx.put_timer(Timer {
        started_id,
        timer_id: a.timer_id,
        fire_time: fire_time.0,
    });
    Ok(())
}

pub(crate) fn cancel(
    tx: &mut Tx<'_>,
    a: CancelTimerCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    let bad = |m: String| Refused::new(Cause::BadCancelTimerAttributes, m);
    if a.timer_id.is_empty() {
        return Err(bad("TimerId is not set on CancelTimerCommand.".into()));
    }
    let started_event_id = match tx.run.timer_ids.get(&a.timer_id).copied() {
        Some(started_id) => {
            tx.remove_timer(started_id);
            started_id
        }
        None => {
            let mut fired = None;
            let timer_id = &a.timer_id;
            for (_, event) in &tx.run.buffered {
                if let Some(Attributes::TimerFiredEventAttributes(f)) = &event.attributes
                    && f.timer_id == *timer_id
                {
                    fired = Some(f.started_event_id);
                }
            }
            let started_id = fired.ok_or_else(|| bad(format!("Timer {timer_id} not found.")))?;
            tx.remove_buffered(|e| {
                matches!(&e.attributes, Some(Attributes::TimerFiredEventAttributes(f)) if f.started_event_id == started_id)
            });
            started_id
        }
    };
    tx.push_event(command.event(TimerCanceledEventAttributes {
        timer_id: a.timer_id,
        started_event_id,
        workflow_task_completed_event_id: command.completed_id,
        identity: command.identity.clone(),
    }));
    Ok(())
}

/// Fires a timer whose time has come.
pub(crate) fn fire(tx: &mut Tx<'_>, started_id: i64) {
    let Some(timer) = tx.remove_timer(started_id) else {
        return;
    };
    tx.push(TimerFiredEventAttributes {
        timer_id: timer.timer_id.clone(),
        started_event_id: started_id,
    });
    tx.want_workflow_task();
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::enums::v1::EventType as E;

    use crate::fixture::seconds;
    use crate::testing::{Rig, cancel_timer, command, start_timer};

    use super::*;

    #[test]
    fn timers_fire_once_and_late() {
        let mut rig = Rig::new();
        rig.task(vec![start_timer("t", 5)]);
        rig.types();
        rig.after(4.999);
        assert_eq!((rig.types(), rig.state()), (vec![], "none".into()));
        rig.after(100.0);
        let events = rig.new_events();
        let Some(Attributes::TimerFiredEventAttributes(a)) = &events[0].attributes else {
            panic!()
        };
        assert_eq!((a.timer_id.as_str(), a.started_event_id), ("t", 5));
        // The time at which it was seen to, not that at which it was due.
        assert_eq!(events[0].event_time, Some(rig.now.proto()));
        assert_eq!(events[1].event_type(), E::WorkflowTaskScheduled);
        rig.fire();
        assert_eq!(rig.types(), []);
        // Its id is free again.
        rig.task(vec![start_timer("t", 1)]);
    }

    #[test]
    fn an_id_can_be_used_again() {
        let mut rig = Rig::new();
        rig.task(vec![
            start_timer("t", 5),
            cancel_timer("t"),
            start_timer("t", 1),
        ]);
        assert_eq!(
            (rig.run.timers.len(), rig.run.timers[&7].fire_time),
            (1, rig.now.0 + 1_000_000_000)
        );
        // Also while its firing waits: a cancel command then means the new one.
        rig.signal("").unwrap();
        let started = rig.poll();
        rig.after(1.0);
        rig.types();
        rig.commands(&started.task, vec![start_timer("t", 60), cancel_timer("t")])
            .unwrap();
        assert_eq!(
            rig.types(),
            [
                E::WorkflowTaskCompleted,
                E::TimerStarted,
                E::TimerCanceled,
                E::TimerFired,
                E::WorkflowTaskScheduled
            ]
        );
    }

    #[test]
    fn how_long_a_timer_runs() {
        let far = 10_000_000_000;
        for (timeout, expected) in [
            (seconds(0), 0),
            (None, 0),
            (seconds(7), 7),
            (seconds(far), 100 * 365 * 24 * 3600),
        ] {
            let mut rig = Rig::new();
            let timer = StartTimerCommandAttributes {
                timer_id: "t".into(),
                start_to_fire_timeout: timeout,
            };
            rig.task(vec![command(timer.into())]);
            assert_eq!(
                rig.run.timers[&5].fire_time - rig.now.0,
                expected * 1_000_000_000
            );
            // What the worker asked for stands in history as it is.
            let Some(Attributes::TimerStartedEventAttributes(a)) =
                rig.last(E::TimerStarted).attributes
            else {
                panic!()
            };
            assert_eq!(
                (a.start_to_fire_timeout, a.workflow_task_completed_event_id),
                (timeout, 4)
            );
        }
    }
}
