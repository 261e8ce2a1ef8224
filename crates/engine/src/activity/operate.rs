//! What operators do to pending activities: pause, unpause, reset, change options (contract
//! 3.7). None of it writes an event.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_proto::api::activity::v1::ActivityOptions;
use tidemill_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use tidemill_proto::api::workflowservice::v1::{
    PauseActivityRequest, ResetActivityRequest, UnpauseActivityRequest,
    UpdateActivityOptionsRequest, pause_activity_request, reset_activity_request,
    unpause_activity_request, update_activity_options_request,
};

use super::{attempt, is_started, offer, options, pause_info, withdraw};
use crate::Error;
use crate::model::{Activity, Pause};
use crate::run::Run;
use crate::time::span;
use crate::transition::Outcome;
use crate::tx::{Cx, Tx};

/// Attributes of scheduled events, by event id, for operations that restore what they say.
pub type Originals = BTreeMap<i64, ActivityTaskScheduledEventAttributes>;

/// Which activities of a run an operation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector<'a> {
    Id(&'a str),
    Type(&'a str),
    All,
}

macro_rules! selector_of {
    ($request:ty, $choice:path $(, $all:path)?) => {
        impl<'a> TryFrom<&'a $request> for Selector<'a> {
            type Error = Error;
            fn try_from(request: &'a $request) -> Result<Self, Error> {
                use $choice as C;
                match &request.activity {
                    Some(C::Id(id)) => Ok(Selector::Id(id)),
                    Some(C::Type(kind)) => Ok(Selector::Type(kind)),
                    $(Some($all(_)) => Ok(Selector::All),)?
                    None => Err(Error::invalid("neither activity id nor activity type is set")),
                }
            }
        }
    };
}

selector_of!(PauseActivityRequest, pause_activity_request::Activity);
selector_of!(
    UnpauseActivityRequest,
    unpause_activity_request::Activity,
    C::UnpauseAll
);
selector_of!(
    ResetActivityRequest,
    reset_activity_request::Activity,
    C::MatchAll
);
selector_of!(
    UpdateActivityOptionsRequest,
    update_activity_options_request::Activity,
    C::MatchAll
);

/// The selected activities as pairs of the scheduled event's id and its batch's first event id,
/// in the order of their scheduling. `NotFound` when there are none.
pub fn select(run: &Run, selector: Selector<'_>) -> Result<Vec<(i64, i64)>, Error> {
    if !run.is_open() {
        return Err(Error::already_completed());
    }
    let wanted = |a: &Activity| match selector {
        Selector::Id(id) => a.activity_id == id,
        Selector::Type(kind) => a.activity_type == kind,
        Selector::All => true,
    };
    let found: Vec<_> = run
        .activities
        .values()
        .filter(|a| wanted(a))
        .map(|a| (a.scheduled_id, a.scheduled_batch_id))
        .collect();
    if found.is_empty() {
        return Err(Error::not_found("no such activity is pending"));
    }
    Ok(found)
}

/// Runs `change` on each selected activity, in order, and stores what it leaves.
fn change_each(
    tx: &mut Tx<'_>,
    selector: Selector<'_>,
    mut change: impl FnMut(&mut Tx<'_>, &mut Activity) -> Result<(), Error>,
) -> Result<(), Error> {
    for (id, _) in select(&tx.run, selector)? {
        let mut activity = (*tx.run.activities[&id]).clone();
        change(tx, &mut activity)?;
        tx.put_activity(activity);
    }
    Ok(())
}

/// Parks activities: an attempt that runs may end, but no other one begins, and no timeout counts.
pub fn pause(run: &Run, request: &PauseActivityRequest, cx: &Cx<'_>) -> Result<Outcome<()>, Error> {
    let mut tx = Tx::new(run, cx);
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if let Some(pause) = &activity.pause {
            if pause.request_id == request.request_id {
                return Ok(());
            }
            return Err(Error::FailedPrecondition(
                "activity is already paused".into(),
            ));
        }
        activity.pause = Some(Pause {
            time: tx.now().0,
            identity: request.identity.clone(),
            reason: request.reason.clone(),
            request_id: request.request_id.clone(),
        });
        if !is_started(activity) {
            withdraw(tx, activity);
        }
        Ok(())
    })?;
    pause_info::refresh(&mut tx);
    Ok(tx.finish(()))
}

/// Lets parked activities go on: at once, or within the request's jitter. Others stay as they are.
pub fn unpause(
    run: &Run,
    request: &UnpauseActivityRequest,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    let mut tx = Tx::new(run, cx);
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if activity.pause.take().is_none() {
            return Ok(());
        }
        if request.reset_attempts {
            forget_attempts(activity);
        }
        if request.reset_heartbeat {
            attempt::clear_heartbeat(activity);
        }
        if !is_started(activity) {
            reschedule(tx, activity, span(&request.jitter));
        }
        Ok(())
    })?;
    pause_info::refresh(&mut tx);
    Ok(tx.finish(()))
}

/// Starts activities over: the next attempt is the first. An attempt that runs goes on, and its
/// worker learns of the reset from its heartbeat. `originals` is needed only for
/// `restore_original_options`, for each of the activities that [`select`] names.
pub fn reset(
    run: &Run,
    request: &ResetActivityRequest,
    originals: &Originals,
    cx: &Cx<'_>,
) -> Result<Outcome<()>, Error> {
    let mut tx = Tx::new(run, cx);
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if request.restore_original_options {
            restore(tx, activity, originals)?;
        }
        if !request.keep_paused {
            activity.pause = None;
        }
        forget_attempts(activity);
        if is_started(activity) {
            activity.reset_requested = true;
            activity.reset_heartbeat |= request.reset_heartbeat;
            return Ok(());
        }
        activity.last_failure = None;
        if request.reset_heartbeat {
            attempt::clear_heartbeat(activity);
        }
        if activity.pause.is_none() {
            reschedule(tx, activity, span(&request.jitter));
        }
        Ok(())
    })?;
    pause_info::refresh(&mut tx);
    Ok(tx.finish(()))
}

/// Changes options, or restores those that the activities were scheduled with; answers with the
/// options that now apply (of the last one, when there are more). `originals` as for [`reset`].
pub fn update_options(
    run: &Run,
    request: &UpdateActivityOptionsRequest,
    originals: &Originals,
    cx: &Cx<'_>,
) -> Result<Outcome<ActivityOptions>, Error> {
    let paths = request.update_mask.as_ref().map(|m| m.paths.as_slice());
    if request.restore_original {
        if paths.is_some_and(|p| !p.is_empty()) {
            return Err(Error::invalid(
                "give either an update mask or restore_original, not both",
            ));
        }
    } else if request.activity_options.is_none() {
        return Err(Error::invalid("activity options are not set"));
    } else if paths.is_none() {
        return Err(Error::invalid("update mask is not set"));
    }
    let mut tx = Tx::new(run, cx);
    let mut reply = ActivityOptions::default();
    change_each(&mut tx, Selector::try_from(request)?, |tx, activity| {
        if request.restore_original {
            restore(tx, activity, originals)?;
        } else {
            let mut changed = options::current(activity);
            let given = request.activity_options.clone().unwrap_or_default();
            options::merge(&mut changed, &given, paths.unwrap_or_default())
                .and_then(|()| {
                    let queue = tx.run.task_queue().to_owned();
                    options::apply(activity, changed, &queue, tx.limits())
                })
                .map_err(Error::InvalidArgument)?;
        }
        if !is_started(activity) && activity.pause.is_none() {
            // What waits does so by the new policy, on the new queue.
            if let Some(policy) = &activity.retry_policy {
                activity.scheduled_time = attempt::scheduled_time(activity, policy).0;
            }
            offer(tx, activity);
        }
        reply = options::current(activity);
        Ok(())
    })?;
    Ok(tx.finish(reply))
}

fn restore(tx: &Tx<'_>, activity: &mut Activity, originals: &Originals) -> Result<(), Error> {
    let event = originals.get(&activity.scheduled_id).ok_or_else(|| {
        Error::Internal(format!(
            "scheduled event {} was not given",
            activity.scheduled_id
        ))
    })?;
    options::apply(
        activity,
        options::original(event),
        tx.run.task_queue(),
        tx.limits(),
    )
    .map_err(Error::InvalidArgument)
}

/// From now on the current attempt counts as the first.
fn forget_attempts(activity: &mut Activity) {
    activity.attempts_forgotten = activity.attempt - 1;
}

/// Schedules the next attempt of an activity that waits: now, or somewhere within the jitter.
fn reschedule(tx: &mut Tx<'_>, activity: &mut Activity, jitter: Duration) {
    activity.scheduled_time = tx.now().plus(part_of(tx, jitter)).0;
    offer(tx, activity);
}

/// A random part of a span: zero up to all of it, the end excluded.
fn part_of(tx: &Tx<'_>, span: Duration) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return Duration::ZERO;
    }
    let random = tx.cx.ids.random();
    let random = u64::from_le_bytes(random[..8].try_into().expect("eight of sixteen bytes"));
    Duration::from_nanos(random % nanos)
}

/// The run was paused: no attempt begins until [`release_all`]. Those that run go on, and
/// timeouts count (contract 5.9). Called once the run's status is Paused.
pub fn hold_all(tx: &mut Tx<'_>) {
    for mut activity in waiting(tx) {
        withdraw(tx, &mut activity);
        activity.held = true;
        tx.put_activity(activity);
    }
}

/// The run goes on: what was held is offered again. Called once the run's status is Running.
pub fn release_all(tx: &mut Tx<'_>) {
    for mut activity in waiting(tx) {
        offer(tx, &mut activity);
        tx.put_activity(activity);
    }
}

fn waiting(tx: &Tx<'_>) -> Vec<Activity> {
    let all = tx.run.activities.values();
    all.filter(|a| !is_started(a))
        .map(|a| (**a).clone())
        .collect()
}

#[cfg(test)]
mod tests;
