//! Templates of a file: whether they are right, and which stages they name.

use crate::diagnostic::{Findings, Span};
use crate::template;
use crate::yaml::{Kind, Tree};

use super::draft::{Area, Mention};

/// What `item` is where a template stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemRule {
    /// One item at a time is there.
    Allowed,
    Outside,
    /// In a stage that takes many items at a time.
    ManyAtOnce,
}

/// What was found of a text's names: stages, for later, and inputs.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) mentions: Vec<Mention>,
    /// Names and places; no name stands for all inputs.
    pub(super) inputs: Vec<(String, Span)>,
}

pub(super) struct Reader<'a> {
    pub(super) findings: &'a mut Findings,
    pub(super) item: ItemRule,
    /// In `finally` it is known how the run ended.
    pub(super) area: Area,
    pub(super) found: Found,
}

impl<'a> Reader<'a> {
    pub(super) fn new(findings: &'a mut Findings, item: ItemRule, area: Area) -> Self {
        Self {
            findings,
            item,
            area,
            found: Found::default(),
        }
    }

    /// All strings of a value.
    pub(super) fn tree(&mut self, tree: &Tree) {
        match &tree.kind {
            Kind::Scalar(value) => {
                if let Some(text) = value.as_str() {
                    self.text(text, tree.span);
                }
            }
            Kind::List(items) => items.iter().for_each(|item| self.tree(item)),
            Kind::Map(entries) => entries.iter().for_each(|entry| self.tree(&entry.value)),
        }
    }

    pub(super) fn text(&mut self, text: &str, span: Span) {
        match template::paths(text) {
            Ok(paths) => self.paths(paths, text, span, false),
            Err(error) => self.error("bad-template", &error, text, span),
        }
    }

    /// An expression of `when`.
    pub(super) fn condition(&mut self, expression: &str, span: Span) {
        if expression.contains("{{") {
            self.findings.error(
                "bad-expression",
                span,
                "`when` is one expression; it is not put together from templates",
                "leave the braces out: \"load.count > 100\"".to_owned(),
            );
            return;
        }
        match template::condition_paths(expression) {
            Ok(paths) => self.paths(paths, expression, span, true),
            Err(error) => self.error("bad-expression", &error, expression, span),
        }
    }

    fn error(&mut self, code: &'static str, error: &template::Error, text: &str, span: Span) {
        let place = match &error.range {
            Some(range) => within(self.findings, span, text, range.clone()),
            None => span,
        };
        self.findings
            .error(code, place, error.message.clone(), error.help.clone());
    }

    fn paths(
        &mut self,
        paths: std::collections::BTreeSet<String>,
        text: &str,
        span: Span,
        in_when: bool,
    ) {
        for path in paths {
            let place = match template::find_word(text, &path) {
                Some(range) => within(self.findings, span, text, range),
                None => span,
            };
            let mut parts = path.split('.');
            let (root, field) = (parts.next().unwrap_or_default(), parts.next());
            match root {
                "item" => self.item(place),
                "inputs" => {
                    let name = field.unwrap_or_default().to_owned();
                    self.found.inputs.push((name, place));
                }
                "run" => self.run(field, place),
                "env" | "secrets" | "loop" => self.findings.error(
                    "not-available",
                    place,
                    format!("`{root}` is not available in templates"),
                    (root != "loop").then(|| {
                        "workers read keys and passwords from their own environment".to_owned()
                    }),
                ),
                _ => self.found.mentions.push(Mention {
                    path,
                    span: place,
                    in_when,
                }),
            }
        }
    }

    fn item(&mut self, place: Span) {
        match self.item {
            ItemRule::Allowed => {}
            ItemRule::Outside => self.findings.error(
                "item-outside",
                place,
                "there is no `item` here: this stage is not run for each item",
                "put the stage into a `map:`".to_owned(),
            ),
            ItemRule::ManyAtOnce => self.findings.error(
                "item-in-batch",
                place,
                "this stage takes many items at a time, so its parameters cannot differ by item",
                "remove `item` from its parameters".to_owned(),
            ),
        }
    }

    fn run(&mut self, field: Option<&str>, place: Span) {
        let fields: &[&str] = match self.area {
            Area::Main => &["id", "pipeline", "plan"],
            Area::Finally => &["id", "pipeline", "plan", "status", "error"],
        };
        if let Some(field) = field.filter(|field| !fields.contains(field)) {
            self.findings.error(
                "unknown-field",
                place,
                format!("`run` has no field `{field}`"),
                crate::suggest::among(field, fields.iter().copied(), "fields"),
            );
        }
    }
}

/// The place in the file of a part of a string, whose own place is `span`. Escapes and folded
/// lines move what follows them; then the part is looked for by its text.
fn within(findings: &Findings, span: Span, content: &str, range: std::ops::Range<usize>) -> Span {
    let text = findings.text();
    let Some(source) = text.get(span.start..span.end) else {
        return span;
    };
    let start = span.start;
    if let Some(at) = source.find(content) {
        return Span {
            start: start + at + range.start,
            end: start + at + range.end.max(range.start + 1),
        };
    }
    match content.get(range).filter(|part| !part.is_empty()) {
        Some(part) => match source.find(part) {
            Some(at) => Span {
                start: start + at,
                end: start + at + part.len(),
            },
            None => span,
        },
        None => span,
    }
}
