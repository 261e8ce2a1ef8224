//! The lint that a pipeline asks for with `linear: true`: stages one after another, with `parallel`
//! and `map` within one, and nothing that makes a run take another way than the one that is written.

use crate::diagnostic::{Findings, Span};
use crate::spec::{Stage, Work};

pub(super) fn lint(stages: &[Stage], findings: &mut Findings) {
    for stage in stages {
        if let Some(when) = &stage.when {
            branches("when", when.span, findings);
        }
        // A list of several needs or of none is a graph; so is a need of another than the one before.
        if let Some(first) = stage.needs.as_ref().map(|needs| needs.first()) {
            let span = first.map_or(stage.span, |need| need.span);
            branches("needs", span, findings);
        }
        match &stage.work {
            Work::Parallel(branches) => {
                for branch in branches {
                    lint(&branch.stages, findings);
                }
            }
            Work::Map(map) => lint(&map.stages, findings),
            Work::Uses(_) | Work::Approve(_) | Work::Call(_) | Work::Unclear => {}
        }
    }
}

fn branches(key: &str, span: Span, findings: &mut Findings) {
    findings.error(
        "not-linear",
        span,
        format!("`{key}` makes a branch, and this pipeline says `linear: true`"),
        "use `parallel` for work side by side, or take `linear` away".to_owned(),
    );
}
