//! What a seed is about: workflows and what goes wrong beside them.

mod limits;

use std::time::Duration;

use tidemill_store::log::sim::Random;

pub use limits::Limits;

/// A workflow's program, and what clients do to it. Its steps are done one after the other, in each of its
/// runs.
pub(crate) struct Workflow {
    pub(crate) id: String,
    pub(crate) starts_at: Duration,
    pub(crate) steps: Vec<Step>,
    /// How often it continues as a new run before it completes.
    pub(crate) continues: u32,
    /// When each of its signals is sent after the start; and so on.
    pub(crate) signals: Vec<Duration>,
    pub(crate) updates: Vec<Duration>,
    pub(crate) queries: Vec<Duration>,
    /// A client asks it to end, and it does.
    pub(crate) cancelled_after: Option<Duration>,
    /// A client resets it to one of its workflow tasks.
    pub(crate) reset_after: Option<Duration>,
    /// A client ends it by force.
    pub(crate) terminated_after: Option<Duration>,
    /// A child that another one starts; no client does.
    pub(crate) is_child: bool,
    /// Left out: see [`Limits`].
    pub(crate) is_absent: bool,
}

pub(crate) enum Step {
    /// Activities side by side.
    Activities(Vec<Activity>),
    Timer(Duration),
    /// Waits for so many signals in all.
    Signals(usize),
    /// Waits for so many updates in all.
    Updates(usize),
    /// Starts the workflow of this index and waits for its end.
    Child(usize),
    Nothing,
}

#[derive(Clone, Copy)]
pub(crate) struct Activity {
    /// How many of its first attempts fail.
    pub(crate) failures: u32,
    /// It says now and then that it is alive, and is given up soon when it does not.
    pub(crate) beats: bool,
}

pub(crate) struct Plan {
    pub(crate) workflows: Vec<Workflow>,
    pub(crate) faults: Faults,
    /// From here on nothing goes wrong any more.
    pub(crate) calm_from: Duration,
    pub(crate) shards: usize,
    pub(crate) workers: usize,
    /// Workers keep histories, and have tasks of their runs sent to themselves.
    pub(crate) sticky: bool,
    /// After everything, the time is awaited at which closed runs are deleted.
    pub(crate) expires: bool,
}

/// What may go wrong in this seed. Some seeds know one kind alone: it is better seen then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) crashes: bool,
    pub(crate) disk: bool,
    pub(crate) workers: bool,
    pub(crate) clients: bool,
}

impl Plan {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let kinds = if random.one_in(8) {
            0
        } else {
            random.below(16)
        };
        let faults = Faults {
            crashes: kinds & 1 != 0,
            disk: kinds & 2 != 0,
            workers: kinds & 4 != 0,
            clients: kinds & 8 != 0,
        };
        let mut workflows = Vec::new();
        for number in 0..1 + random.below(5) {
            draw_workflow(number, &mut workflows, random);
        }
        Plan {
            workflows,
            faults,
            calm_from: millis(random, 25_000) + Duration::from_secs(5),
            shards: 1 + random.below(3),
            workers: 1 + random.below(3),
            sticky: random.one_in(2),
            expires: random.one_in(8),
        }
    }

    /// Whose child it is.
    pub(crate) fn parent(&self, child: &Workflow) -> Option<&Workflow> {
        let is_it =
            |step: &Step| matches!(step, Step::Child(at) if self.workflows[*at].id == child.id);
        self.workflows
            .iter()
            .find(|workflow| workflow.steps.iter().any(is_it))
    }
}

fn millis(random: &mut Random, most: usize) -> Duration {
    Duration::from_millis(random.below(most) as u64)
}

fn draw_workflow(number: usize, workflows: &mut Vec<Workflow>, random: &mut Random) {
    let mut steps = Vec::new();
    let mut signals = Vec::new();
    let mut updates = Vec::new();
    let continues = if random.one_in(3) {
        1 + random.below(2)
    } else {
        0
    };
    // What is repeated may meet the next run, which does not know it.
    let is_one_run = continues == 0;
    let mut child = None;
    for _ in 0..1 + random.below(4) {
        match random.below(10) {
            0..4 => {
                let activities = (0..1 + random.below(3)).map(|_| Activity {
                    failures: random.below(6).saturating_sub(3) as u32,
                    beats: random.one_in(3),
                });
                steps.push(Step::Activities(activities.collect()));
            }
            4 | 5 => steps.push(Step::Timer(
                millis(random, 8_000) + Duration::from_millis(1),
            )),
            6 if is_one_run => {
                signals.extend((0..1 + random.below(3)).map(|_| millis(random, 10_000)));
                steps.push(Step::Signals(signals.len()));
            }
            7 | 8 if is_one_run => {
                updates.extend((0..1 + random.below(2)).map(|_| millis(random, 10_000)));
                steps.push(Step::Updates(updates.len()));
            }
            9 if is_one_run && child.is_none() => {
                child = Some(steps.len());
                steps.push(Step::Nothing);
            }
            _ => {}
        }
    }
    if let Some(at) = child {
        steps[at] = Step::Child(workflows.len());
        workflows.push(draw_child(number, random));
    }
    let mut some = |one_in: usize| random.one_in(one_in).then(|| millis(random, 10_000));
    let cancelled_after = some(7).filter(|_| is_one_run);
    let reset_after = some(4).filter(|_| is_one_run);
    let terminated_after = some(10);
    let (has_child, is_ended) = (
        child.is_some(),
        cancelled_after.or(terminated_after).is_some(),
    );
    workflows.push(Workflow {
        id: format!("workflow-{number}"),
        cancelled_after,
        // What ends a workflow ends its child: a run that is made of it then would wait for that child in vain.
        reset_after: reset_after.filter(|_| !(has_child && is_ended)),
        terminated_after,
        queries: (0..2)
            .filter_map(|_| some(2))
            .filter(|_| is_one_run)
            .collect(),
        starts_at: millis(random, 5_000),
        steps,
        continues: continues as u32,
        signals,
        updates,
        is_child: false,
        is_absent: false,
    });
}

fn draw_child(number: usize, random: &mut Random) -> Workflow {
    let one = Activity {
        failures: 0,
        beats: false,
    };
    Workflow {
        id: format!("child-{number}"),
        starts_at: Duration::ZERO,
        steps: vec![
            Step::Timer(millis(random, 2_000) + Duration::from_millis(1)),
            Step::Activities(vec![one]),
        ],
        continues: 0,
        signals: Vec::new(),
        updates: Vec::new(),
        queries: Vec::new(),
        cancelled_after: None,
        reset_after: None,
        terminated_after: None,
        is_child: true,
        is_absent: false,
    }
}
