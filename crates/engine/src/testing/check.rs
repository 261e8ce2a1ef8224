//! What must hold of a run at any time.

use super::*;
use crate::progress::{self, Obstacle, Outlook, Stored};

impl Rig {
    pub(crate) fn check(&self) {
        self.check_history();
        self.check_order();
        self.check_store();
        self.check_tasks();
        self.check_volatile();
        self.check_progress();
        if self.run.is_open() {
            self.check_open();
        } else {
            self.check_closed();
        }
    }

    /// Nothing is lost that the run needs to go on; attempts may fail as often as they like.
    fn check_progress(&self) {
        let outlook = progress::outlook(&self.loaded(), &self.stored(), None);
        let Outlook::Stuck(mut obstacles) = outlook else {
            return;
        };
        obstacles.retain(|obstacle| {
            !matches!(
                obstacle,
                Obstacle::WorkflowTaskFails { .. }
                    | Obstacle::ActivityFails { .. }
                    | Obstacle::ActivityPaused { .. }
            )
        });
        assert_eq!(obstacles, []);
    }

    /// What the store holds beside the rows.
    pub(crate) fn stored(&self) -> Stored {
        Stored {
            due: self.due,
            tasks: self
                .tasks
                .iter()
                .map(|task| (task.kind, task.place.clone()))
                .collect(),
            last_event_id: self.history.last().unwrap().last_event_id,
            effects: self.outbox.len(),
        }
    }

    /// Event ids have no gaps, batches are what they say, and the run knows where they end.
    fn check_history(&self) {
        let core = &self.run.core;
        let ids: Vec<_> = self.events().map(|e| e.event_id).collect();
        let all: Vec<_> = (1..core.next_event_id).collect();
        assert_eq!(ids, all);
        for batch in &self.history {
            assert_eq!(batch.first_event_id, batch.events[0].event_id);
            assert_eq!(
                batch.last_event_id,
                batch.events[batch.events.len() - 1].event_id
            );
            for (i, event) in batch.events.iter().enumerate() {
                let kind = event.attributes.as_ref().map(Attributes::event_type);
                assert_eq!(Some(event.event_type()), kind);
                assert!(event.event_time.is_some() && event.version == 0);
                let ends = event.event_type() == EventType::WorkflowTaskStarted;
                assert!(
                    !ends || i + 1 == batch.events.len(),
                    "a started event ends its batch"
                );
            }
        }
        let task_ids: Vec<_> = self.events().map(|e| e.task_id).collect();
        assert!(task_ids.is_sorted_by(|a, b| a < b));
        assert_eq!(
            core.history_size,
            self.history
                .iter()
                .map(|b| b.bytes.len() as i64)
                .sum::<i64>()
        );
        assert_eq!(
            core.last_first_event_id,
            self.history.last().unwrap().first_event_id
        );
    }

    /// Nothing stands between a workflow task's start and its end.
    fn check_order(&self) {
        use EventType as E;
        let kinds: Vec<_> = self.events().map(HistoryEvent::event_type).collect();
        for (i, pair) in kinds.windows(2).enumerate() {
            let ends = matches!(
                pair[1],
                E::WorkflowTaskCompleted | E::WorkflowTaskFailed | E::WorkflowTaskTimedOut
            );
            assert!(
                pair[0] != E::WorkflowTaskStarted || ends,
                "{:?} after event {}",
                pair[1],
                i + 1
            );
        }
        for event in self.events() {
            match event.attributes.as_ref().unwrap() {
                Attributes::WorkflowTaskStartedEventAttributes(a) => {
                    assert_eq!(
                        kinds[a.scheduled_event_id as usize - 1],
                        E::WorkflowTaskScheduled
                    );
                }
                Attributes::WorkflowTaskCompletedEventAttributes(a) => {
                    assert_eq!(
                        kinds[a.scheduled_event_id as usize - 1],
                        E::WorkflowTaskScheduled
                    );
                    assert_eq!(a.started_event_id, event.event_id - 1);
                }
                Attributes::WorkflowTaskFailedEventAttributes(a) => {
                    assert_eq!(a.started_event_id, event.event_id - 1);
                }
                _ => {}
            }
        }
    }

    /// What the store holds brings the run back, but for what lives in memory only.
    fn check_store(&self) {
        let (run, loaded) = (&self.run, self.loaded());
        let mut core = run.core.clone();
        core.workflow_task = core.workflow_task.filter(|t| !t.speculative);
        // The stamps of speculative tasks die with them.
        assert!(core.next_stamp >= loaded.core.next_stamp);
        core.next_stamp = loaded.core.next_stamp;
        assert_eq!(core, loaded.core);
        assert_eq!(run.started, loaded.started);
        assert_eq!(run.visible, loaded.visible);
        assert_eq!(run.activities, loaded.activities);
        assert_eq!(run.activity_ids, loaded.activity_ids);
        assert_eq!(run.timers, loaded.timers);
        assert_eq!(run.timer_ids, loaded.timer_ids);
        assert_eq!(run.children, loaded.children);
        assert_eq!(run.external_cancels, loaded.external_cancels);
        assert_eq!(run.external_signals, loaded.external_signals);
        assert_eq!(run.updates, loaded.updates);
        assert_eq!(run.signal_ids, loaded.signal_ids);
        assert_eq!(run.attached, loaded.attached);
        assert_eq!(run.buffered, loaded.buffered);
        assert_eq!(run.deadlines, loaded.deadlines);
        // A write that only moves the wake-up time is no transition of the run.
        assert!(run.core.transitions <= self.writes);
        assert_eq!(Time(run.core.stored_due).get(), self.due);
        if let Some(next) = run.next_deadline() {
            assert!(
                self.due.is_some_and(|due| due <= next),
                "due {:?} after {next:?}",
                self.due
            );
        }
        let records = [
            run.activities.len(),
            run.timers.len(),
            run.children.len(),
            run.external_cancels.len(),
            run.external_signals.len(),
            run.updates.len(),
            run.signal_ids.len(),
            run.attached.len(),
            run.buffered.len(),
        ];
        assert_eq!(
            self.rows.len(),
            2 + records.iter().sum::<usize>(),
            "no row outlives its record"
        );
    }

    /// Every offered task has its record, every record that is offered its task.
    fn check_tasks(&self) {
        let workflow = self
            .run
            .core
            .workflow_task
            .iter()
            .filter(|t| t.started_id == 0 && !t.speculative);
        let mut offered: Vec<_> = workflow
            .map(|t| {
                (
                    TaskKind::Workflow,
                    t.task.clone().expect("it waits"),
                    t.scheduled_id,
                    t.stamp,
                )
            })
            .collect();
        for a in self.run.activities.values() {
            let place = a.task.clone();
            offered.extend(place.map(|p| (TaskKind::Activity, p, a.scheduled_id, a.stamp)));
        }
        offered.sort_by_key(|(_, place, ..)| place.seq);
        let mut tasks: Vec<_> = self
            .tasks
            .iter()
            .map(|t| (t.kind, t.place.clone(), t.scheduled_id, t.stamp))
            .collect();
        tasks.sort_by_key(|(_, place, ..)| place.seq);
        assert_eq!(offered, tasks);
        if let Some(t) = self
            .run
            .core
            .workflow_task
            .as_ref()
            .filter(|t| t.started_id != 0 || t.speculative)
        {
            assert_eq!(t.task, None);
        }
    }

    /// Updates in memory and on record agree.
    fn check_volatile(&self) {
        let live = &self.run.volatile.updates;
        for record in self
            .run
            .updates
            .values()
            .filter(|r| r.completed_id == 0 && self.run.is_open())
        {
            let stage = live.get(&record.update_id).expect("it is not over").stage;
            assert_eq!(stage == UpdateStage::Accepted, record.accepted_id != 0);
        }
        for update in live.values().filter(|u| u.stage == UpdateStage::Accepted) {
            assert!(self.run.updates[&update.update_id].accepted_id != 0);
        }
    }

    fn check_open(&self) {
        let (run, core) = (&self.run, &self.run.core);
        assert!(run.buffered.is_empty() || run.workflow_task_started());
        let kind = |id: i64| {
            self.events()
                .nth(id as usize - 1)
                .map(HistoryEvent::event_type)
        };
        match &core.workflow_task {
            Some(t) if t.speculative => {
                assert_eq!((t.scheduled_id, t.attempt), (core.next_event_id, 1));
                assert!(t.started_id == 0 || t.started_id == t.scheduled_id + 1);
            }
            Some(t) if t.attempt > 1 => {
                assert!(t.scheduled_id <= core.next_event_id);
                let begun = t.started_id != 0;
                assert!(
                    !begun
                        || (t.scheduled_id, t.started_id)
                            == (core.next_event_id, core.next_event_id + 1)
                );
                assert!(!t.sticky && core.sticky.is_none());
            }
            Some(t) => {
                assert_eq!(kind(t.scheduled_id), Some(EventType::WorkflowTaskScheduled));
                assert!(t.started_id == 0 || t.started_id == run.last_event_id());
                assert!(
                    t.started_id == 0 || kind(t.started_id) == Some(EventType::WorkflowTaskStarted)
                );
            }
            None => {}
        }
        if let Some(t) = &core.workflow_task {
            assert!(
                t.original_scheduled_time != 0 && t.original_scheduled_time <= t.scheduled_time
            );
        }
        if workflow_task::may_schedule(run) {
            // Nothing waits for a workflow task that will not come.
            assert!(!update::has_admitted(run), "an update waits");
            assert!(run.volatile.queries.is_empty(), "a query waits");
            let unseen = self
                .events()
                .filter(|e| e.event_id > core.last_completed_id);
            for event in
                unseen.filter(|e| e.event_type() != EventType::WorkflowExecutionOptionsUpdated)
            {
                let from_outside = buffer::is_bufferable(event.event_type());
                assert!(
                    !from_outside,
                    "the workflow has not seen event {}",
                    event.event_id
                );
            }
        }
    }

    fn check_closed(&self) {
        let (run, core) = (&self.run, &self.run.core);
        assert!(!matches!(
            run.status(),
            Status::Running | Status::Paused | Status::Unspecified
        ));
        assert!(core.workflow_task.is_none() && core.sticky.is_none());
        assert_eq!(core.close_event_id, run.last_event_id());
        assert!(core.close_time != 0);
        assert_eq!(
            (run.activities.len(), run.timers.len(), run.children.len()),
            (0, 0, 0)
        );
        assert_eq!((run.buffered.len(), run.signal_ids.len()), (0, 0));
        assert_eq!(
            (run.external_cancels.len(), run.external_signals.len()),
            (0, 0)
        );
        assert_eq!(
            (run.volatile.updates.len(), run.volatile.queries.len()),
            (0, 0)
        );
        assert_eq!((run.next_deadline(), self.due), (None, None));
        let open = [
            EventType::WorkflowTaskFailed,
            EventType::WorkflowTaskCompleted,
        ];
        let last = self.events().next_back().unwrap().event_type();
        assert!(
            !buffer::is_bufferable(last) && !open.contains(&last),
            "{last:?} closes no run"
        );
    }
}
