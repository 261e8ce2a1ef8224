//! Random sequences of legal and illegal operations: whatever happens, what must hold does hold.

use super::*;
use crate::options::{self, Attachment};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const TIMERS: [&str; 3] = ["t1", "t2", "t3"];
const ACTIVITIES: [&str; 3] = ["a1", "a2", "a3"];
const UPDATES: [&str; 4] = ["u1", "u2", "u3", "u4"];

fn some_command(rig: &Rig, random: &mut Random) -> Command {
    let activity = random.pick(&ACTIVITIES);
    match random.below(12) {
        0..=2 => start_timer(random.pick(&TIMERS), random.below(20) as i64),
        3 => cancel_timer(random.pick(&TIMERS)),
        4..=6 => {
            let mut command = schedule_activity(activity, 1 + random.below(3) as i32);
            if let Some(C::ScheduleActivityTaskCommandAttributes(a)) = &mut command.attributes {
                a.request_eager_execution = random.one_in(4);
                a.start_to_close_timeout = seconds(1 + random.below(40) as i64);
            }
            command
        }
        7 => cancel_activity(rig.run.activity_ids.get(activity).copied().unwrap_or(3)),
        8 => command(
            tidemill_proto::api::command::v1::RecordMarkerCommandAttributes {
                marker_name: random.pick(&["m", "m", ""]).into(),
                ..Default::default()
            }
            .into(),
        ),
        9 => command(
            tidemill_proto::api::command::v1::ModifyWorkflowPropertiesCommandAttributes {
                upserted_memo: Some(tidemill_proto::api::common::v1::Memo {
                    fields: [("k".to_owned(), json(random.pick(&["1", "2", "null"])))].into(),
                }),
            }
            .into(),
        ),
        10 => command(
            tidemill_proto::api::command::v1::StartChildWorkflowExecutionCommandAttributes {
                workflow_id: "child".into(),
                workflow_type: Some(WorkflowType {
                    name: "Child".into(),
                }),
                ..Default::default()
            }
            .into(),
        ),
        _ => match random.below(6) {
            0 => complete_workflow(),
            1 => fail_workflow(),
            2 => continue_again(),
            _ => start_timer("", 1),
        },
    }
}

fn completion(rig: &Rig, random: &mut Random) -> Completion {
    let mut messages = Vec::new();
    for id in UPDATES {
        let live = rig.run.volatile.updates.get(id).map(|u| u.stage);
        match (live, random.below(10)) {
            (Some(UpdateStage::Accepted), 0..=4) => messages.push(response(id)),
            (Some(UpdateStage::Sent), 0..=2) => messages.push(acceptance(id)),
            (Some(UpdateStage::Sent), 3..=4) => messages.extend([acceptance(id), response(id)]),
            (Some(UpdateStage::Sent), 5..=7) => messages.push(rejection(id)),
            (_, 9) if random.one_in(6) => messages.push(response(id)),
            _ => {}
        }
    }
    // Half of the tasks bring no commands, so that some speculative ones can be taken back.
    let commands: Vec<_> = match random.below(8) {
        0..=3 => Vec::new(),
        n => (4..=n).map(|_| some_command(rig, random)).collect(),
    };
    let queries: Vec<_> = rig
        .run
        .volatile
        .queries
        .iter()
        .map(|q| q.id.as_str())
        .collect();
    Completion {
        query_results: if random.one_in(3) {
            Default::default()
        } else {
            answers(&queries).query_results
        },
        sticky: if random.one_in(3) { None } else { sticky() },
        return_new_task: random.one_in(2),
        force_new_task: random.one_in(6),
        discards_with_events: random.one_in(3),
        bad_binary: random.one_in(40),
        binary_checksum: random.pick(&["b1", "b2"]).into(),
        ..with_messages(messages, commands)
    }
}

/// Does something; errors are as good as any other answer.
fn step(rig: &mut Rig, random: &mut Random) -> String {
    let task = rig.run.core.workflow_task.clone().unwrap_or_default();
    let mut token = TaskRef {
        scheduled_id: task.scheduled_id,
        started_id: task.started_id,
        attempt: task.attempt,
        started_time: Time(task.started_time),
    };
    if random.one_in(20) {
        token.started_id += 1;
    }
    // Now and then workers wait for what comes.
    rig.waiting = [0, 0, 1, 2][random.below(4)];
    let done: Result<String, Error> = match random.below(30) {
        0..=2 => rig
            .signal(random.pick(&["", "r1", "r2", "r3"]))
            .map(|()| "signal".into()),
        3 if random.one_in(4) => {
            rig.cancel();
            Ok("cancel".into())
        }
        4 if random.one_in(30) => rig.terminate().map(|()| "terminate".into()),
        5..=6 => rig
            .update(random.pick(&UPDATES))
            .map(|s| format!("update {s:?}")),
        7 => match query::route(&rig.run, Default::default()) {
            Ok(query::Route::Buffered) => rig.query("q").map(|()| "query".into()),
            other => Ok(format!("query {other:?}")),
        },
        8 => rig
            .op(|run, cx| Ok(query::cancel(run, "q", cx)))
            .map(|()| "query cancelled".into()),
        9..=14 => {
            let from_sticky = task.sticky && !random.one_in(5);
            rig.poll_from(from_sticky)
                .map(|s| format!("started with {} messages", s.messages.len()))
        }
        15..=21 => {
            let completion = completion(rig, random);
            let what = format!("completion {completion:?}");
            rig.complete(&token, completion).map(|_| what)
        }
        22 => rig.fail(&token).map(|()| "fail".into()),
        23 => {
            let id = random.pick(&ACTIVITIES);
            let waits = rig
                .run
                .activity_ids
                .get(id)
                .is_some_and(|id| rig.run.activities[id].started_time == 0);
            if waits {
                let a = rig.run.activities[&rig.run.activity_ids[id]].clone();
                let start = StartActivity {
                    scheduled_id: a.scheduled_id,
                    stamp: a.stamp,
                    identity: "worker".into(),
                    request_id: "poll".into(),
                    worker_version: None,
                };
                rig.op(|run, cx| activity::start(run, &start, cx))
                    .map(|_| format!("start {id}"))
            } else {
                rig.complete_activity(id).map(|()| format!("complete {id}"))
            }
        }
        24 => rig
            .fail_activity(random.pick(&ACTIVITIES), failure("F"))
            .map(|()| "fail activity".into()),
        25..=26 => {
            rig.after(random.pick(&["0.5", "1", "5", "10", "40"]).parse().unwrap());
            Ok("time".into())
        }
        27 => rig
            .op(workflow_task::reset_sticky)
            .map(|()| "reset sticky".into()),
        28 => {
            let attachment = Attachment {
                request_id: random.pick(&["x", "y"]).into(),
                ..Default::default()
            };
            rig.op(|run, cx| options::attach(run, attachment, cx))
                .map(|()| "attach".into())
        }
        _ if random.one_in(3) => {
            rig.reload();
            Ok("reload".into())
        }
        _ => Ok("nothing".into()),
    };
    done.unwrap_or_else(|e| format!("refused: {e}"))
}

/// The state in which a sequence leaves its run.
fn run(seed: u64) -> String {
    let mut random = Random(seed);
    let started = WorkflowExecutionStartedEventAttributes {
        workflow_run_timeout: if random.one_in(3) { seconds(200) } else { None },
        first_workflow_task_backoff: if random.one_in(6) { seconds(7) } else { None },
        ..Default::default()
    };
    let limits = Limits {
        buffered_events: 6,
        history_count: 400,
        reported_problems_after: 3,
        buffered_queries: 1,
        updates_in_flight: 3,
        ..Limits::default()
    };
    let mut rig = Rig::begun(started, limits);
    let mut steps = 0;
    // A while after it has closed as well.
    let mut left = 10;
    while steps < 300 && left > 0 {
        let before = rig.state();
        let done =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&mut rig, &mut random)));
        if let Err(panic) = done {
            eprintln!("seed {seed}, step {steps}, from {before}");
            std::panic::resume_unwind(panic);
        }
        steps += 1;
        left -= i32::from(!rig.run.is_open());
    }
    rig.state()
}

/// How many sequences end in which state.
fn search(seeds: std::ops::Range<u64>) -> BTreeMap<String, usize> {
    let mut ends = BTreeMap::new();
    for seed in seeds {
        *ends.entry(run(seed)).or_default() += 1;
    }
    ends
}

/// How many sequences are tried at least; `TIDEMILL_RANDOM_SEEDS=10000 cargo test -p tidemill-engine random`
/// tries more, for minutes. Read when the test is built: nothing of the engine reads its environment.
fn seeds() -> u64 {
    const LEAST: u64 = 150;
    let wanted = option_env!("TIDEMILL_RANDOM_SEEDS").unwrap_or("0");
    LEAST.max(wanted.parse().expect("a number of seeds"))
}

#[test]
fn random_operations_keep_the_invariants() {
    let ends = search(0..seeds());
    // The sequences end in many ways, in states of an open run as well.
    for end in [
        "completed",
        "failed",
        "terminated",
        "continuedasnew",
        "timedout",
        "none",
        "started",
    ] {
        assert!(ends.contains_key(end), "{ends:?}");
    }
}
