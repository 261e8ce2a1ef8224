//! Stages: which kind each is, and its keys.

use serde_json::Value;

use super::value::{Fields, first_line, missing, text, unknown_key, wrong_type};
use super::{demands, policy};
use crate::diagnostic::{Findings, Span};
use crate::spec::{Approve, Branch, Call, Map, Spot, Stage, Uses, Work};
use crate::yaml::{Entry, Kind, Tree};

/// The keys of which a stage has exactly one.
const KINDS: &[&str] = &["uses", "map", "parallel", "approve", "call"];
const COMMON: &[&str] = &["id", "needs", "when", "allow_failure"];
const OF_USES: &[&str] = &[
    "with", "input", "resource", "retry", "timeout", "cache", "chunk", "window", "tolerate",
    "batch", "device", "limit", "priority", "affinity",
];

pub(super) fn list(tree: &Tree, key: Span, name: &str, findings: &mut Findings) -> Vec<Stage> {
    let stages = match &tree.kind {
        Kind::List(items) => items,
        Kind::Scalar(Value::Null) => {
            empty(findings, key, name);
            return Vec::new();
        }
        _ => {
            findings.error(
                "wrong-type",
                tree.span,
                format!(
                    "`{name}` must be a list of stages, but this is {}",
                    tree.what()
                ),
                "begin each stage with `- uses: …`".to_owned(),
            );
            return Vec::new();
        }
    };
    if stages.is_empty() {
        empty(findings, key, name);
    }
    stages
        .iter()
        .filter_map(|item| stage(item, findings))
        .collect()
}

fn empty(findings: &mut Findings, span: Span, name: &str) {
    findings.error(
        "no-stages",
        span,
        format!("`{name}` has no stages"),
        "add one: `- uses: documents.load`".to_owned(),
    );
}

fn stage(tree: &Tree, findings: &mut Findings) -> Option<Stage> {
    let Some(entries) = tree.entries() else {
        findings.error(
            "wrong-type",
            tree.span,
            format!("a stage must be a mapping, but this is {}", tree.what()),
            match tree.text() {
                Some(name) => format!("write `- uses: {name}`"),
                None => "write `- uses: …`".to_owned(),
            },
        );
        return None;
    };
    let kinds: Vec<&Entry> = entries
        .iter()
        .filter(|entry| KINDS.contains(&entry.key.as_str()))
        .collect();
    let kind = match kinds.as_slice() {
        [] => {
            none_of_the_kinds(tree, entries, findings);
            return Some(unclear(tree));
        }
        [kind] => *kind,
        [first, second, ..] => {
            findings.error(
                "several-kinds",
                second.key_span,
                format!(
                    "a stage cannot have both `{}` and `{}`",
                    first.key, second.key
                ),
                "make two stages of it".to_owned(),
            );
            return Some(unclear(tree));
        }
    };
    keys(entries, kind, findings);
    // Keys have been looked at.
    let fields = Fields::read(tree, &all_keys(entries), "a stage", findings)?;
    let work = match kind.key.as_str() {
        "uses" => uses(&fields, findings),
        "approve" => approve(&kind.value, findings),
        "parallel" => parallel(kind, findings),
        "map" => map(kind, findings),
        _ => call(&kind.value, findings),
    };
    Some(Stage {
        span: if kind.key == "uses" {
            kind.value.span
        } else {
            kind.key_span
        },
        id: fields.text("id", findings),
        needs: fields.texts("needs", findings),
        when: when(&fields, findings),
        allow_failure: fields.boolean("allow_failure", findings).unwrap_or(false),
        work: work.unwrap_or(Work::Unclear),
    })
}

/// Keeps the id of a stage that cannot be read, so that those who name it are not blamed.
fn unclear(tree: &Tree) -> Stage {
    let id = tree
        .entry("id")
        .and_then(|entry| Some(Spot::new(entry.value.text()?.to_owned(), entry.value.span)));
    Stage {
        span: first_line(tree),
        id,
        needs: None,
        when: None,
        allow_failure: false,
        work: Work::Unclear,
    }
}

fn none_of_the_kinds(tree: &Tree, entries: &[Entry], findings: &mut Findings) {
    let slip = entries.iter().find_map(|entry| {
        let known = COMMON.contains(&entry.key.as_str()) || OF_USES.contains(&entry.key.as_str());
        let near = crate::suggest::nearest(&entry.key, KINDS.iter().copied())?;
        (!known).then_some((entry, near))
    });
    match slip {
        Some((entry, near)) => findings.error(
            "unknown-key",
            entry.key_span,
            format!("a stage has no key `{}`", entry.key),
            format!("did you mean `{near}`?"),
        ),
        None => findings.error(
            "no-kind",
            first_line(tree),
            "this stage does not say what it does",
            "give it one of `uses`, `map`, `parallel`, `approve` or `call`".to_owned(),
        ),
    }
}

fn all_keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

/// Reports keys that a stage does not have, or not together with its kind.
fn keys(entries: &[Entry], kind: &Entry, findings: &mut Findings) {
    let mut known: Vec<&str> = COMMON.to_vec();
    known.push(&kind.key);
    if kind.key == "uses" {
        known.extend(OF_USES);
    }
    for entry in entries {
        let key = entry.key.as_str();
        if known.contains(&key) {
            continue;
        }
        if !OF_USES.contains(&key) {
            unknown_key(
                findings,
                entry,
                &known,
                &format!("a stage with `{}`", kind.key),
            );
            continue;
        }
        let help = match (kind.key.as_str(), key) {
            ("map", "chunk" | "window" | "tolerate")
            | ("approve", "timeout")
            | ("call", "with") => {
                format!("write it within `{}:`", kind.key)
            }
            ("map" | "parallel", _) => "write it at the stages within".to_owned(),
            _ => format!(
                "it belongs to stages with `uses`; {} has no such thing",
                kind.key
            ),
        };
        findings.error(
            "key-not-here",
            entry.key_span,
            format!("`{key}` does not go with `{}`", kind.key),
            help,
        );
    }
}

fn when(fields: &Fields<'_>, findings: &mut Findings) -> Option<Spot<String>> {
    let entry = fields.get("when")?;
    match &entry.value.kind {
        Kind::Scalar(Value::Bool(flag)) => Some(Spot::new(flag.to_string(), entry.value.span)),
        Kind::Scalar(Value::String(text)) => {
            let expression = crate::template::whole_expression(text).unwrap_or(text);
            Some(Spot::new(expression.trim().to_owned(), entry.value.span))
        }
        _ => {
            wrong_type(
                findings,
                "when",
                "an expression, such as \"load.count > 100\"",
                &entry.value,
            );
            None
        }
    }
}

fn uses(fields: &Fields<'_>, findings: &mut Findings) -> Option<Work> {
    let with = fields
        .get("with")
        .map(|entry| &entry.value)
        .filter(|with| !with.is_null());
    if let Some(with) = with.filter(|with| with.entries().is_none()) {
        wrong_type(findings, "with", "a mapping of parameters", with);
    }
    let uses = fields.text("uses", findings);
    let policy = policy::read(fields, findings);
    let demands = demands::read(fields, findings);
    let cache = policy::cache(fields, findings);
    let fan = policy::fan(fields, findings);
    let input = fields.text("input", findings);
    Some(Work::Uses(Box::new(Uses {
        uses: uses?,
        with: with.filter(|with| with.entries().is_some()).cloned(),
        input,
        policy,
        demands,
        cache,
        fan,
    })))
}

fn approve(tree: &Tree, findings: &mut Findings) -> Option<Work> {
    let known = ["message", "choices", "form", "timeout", "default"];
    let message = if let Kind::Scalar(Value::String(_)) = tree.kind {
        return Some(Work::Approve(Approve {
            message: text(tree, "approve", findings)?,
            choices: None,
            form: None,
            timeout_ms: None,
            default: None,
        }));
    } else {
        let fields = Fields::read(tree, &known, "`approve`", findings)?;
        if fields.get("message").is_none() {
            missing(findings, "message", "`approve`", first_line(tree));
        }
        fields
    };
    let fields = message;
    let timeout = fields.duration("timeout", findings);
    Some(Work::Approve(Approve {
        message: fields.text("message", findings)?,
        choices: fields.texts("choices", findings),
        form: fields.get("form").map(|entry| entry.value.clone()),
        timeout_ms: timeout.map(|timeout| timeout.value),
        default: fields.text("default", findings),
    }))
}

fn parallel(kind: &Entry, findings: &mut Findings) -> Option<Work> {
    let Some(entries) = kind.value.entries() else {
        findings.error(
            "wrong-type",
            kind.value.span,
            format!(
                "`parallel` must be a mapping of branches, but this is {}",
                kind.value.what()
            ),
            "give each branch a name: `legal: { uses: … }`".to_owned(),
        );
        return None;
    };
    if entries.is_empty() {
        empty(findings, kind.key_span, "parallel");
    }
    let branches = entries.iter().map(|entry| {
        let single = entry.value.entries().is_some();
        let stages = if single {
            stage(&entry.value, findings).into_iter().collect()
        } else {
            list(&entry.value, entry.key_span, &entry.key, findings)
        };
        Branch {
            name: Spot::new(entry.key.clone(), entry.key_span),
            single,
            stages,
        }
    });
    Some(Work::Parallel(branches.collect()))
}

fn map(kind: &Entry, findings: &mut Findings) -> Option<Work> {
    let known = ["over", "chunk", "window", "tolerate", "stages"];
    let fields = Fields::read(&kind.value, &known, "`map`", findings)?;
    let stages = match fields.get("stages") {
        Some(entry) => list(&entry.value, entry.key_span, "stages", findings),
        None => {
            missing(findings, "stages", "`map`", kind.key_span);
            Vec::new()
        }
    };
    Some(Work::Map(Map {
        over: fields.text("over", findings),
        fan: policy::fan(&fields, findings),
        stages,
    }))
}

fn call(tree: &Tree, findings: &mut Findings) -> Option<Work> {
    if let Kind::Scalar(Value::String(_)) = tree.kind {
        return Some(Work::Call(Call {
            pipeline: text(tree, "call", findings)?,
            with: None,
        }));
    }
    let fields = Fields::read(tree, &["pipeline", "with"], "`call`", findings)?;
    if fields.get("pipeline").is_none() {
        missing(findings, "pipeline", "`call`", first_line(tree));
    }
    let with = fields.get("with").map(|entry| &entry.value);
    if let Some(with) = with.filter(|with| !with.is_null() && with.entries().is_none()) {
        wrong_type(findings, "with", "a mapping of inputs", with);
    }
    Some(Work::Call(Call {
        pipeline: fields.text("pipeline", findings)?,
        with: with.filter(|with| with.entries().is_some()).cloned(),
    }))
}
