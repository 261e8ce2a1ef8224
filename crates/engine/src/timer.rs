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

pub(crate) fn start(tx: &mut Tx<'_>, a: StartTimerCommandAttributes, command: &CommandContext) -> Result<(), Refused> {
    let bad = |m: String| Refused::new(Cause::BadStartTimerAttributes, m);
    if a.timer_id.is_empty() {
        return Err(bad("TimerId is not set on StartTimerCommand.".into()));
    }
    if a.timer_id.len() > tx.limits().id_length {
        return Err(bad(format!("TimerId on StartTimerCommand exceeds length limit of {} bytes.", tx.limits().id_length)));
    }
    if is_negative(&a.start_to_fire_timeout) {
        return Err(bad(format!("An invalid StartToFireTimeout is set on StartTimerCommand: must not be negative. TimerId={}", a.timer_id)));
    }
    if tx.run.timer_ids.contains_key(&a.timer_id) {
        return Err(Refused::new(Cause::StartTimerDuplicateId, format!("timer with ID {} has been started before", a.timer_id)));
    }
    let fire_time = tx.now().plus(span(&a.start_to_fire_timeout));
    let started_id = tx.push_event(command.event(TimerStartedEventAttributes {
        timer_id: a.timer_id.clone(),
        start_to_fire_timeout: a.start_to_fire_timeout,
        workflow_task_completed_event_id: command.completed_id,
    }));
    tx.put_timer(Timer { started_id, timer_id: a.timer_id, fire_time: fire_time.0 });
    Ok(())
}

pub(crate) fn cancel(tx: &mut Tx<'_>, a: CancelTimerCommandAttributes, command: &CommandContext) -> Result<(), Refused> {
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
    let Some(timer) = tx.remove_timer(started_id) else { return };
    tx.push(TimerFiredEventAttributes { timer_id: timer.timer_id.clone(), started_event_id: started_id });
    tx.want_workflow_task();
}
