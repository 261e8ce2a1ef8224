//! What `approve` becomes.

use crate::plan::{self, Approve};
use crate::spec;
use crate::stage::Type;
use crate::suggest;

use super::expression::ItemRule;
use super::inputs;
use super::lower::{Lowering, Made};

impl Lowering<'_> {
    pub(super) fn approve(&mut self, approve: &spec::Approve) -> Option<Made> {
        let mut made = Made::nothing();
        made.mentions = self.read_text(&approve.message, ItemRule::Outside);
        let choices: Vec<String> = match &approve.choices {
            Some(choices) => choices.iter().map(|choice| choice.value.clone()).collect(),
            None => vec!["approve".to_owned(), "reject".to_owned()],
        };
        self.choices(approve, &choices);
        if let Some(form) = &approve.form {
            inputs::is_schema(&form.to_json(), form, "the form", self.findings);
        }
        made.output = Type::Object;
        made.fields = Some(
            ["choice", "form", "by", "comment", "timed_out"]
                .map(str::to_owned)
                .to_vec(),
        );
        made.work = plan::Work::Approve(Approve {
            message: approve.message.value.clone(),
            choices,
            form: approve.form.as_ref().map(crate::yaml::Tree::to_json),
            timeout_ms: approve.timeout_ms,
            default: approve
                .default
                .as_ref()
                .map(|default| default.value.clone()),
            routed: false,
        });
        Some(made)
    }

    fn choices(&mut self, approve: &spec::Approve, choices: &[String]) {
        if let Some(given) = &approve.choices {
            let mut seen: Vec<&str> = Vec::new();
            for choice in given {
                if seen.contains(&choice.value.as_str()) {
                    self.findings.error(
                        "bad-choices",
                        choice.span,
                        format!("`{}` is among the choices twice", choice.value),
                        None,
                    );
                }
                seen.push(&choice.value);
            }
            if given.is_empty() {
                self.findings.error(
                    "bad-choices",
                    approve.message.span,
                    "there is nothing to choose from",
                    "give `choices`, or leave the key out for approve and reject".to_owned(),
                );
            }
        }
        let Some(default) = &approve.default else {
            return;
        };
        if !choices.contains(&default.value) {
            self.findings.error(
                "unknown-choice",
                default.span,
                format!("the default `{}` is not among the choices", default.value),
                suggest::among(
                    &default.value,
                    choices.iter().map(String::as_str),
                    "choices",
                ),
            );
        }
        if approve.timeout_ms.is_none() {
            self.findings.error(
                "default-without-timeout",
                default.span,
                "the default is never taken: the approval waits for ever",
                "add a `timeout`, or remove the `default`".to_owned(),
            );
        }
    }
}
