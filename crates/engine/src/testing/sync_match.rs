//! Tasks that start in the transition that adds them, as a server does when polls wait.

use super::*;

impl Rig {
    /// Starts what the transition adds, for as many polls as wait.
    pub(super) fn start_for_polls(&mut self, t: &mut Transition) {
        while self.waiting > 0
            && let Some(task) = t.tasks_added.first()
        {
            let started = match task.kind {
                TaskKind::Workflow => {
                    let start = Start {
                        scheduled_id: task.scheduled_id,
                        stamp: task.stamp,
                        identity: "worker".into(),
                        request_id: "poll".into(),
                        from_sticky: task.place.queue != task.normal_queue,
                        worker_version: None,
                    };
                    workflow_task::start(&t.run, &start, &self.cx()).map(|o| o.map(|_| ()))
                }
                TaskKind::Activity => {
                    let start = StartActivity {
                        scheduled_id: task.scheduled_id,
                        stamp: task.stamp,
                        identity: "worker".into(),
                        request_id: "poll".into(),
                        worker_version: None,
                    };
                    activity::start(&t.run, &start, &self.cx()).map(|o| o.map(|_| ()))
                }
            };
            let started = started.expect("a task that was just added is not stale");
            started.reply.expect("it starts");
            for next in started.transitions {
                if next.run.id.no == t.run.id.no {
                    t.then(next);
                } else {
                    self.others.push(next);
                }
            }
            self.waiting -= 1;
            // Two changes of the run in one commit.
            self.writes += 1;
        }
    }
}
