//! What a seed is about: workflows and what goes wrong beside them.

use std::time::Duration;

use tidemill_store::log::sim::Random;

/// A workflow's program. Its steps are done one after the other, in each of its runs.
pub(crate) struct Workflow {
    pub(crate) id: String,
    pub(crate) starts_at: Duration,
    pub(crate) steps: Vec<Step>,
    /// How often it continues as a new run before it completes.
    pub(crate) continues: u32,
    /// When each of its signals is sent after the start.
    pub(crate) signals: Vec<Duration>,
    /// A client ends it by force so long after the start.
    pub(crate) terminated_after: Option<Duration>,
    /// A child that another one starts; no client does.
    pub(crate) is_child: bool,
}

pub(crate) enum Step {
    /// Activities side by side: how many of the first attempts of each fail.
    Activities(Vec<u32>),
    Timer(Duration),
    /// Waits for so many signals in all.
    Signals(usize),
    /// Starts the workflow of this index and waits for its end.
    Child(usize),
}

pub(crate) struct Plan {
    pub(crate) workflows: Vec<Workflow>,
    pub(crate) faults: Faults,
    /// From here on nothing goes wrong any more.
    pub(crate) calm_from: Duration,
    pub(crate) shards: usize,
    pub(crate) workers: usize,
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
            calm_from: Duration::from_millis(5_000 + random.below(25_000) as u64),
            shards: 1 + random.below(3),
            workers: 1 + random.below(3),
        }
    }
}

fn millis(random: &mut Random, most: usize) -> Duration {
    Duration::from_millis(random.below(most) as u64)
}

fn draw_workflow(number: usize, workflows: &mut Vec<Workflow>, random: &mut Random) {
    let mut steps = Vec::new();
    let mut signals = Vec::new();
    let continues = if random.one_in(3) {
        1 + random.below(2)
    } else {
        0
    };
    let mut child = None;
    for _ in 0..1 + random.below(4) {
        match random.below(8) {
            0..4 => {
                let failures =
                    (0..1 + random.below(3)).map(|_| random.below(6).saturating_sub(3) as u32);
                steps.push(Step::Activities(failures.collect()));
            }
            4 | 5 => steps.push(Step::Timer(
                millis(random, 8_000) + Duration::from_millis(1),
            )),
            // A signal that is repeated may meet the next run, which does not know it.
            6 if continues == 0 => {
                signals.extend((0..1 + random.below(3)).map(|_| millis(random, 10_000)));
                steps.push(Step::Signals(signals.len()));
            }
            7 if continues == 0 && child.is_none() => {
                child = Some(steps.len());
                steps.push(Step::Timer(Duration::from_millis(1)));
            }
            _ => {}
        }
    }
    if let Some(at) = child {
        steps[at] = Step::Child(workflows.len());
        workflows.push(Workflow {
            id: format!("child-{number}"),
            starts_at: Duration::ZERO,
            steps: vec![
                Step::Timer(millis(random, 2_000) + Duration::from_millis(1)),
                Step::Activities(vec![0]),
            ],
            continues: 0,
            signals: Vec::new(),
            terminated_after: None,
            is_child: true,
        });
    }
    workflows.push(Workflow {
        id: format!("workflow-{number}"),
        starts_at: millis(random, 5_000),
        steps,
        continues: continues as u32,
        signals,
        terminated_after: random.one_in(10).then(|| millis(random, 10_000)),
        is_child: false,
    });
}
