//! A seed without some of its parts: for finding out which of them a finding needs.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::{Plan, Step, Workflow};

/// What is left out of a seed's plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Parts by their names, as [`Limits`] is printed.
    pub without: BTreeSet<String>,
    /// Nothing goes wrong any more after so many milliseconds.
    pub calm_ms: Option<u64>,
}

impl fmt::Display for Limits {
    /// As arguments of the command.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.without.is_empty() {
            let names: Vec<_> = self.without.iter().map(String::as_str).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        match self.calm_ms {
            Some(ms) => write!(f, " --calm-ms {ms}"),
            None => Ok(()),
        }
    }
}

/// Leaves out some of it.
type LeaveOut<T> = fn(&mut T);

/// A part of a plan, and how it is left out.
struct Part {
    name: String,
    leave_out: Box<dyn Fn(&mut Plan)>,
}

impl Plan {
    pub(crate) fn limit(&mut self, limits: &Limits) {
        for part in self.parts() {
            if limits.without.contains(&part.name) {
                (part.leave_out)(self);
            }
        }
        if let Some(ms) = limits.calm_ms {
            self.calm_from = self.calm_from.min(Duration::from_millis(ms));
        }
    }

    /// The names of all parts that can be left out, the large ones first.
    pub(crate) fn part_names(&self) -> Vec<String> {
        self.parts().into_iter().map(|part| part.name).collect()
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut part = |name: String, leave_out: Box<dyn Fn(&mut Plan)>| {
            parts.push(Part { name, leave_out });
        };
        for (at, workflow) in self.workflows.iter().enumerate() {
            if !workflow.is_child {
                let alone = Box::new(move |plan: &mut Plan| plan.workflows[at].is_absent = true);
                part(workflow.id.clone(), alone);
            }
        }
        let faults = self.faults;
        let of_all: [(&str, bool, LeaveOut<Plan>); 8] = [
            ("crashes", faults.crashes, |p| p.faults.crashes = false),
            ("disk", faults.disk, |p| p.faults.disk = false),
            ("workers", faults.workers, |p| p.faults.workers = false),
            ("clients", faults.clients, |p| p.faults.clients = false),
            ("sticky", self.sticky, |p| p.sticky = false),
            ("expires", self.expires, |p| p.expires = false),
            ("more-workers", self.workers > 1, |p| p.workers = 1),
            ("more-shards", self.shards > 1, |p| p.shards = 1),
        ];
        for (name, is_there, leave_out) in of_all {
            if is_there {
                part(name.into(), Box::new(leave_out));
            }
        }
        for (at, workflow) in self.workflows.iter().enumerate() {
            for (name, leave_out) in workflow.operations() {
                let name = format!("{}/{name}", workflow.id);
                let leave_out = move |plan: &mut Plan| leave_out(&mut plan.workflows[at]);
                part(name, Box::new(leave_out));
            }
            for step in 0..workflow.steps.len() {
                let name = format!("{}/step-{step}", workflow.id);
                let leave_out =
                    move |plan: &mut Plan| plan.workflows[at].steps[step] = Step::Nothing;
                part(name, Box::new(leave_out));
            }
        }
        parts
    }
}

impl Workflow {
    /// What clients do to it, and how that is left out.
    fn operations(&self) -> impl Iterator<Item = (&'static str, LeaveOut<Workflow>)> {
        let all: [(&str, bool, LeaveOut<Workflow>); 7] = [
            ("terminate", self.terminated_after.is_some(), |w| {
                w.terminated_after = None;
            }),
            ("reset", self.reset_after.is_some(), |w| {
                w.reset_after = None
            }),
            ("cancel", self.cancelled_after.is_some(), |w| {
                w.cancelled_after = None;
            }),
            ("queries", !self.queries.is_empty(), |w| w.queries.clear()),
            ("continue", self.continues > 0, |w| w.continues = 0),
            ("signals", !self.signals.is_empty(), |w| {
                w.signals.clear();
                w.forget(|step| matches!(step, Step::Signals(_)));
            }),
            ("updates", !self.updates.is_empty(), |w| {
                w.updates.clear();
                w.forget(|step| matches!(step, Step::Updates(_)));
            }),
        ];
        let there = all.into_iter().filter(|(_, is_there, _)| *is_there);
        there.map(|(name, _, leave_out)| (name, leave_out))
    }

    fn forget(&mut self, which: impl Fn(&Step) -> bool) {
        for step in &mut self.steps {
            if which(step) {
                *step = Step::Nothing;
            }
        }
    }
}
