//! What `call` becomes: the called pipeline is checked and becomes a part of the plan.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::plan;
use crate::spec::{self, Spot};

use super::expression::ItemRule;
use super::lower::{Lowering, Made};
use super::params::{self, Codes};
use super::{MAX_CALL_DEPTH, MAX_CALLS, check_file};

const CALL: Codes = Codes {
    unknown: "unknown-call-input",
    missing: "missing-call-input",
    wrong: "wrong-call-input",
};

impl Lowering<'_> {
    pub(super) fn call(&mut self, call: &spec::Call) -> Option<Made> {
        let mut made = Made::nothing();
        let mut values = BTreeMap::new();
        if let Some(with) = &call.with {
            made.mentions = self.read_tree(with, ItemRule::Outside);
            for entry in with.entries().unwrap_or_default() {
                values.insert(entry.key.clone(), entry.value.to_json());
            }
        }
        let Some(plan) = self.called(&call.pipeline) else {
            return Some(made);
        };
        let given = Value::Object(values.clone().into_iter().collect());
        params::validate(
            self.findings,
            &plan.inputs,
            &given,
            call.with.as_ref(),
            call.pipeline.span,
            &format!("the pipeline {}", plan.name),
            &CALL,
        );
        made.work = plan::Work::Call(plan::Call {
            plan: Box::new(plan),
            inputs: values,
        });
        Some(made)
    }

    fn called(&mut self, path: &Spot<String>) -> Option<plan::Plan> {
        let from = self.findings.file().to_owned();
        let source = match self.shared.loader.load(&path.value, &from) {
            Ok(source) => source,
            Err(why) => {
                self.findings.error(
                    "call-not-found",
                    path.span,
                    format!("the pipeline `{}` cannot be read: {why}", path.value),
                    "the path begins at the folder of this file".to_owned(),
                );
                return None;
            }
        };
        let mut files = self.files.to_vec();
        files.push(source.file.clone());
        if let Some(first) = self.files.iter().position(|file| *file == source.file) {
            self.findings.error(
                "recursive-call",
                path.span,
                "a pipeline cannot call itself, not even through another",
                files[first..].join(" -> "),
            );
            return None;
        }
        let calls = self.shared.calls.get() + 1;
        self.shared.calls.set(calls);
        if files.len() > MAX_CALL_DEPTH || calls > MAX_CALLS {
            self.findings.error(
                "too-many-calls",
                path.span,
                format!(
                    "calls go more than {MAX_CALL_DEPTH} deep, or there are more than {MAX_CALLS}"
                ),
                "put stages of the called pipelines into this one".to_owned(),
            );
            return None;
        }
        let checked = check_file(&source.text, &source.file, self.shared, &files);
        self.findings.adopt(path.span, checked.diagnostics);
        checked.plan
    }
}
