//! Heartbeats: what an attempt said of its progress is there for the next one, and an attempt that speaks
//! is not given up.

use tidemill_proto::api::workflowservice::v1::PollActivityTaskQueueResponse;

use super::{history, result};
use crate::host;
use crate::world::Shared;

pub(super) struct Beat {
    details: String,
    sent_first: i64,
    acknowledged: bool,
}

/// `what` is an attempt: its run, activity and number.
fn activity(what: &str) -> String {
    what.rsplit_once('/')
        .map_or(what, |(activity, _)| activity)
        .to_owned()
}

/// A heartbeat is about to be sent.
pub(crate) fn sent(shared: &mut Shared, what: &str, details: &str) {
    let now = host::wall();
    let beats = shared.ledger.heartbeats.entry(activity(what)).or_default();
    if !beats.iter().any(|beat| beat.details == details) {
        beats.push(Beat {
            details: details.to_owned(),
            sent_first: now,
            acknowledged: false,
        });
    }
}

pub(crate) fn recorded(shared: &mut Shared, what: &str, details: &str, accepted: bool) {
    let beats = shared.ledger.heartbeats.entry(activity(what)).or_default();
    if let Some(beat) = beats.iter_mut().find(|beat| beat.details == details)
        && accepted
    {
        beat.acknowledged = true;
        shared.stats.heartbeats += 1;
    }
}

/// A later attempt is handed the last details that were acknowledged, or some that were sent after them.
pub(super) fn handed_on(shared: &mut Shared, run: &str, task: &PollActivityTaskQueueResponse) {
    let name = format!("{run}/{}", task.activity_id);
    let beats = shared.ledger.heartbeats.get(&name);
    let beats = beats.map_or(&[][..], Vec::as_slice);
    let details = result(&task.heartbeat_details);
    let acknowledged = beats.iter().rposition(|beat| beat.acknowledged);
    let allowed = match acknowledged {
        Some(last) => beats[last..].iter().any(|beat| beat.details == details),
        None => details.is_empty() || beats.iter().any(|beat| beat.details == details),
    };
    if !allowed {
        let last = acknowledged.map(|last| beats[last].details.clone());
        shared.find(format!(
            "attempt {} of {name} was handed {details:?}; the last one that was acknowledged is {last:?}",
            task.attempt
        ));
    }
}

/// When an attempt before this one could first be given up for its silence.
pub(super) fn given_up_from(
    shared: &Shared,
    run: &str,
    task: &PollActivityTaskQueueResponse,
    before: &str,
) -> Option<i64> {
    let timeout = task.heartbeat_timeout.as_ref().map(history::length)?;
    let started = *shared.ledger.activity_tasks.get(before)?;
    let beats = shared
        .ledger
        .heartbeats
        .get(&format!("{run}/{}", task.activity_id));
    let last = beats.into_iter().flatten().filter(|beat| beat.acknowledged);
    let last = last.map(|beat| beat.sent_first).max().unwrap_or(started);
    (timeout > 0).then(|| started.max(last) + timeout)
}
