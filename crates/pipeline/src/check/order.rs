//! Names between nodes: whether they exist, what must come first, and an order of all nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Findings, Span};
use crate::plan::Work;
use crate::stage::Type;
use crate::suggest;

use super::draft::{Area, Draft, Mention};
use super::ids;

/// Looks up all names, makes needs of those in templates, and refuses circles. `None` when an order
/// cannot be found.
pub(super) fn resolve(
    mut drafts: Vec<Draft>,
    outputs: &[Mention],
    findings: &mut Findings,
) -> Option<Vec<Draft>> {
    named_needs(&mut drafts, findings);
    mentions(&mut drafts, outputs, findings);
    routed(&mut drafts, outputs, findings);
    if let Some((span, circle)) = circle(&drafts) {
        findings.error(
            "cycle",
            span,
            format!("these stages wait for each other: {}", circle.join(" -> ")),
            "a stage needs the one before it unless it has `needs`; `needs: []` starts it at once"
                .to_owned(),
        );
        return None;
    }
    Some(drafts)
}

/// The needs that authors wrote.
fn named_needs(drafts: &mut [Draft], findings: &mut Findings) {
    let known: BTreeMap<String, Area> = drafts
        .iter()
        .map(|draft| (draft.id.clone(), draft.area))
        .collect();
    for draft in drafts.iter_mut() {
        for need in draft.named_needs.clone() {
            let name = &need.value;
            if *name == draft.id {
                findings.error(
                    "self-need",
                    need.span,
                    format!("`{name}` cannot need itself"),
                    "remove it from `needs`".to_owned(),
                );
            } else if known.get(name) == Some(&draft.area) {
                continue;
            } else if known.contains_key(name) {
                findings.error(
                    "unknown-need",
                    need.span,
                    "stages of `finally` and of `stages` cannot need each other",
                    "`finally` runs when all of `stages` has ended".to_owned(),
                );
            } else {
                let of_area = known
                    .iter()
                    .filter(|(id, area)| **area == draft.area && **id != draft.id)
                    .map(|(id, _)| id.as_str());
                findings.error(
                    "unknown-need",
                    need.span,
                    format!("there is no stage `{name}`"),
                    ids::unknown(name, of_area),
                );
            }
            draft.needs.remove(name);
        }
    }
}

struct Known {
    at: usize,
    area: Area,
    output: Type,
    fields: Option<Vec<String>>,
}

fn mentions(drafts: &mut [Draft], outputs: &[Mention], findings: &mut Findings) {
    let known: BTreeMap<String, Known> = drafts
        .iter()
        .enumerate()
        .map(|(at, draft)| {
            let known = Known {
                at,
                area: draft.area,
                output: draft.output.clone(),
                fields: draft.fields.clone(),
            };
            (draft.id.clone(), known)
        })
        .collect();
    let steps: BTreeMap<String, String> = drafts
        .iter()
        .flat_map(|draft| {
            draft
                .steps
                .iter()
                .map(|step| (step.clone(), draft.id.clone()))
        })
        .collect();
    let before: Vec<BTreeSet<String>> = drafts
        .iter()
        .map(|draft| ancestors(draft, drafts))
        .collect();
    for (at, draft) in drafts.iter_mut().enumerate() {
        for mention in draft.mentions.clone() {
            let mut parts = mention.path.split('.');
            let root = parts.next().unwrap_or_default();
            let Some(target) = known.get(root) else {
                unknown(root, &mention, &known, &steps, findings);
                continue;
            };
            if let Some(field) = parts.next() {
                check_field(root, field, target, &mention, findings);
            }
            if root == draft.id {
                findings.error(
                    "self-reference",
                    mention.span,
                    format!("`{root}` has no output before it has run"),
                    "name a stage before it".to_owned(),
                );
            } else if target.area != draft.area {
                // `finally` looks at whatever there is when all else has ended.
                if draft.area == Area::Main {
                    findings.error(
                        "forward-reference",
                        mention.span,
                        format!("`{root}` is in `finally`, which runs when all else has ended"),
                        None,
                    );
                }
            } else if before[at].contains(root) {
                // It comes first anyway.
            } else if target.at < at {
                draft.needs.insert(root.to_owned());
            } else {
                findings.error(
                    "forward-reference",
                    mention.span,
                    format!("`{root}` runs after this stage, so it has no output yet"),
                    format!("move this stage behind it, or add `needs: [{root}]`"),
                );
            }
        }
    }
    for mention in outputs {
        let mut parts = mention.path.split('.');
        let root = parts.next().unwrap_or_default();
        match known.get(root) {
            None => unknown(root, mention, &known, &steps, findings),
            Some(target) if target.area == Area::Finally => findings.error(
                "unknown-name",
                mention.span,
                format!("`{root}` is in `finally`; outputs come from `stages`"),
                None,
            ),
            Some(target) => {
                if let Some(field) = parts.next() {
                    check_field(root, field, target, mention, findings);
                }
            }
        }
    }
}

fn unknown(
    root: &str,
    mention: &Mention,
    known: &BTreeMap<String, Known>,
    steps: &BTreeMap<String, String>,
    findings: &mut Findings,
) {
    if let Some(map) = steps.get(root) {
        findings.error(
            "step-not-visible",
            mention.span,
            format!("`{root}` is a step within `{map}` and has no output of its own"),
            format!("use `{map}`, the collection of what its last step gave"),
        );
        return;
    }
    let names = known
        .keys()
        .map(String::as_str)
        .chain(["inputs", "run"])
        .collect::<Vec<_>>();
    findings.error(
        "unknown-name",
        mention.span,
        format!("there is no stage `{root}`"),
        ids::unknown(root, names),
    );
}

fn check_field(
    root: &str,
    field: &str,
    target: &Known,
    mention: &Mention,
    findings: &mut Findings,
) {
    let collection = ["count", "parts", "item"].map(str::to_owned);
    let (fields, help) = match (&target.fields, &target.output) {
        (Some(fields), _) => (&fields[..], None),
        (None, Type::Collection(_)) => (
            &collection[..],
            Some("a collection has count, parts and item; its items are seen in a `map:`"),
        ),
        _ => return,
    };
    if fields.iter().any(|known| known == field) {
        return;
    }
    let near = suggest::nearest(field, fields.iter().map(String::as_str));
    let help = match (near, help) {
        (Some(near), _) => format!("did you mean `{root}.{near}`?"),
        (None, Some(help)) => help.to_owned(),
        (None, None) => format!("fields: {}", fields.join(", ")),
    };
    findings.error(
        "unknown-field",
        mention.span,
        format!("the output of `{root}` has no field `{field}`"),
        help,
    );
}

/// Marks the approvals whose answer decides what runs, and checks the answers asked for.
fn routed(drafts: &mut [Draft], outputs: &[Mention], findings: &mut Findings) {
    let _ = outputs;
    let asked: BTreeSet<String> = drafts
        .iter()
        .flat_map(|draft| &draft.mentions)
        .filter(|mention| mention.in_when)
        .map(|mention| crate::template::root_of(&mention.path).to_owned())
        .collect();
    let whens: Vec<_> = drafts
        .iter()
        .flat_map(|draft| draft.whens.clone())
        .collect();
    for draft in drafts {
        let Work::Approve(approve) = &mut draft.work else {
            continue;
        };
        approve.routed = asked.contains(&draft.id);
        for when in &whens {
            for (text, at) in compared(&when.value, &format!("{}.choice", draft.id)) {
                if approve.choices.contains(&text) {
                    continue;
                }
                let source = findings.text();
                let start = source
                    .get(when.span.start..when.span.end)
                    .and_then(|source| source.find(&when.value))
                    .map_or(when.span.start, |offset| when.span.start + offset + at);
                findings.error(
                    "unknown-choice",
                    Span {
                        start,
                        end: start + text.len(),
                    },
                    format!("`{text}` is not among the choices of `{}`", draft.id),
                    suggest::among(&text, approve.choices.iter().map(String::as_str), "choices"),
                );
            }
        }
    }
}

/// The texts that a path is compared with by `==` or `!=`, and where they stand.
fn compared(expression: &str, path: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices(path) {
        let rest = &expression[at + path.len()..];
        let Some(value) = rest
            .trim_start()
            .strip_prefix("==")
            .or_else(|| rest.trim_start().strip_prefix("!="))
        else {
            continue;
        };
        let value = value.trim_start();
        let Some(quote) = value.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            continue;
        };
        let text = &value[1..];
        if let Some(end) = text.find(quote) {
            found.push((text[..end].to_owned(), expression.len() - text.len()));
        }
    }
    found
}

/// All nodes that come before a node.
fn ancestors(draft: &Draft, drafts: &[Draft]) -> BTreeSet<String> {
    let by_id: BTreeMap<&str, &Draft> = drafts
        .iter()
        .map(|draft| (draft.id.as_str(), draft))
        .collect();
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = draft.needs.iter().map(String::as_str).collect();
    while let Some(id) = open.pop() {
        if seen.insert(id.to_owned())
            && let Some(draft) = by_id.get(id)
        {
            open.extend(draft.needs.iter().map(String::as_str));
        }
    }
    seen
}

/// A circle of needs, closed with the stage that it begins with.
fn circle(drafts: &[Draft]) -> Option<(Span, Vec<String>)> {
    let mut left: BTreeMap<&str, &Draft> = drafts
        .iter()
        .map(|draft| (draft.id.as_str(), draft))
        .collect();
    loop {
        let free: Vec<&str> = left
            .values()
            .filter(|draft| {
                !draft
                    .needs
                    .iter()
                    .any(|need| left.contains_key(need.as_str()))
            })
            .map(|draft| draft.id.as_str())
            .collect();
        if free.is_empty() {
            break;
        }
        for id in free {
            left.remove(id);
        }
    }
    // Each that is left needs another that is left: following them leads into a circle.
    let first = drafts
        .iter()
        .find(|draft| left.contains_key(draft.id.as_str()))?;
    let mut path: Vec<&str> = vec![&first.id];
    loop {
        let last = left[path[path.len() - 1]];
        let next = last
            .needs
            .iter()
            .map(String::as_str)
            .find(|need| left.contains_key(need))?;
        if let Some(at) = path.iter().position(|id| *id == next) {
            let mut names: Vec<String> = path[at..].iter().map(|id| (*id).to_owned()).collect();
            names.push(next.to_owned());
            let span = left[next]
                .named_needs
                .first()
                .map_or(left[next].span, |need| need.span);
            return Some((span, names));
        }
        path.push(next);
    }
}

/// In an order in which each comes after all that it needs, and otherwise in that of the file.
pub(super) fn sorted(mut drafts: Vec<Draft>) -> Vec<Draft> {
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut sorted = Vec::new();
    while !drafts.is_empty() {
        let ready = drafts
            .iter()
            .position(|draft| draft.needs.iter().all(|need| done.contains(need)));
        // A need that is not there was reported; what has it goes in where it stands.
        let draft = drafts.remove(ready.unwrap_or(0));
        done.insert(draft.id.clone());
        sorted.push(draft);
    }
    sorted
}
