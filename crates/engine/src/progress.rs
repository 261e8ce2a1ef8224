//! What keeps a run from going on, for operators. Nothing is decided by it.
//!
//! A run that is open goes on by a task that waits or is worked on, a wake-up, another run's answer, or
//! somebody outside. What is looked at is the run as it is stored and what the store holds of it: an
//! obstacle is told only if the two cannot lead on, or did not for a long time.

use std::fmt;
use std::time::Duration;

use crate::activity;
use crate::model::{Activity, TaskPlace};
use crate::run::Run;
use crate::time::Time;
use crate::transition::TaskKind;

/// Failed attempts in a row after which a task is told as an obstacle: retries that help do so sooner.
const WORKFLOW_TASK_ATTEMPTS: i32 = 3;
const ACTIVITY_ATTEMPTS: i32 = 5;
/// So much later than it should, a run is woken under load.
const LATE: Duration = Duration::from_secs(60);

/// What the store holds of a run beside its records.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// When it wants to be woken.
    pub due: Option<Time>,
    pub tasks: Vec<(TaskKind, TaskPlace)>,
    /// The last event in history.
    pub last_event_id: i64,
    /// Effects on other runs that were not acknowledged.
    pub effects: usize,
}

/// How a run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    GoesOn,
    /// Nothing but a signal, an update or a cancel request moves it.
    WaitsOutside,
    Stuck(Vec<Obstacle>),
}

/// Why a run does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// History and the counters of the run disagree.
    History { counted: i64, written: i64 },
    /// The pending workflow task is in no queue.
    WorkflowTaskLost { scheduled_id: i64, queue: String },
    /// An activity that waits for a worker is in no queue.
    ActivityLost { activity_id: String, queue: String },
    /// Something is due then, and nothing will wake the run.
    NoWakeUp { at: Time },
    /// It was to be woken that long ago.
    Late { by: Duration },
    /// Its workflow tasks fail or time out.
    WorkflowTaskFails { attempts: i32, queue: String },
    /// An activity fails time after time.
    ActivityFails {
        activity_id: String,
        kind: String,
        attempts: i32,
        failure: String,
    },
    /// Somebody paused an activity.
    ActivityPaused {
        activity_id: String,
        by: String,
        reason: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::History { counted, written } => write!(
                f,
                "its history ends with event {written}, its state was written after event {counted}"
            ),
            Obstacle::WorkflowTaskLost {
                scheduled_id,
                queue,
            } => write!(
                f,
                "its workflow task (event {scheduled_id}) is scheduled and not in queue {queue}: reset the run"
            ),
            Obstacle::ActivityLost { activity_id, queue } => write!(
                f,
                "activity {activity_id} waits for a worker and is not in queue {queue}: reset the activity"
            ),
            Obstacle::NoWakeUp { at } => {
                write!(f, "something is due at ")?;
                match jiff::Timestamp::from_nanosecond(i128::from(at.0)) {
                    Ok(at) => write!(f, "{at:.0}")?,
                    Err(_) => write!(f, "{} ns", at.0)?,
                }
                write!(f, ", and nothing will wake it: signal it")
            }
            Obstacle::Late { by } => write!(
                f,
                "it was to be woken {} s ago: see the log of the engine",
                by.as_secs()
            ),
            Obstacle::WorkflowTaskFails { attempts, queue } => write!(
                f,
                "its workflow task failed or timed out {attempts} times in a row: see the log of the workers of queue {queue}"
            ),
            Obstacle::ActivityFails {
                activity_id,
                kind,
                attempts,
                failure,
            } => {
                write!(
                    f,
                    "activity {activity_id} ({kind}) failed {attempts} times in a row"
                )?;
                match failure.is_empty() {
                    true => Ok(()),
                    false => write!(f, ", at last with: {failure}"),
                }
            }
            Obstacle::ActivityPaused {
                activity_id,
                by,
                reason,
            } => {
                write!(f, "activity {activity_id} is paused")?;
                if !by.is_empty() {
                    write!(f, " by {by}")?;
                }
                match reason.is_empty() {
                    true => Ok(()),
                    false => write!(f, ": {reason}"),
                }
            }
        }
    }
}

/// How a run goes on. `now` is left out when nobody serves: all time-outs are late then.
pub fn outlook(run: &Run, stored: &Stored, now: Option<Time>) -> Outlook {
    if !run.is_open() {
        return Outlook::GoesOn;
    }
    let mut obstacles = Vec::new();
    if run.last_event_id() != stored.last_event_id {
        obstacles.push(Obstacle::History {
            counted: run.last_event_id(),
            written: stored.last_event_id,
        });
    }
    workflow_task(run, stored, &mut obstacles);
    for activity in run.activities.values() {
        look_at(activity, stored, &mut obstacles);
    }
    if let Some(at) = run.next_deadline()
        && stored.due.is_none_or(|due| due > at)
    {
        obstacles.push(Obstacle::NoWakeUp { at });
    }
    if let (Some(due), Some(now)) = (stored.due, now)
        && now.since(due) > LATE
    {
        obstacles.push(Obstacle::Late { by: now.since(due) });
    }
    if !obstacles.is_empty() {
        return Outlook::Stuck(obstacles);
    }
    let core = &run.core;
    let moves = core.workflow_task.is_some()
        || core.backoff_until != 0
        || core.awaits_parent
        || stored.effects > 0
        || !run.activities.is_empty()
        || !run.timers.is_empty()
        || !run.children.is_empty()
        || !run.external_cancels.is_empty()
        || !run.external_signals.is_empty();
    match moves {
        true => Outlook::GoesOn,
        false => Outlook::WaitsOutside,
    }
}

fn workflow_task(run: &Run, stored: &Stored, obstacles: &mut Vec<Obstacle>) {
    let Some(task) = &run.core.workflow_task else {
        return;
    };
    if task.started_id == 0 && !task.speculative {
        let there = task
            .task
            .as_ref()
            .is_some_and(|place| is_stored(stored, TaskKind::Workflow, place));
        if !there {
            let queue = task.task.as_ref().map(|place| place.queue.clone());
            obstacles.push(Obstacle::WorkflowTaskLost {
                scheduled_id: task.scheduled_id,
                queue: queue.unwrap_or_else(|| run.task_queue().to_owned()),
            });
        }
    }
    let attempt = task.attempt.max(run.core.workflow_task_attempt);
    if attempt > WORKFLOW_TASK_ATTEMPTS {
        obstacles.push(Obstacle::WorkflowTaskFails {
            attempts: attempt - 1,
            queue: run.task_queue().to_owned(),
        });
    }
}

fn look_at(activity: &Activity, stored: &Stored, obstacles: &mut Vec<Obstacle>) {
    if let Some(place) = &activity.task
        && !is_stored(stored, TaskKind::Activity, place)
    {
        obstacles.push(Obstacle::ActivityLost {
            activity_id: activity.activity_id.clone(),
            queue: place.queue.clone(),
        });
    }
    let attempts = activity::attempt(activity) - 1;
    if attempts >= ACTIVITY_ATTEMPTS {
        let failure = activity.last_failure.as_ref();
        obstacles.push(Obstacle::ActivityFails {
            activity_id: activity.activity_id.clone(),
            kind: activity.activity_type.clone(),
            attempts,
            failure: failure.map_or_else(String::new, |failure| failure.message.clone()),
        });
    }
    if let Some(pause) = &activity.pause {
        obstacles.push(Obstacle::ActivityPaused {
            activity_id: activity.activity_id.clone(),
            by: pause.identity.clone(),
            reason: pause.reason.clone(),
        });
    }
}

fn is_stored(stored: &Stored, kind: TaskKind, place: &TaskPlace) -> bool {
    stored
        .tasks
        .iter()
        .any(|(other, at)| *other == kind && at == place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rig, schedule_activity, start_timer};

    fn look(rig: &Rig, change: impl FnOnce(&mut Run, &mut Stored)) -> Outlook {
        let (mut run, mut stored) = (rig.run.clone(), rig.stored());
        change(&mut run, &mut stored);
        outlook(&run, &stored, Some(rig.now))
    }

    fn told(rig: &Rig, change: impl FnOnce(&mut Run, &mut Stored)) -> Vec<String> {
        match look(rig, change) {
            Outlook::Stuck(obstacles) => obstacles.iter().map(Obstacle::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_moves_a_run() {
        let as_it_is = |rig: &Rig| look(rig, |_, _| {});
        assert_eq!(as_it_is(&Rig::new()), Outlook::GoesOn);
        let mut rig = Rig::idle();
        assert_eq!(as_it_is(&rig), Outlook::WaitsOutside);
        let effect = look(&rig, |_, stored| stored.effects = 1);
        assert_eq!(effect, Outlook::GoesOn);
        rig.signal("s").unwrap();
        rig.task(vec![start_timer("t", 60)]);
        assert_eq!(as_it_is(&rig), Outlook::GoesOn);
        rig.terminate().unwrap();
        assert_eq!(as_it_is(&rig), Outlook::GoesOn, "it has ended");
    }

    #[test]
    fn what_is_missing_is_told() {
        let mut rig = Rig::new();
        let lost = "its workflow task (event 2) is scheduled and not in queue queue: reset the run";
        assert_eq!(told(&rig, |_, stored| stored.tasks.clear()), [lost]);
        rig.task(vec![schedule_activity("a", 1), start_timer("t", 60)]);
        let lost = told(&rig, |_, stored| stored.tasks.clear());
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(
            lost[0].starts_with("activity a waits for a worker"),
            "{lost:?}"
        );
        for due in [None, Some(rig.now.plus(Duration::from_secs(61)))] {
            let asleep = told(&rig, |_, stored| stored.due = due);
            assert!(asleep[0].contains("nothing will wake it"), "{asleep:?}");
        }
        let late = Duration::from_secs(61);
        let late = told(&rig, |_, stored| {
            stored.due = Some(Time(rig.now.0 - late.as_nanos() as i64))
        });
        assert_eq!(
            late,
            ["it was to be woken 61 s ago: see the log of the engine"]
        );
        let disagree = told(&rig, |_, stored| stored.last_event_id += 1);
        assert_eq!(
            disagree,
            ["its history ends with event 7, its state was written after event 6"]
        );
    }

    #[test]
    fn what_fails_again_and_again_is_told() {
        let mut rig = Rig::new();
        for _ in 0..3 {
            let task = rig.begin();
            rig.fail(&task).unwrap();
        }
        assert_eq!(
            told(&rig, |_, _| {}),
            [
                "its workflow task failed or timed out 3 times in a row: see the log of the workers of queue queue"
            ]
        );
        let mut rig = Rig::new();
        rig.task(vec![schedule_activity("a", 0)]);
        let fails = told(&rig, |run, _| {
            let id = run.activity_ids["a"];
            let mut activity = (*run.activities[&id]).clone();
            activity.attempt = 6;
            activity.last_failure = Some(tidemill_proto::api::failure::v1::Failure {
                message: "no route".into(),
                ..Default::default()
            });
            activity.pause = Some(crate::model::Pause {
                identity: "Ada".into(),
                reason: "maintenance".into(),
                ..Default::default()
            });
            run.activities.insert(id, std::sync::Arc::new(activity));
        });
        assert!(
            fails[0].ends_with("failed 5 times in a row, at last with: no route"),
            "{fails:?}"
        );
        assert_eq!(fails[1], "activity a is paused by Ada: maintenance");
    }
}
