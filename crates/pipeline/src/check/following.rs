//! What follows a stage, as a parameter of that stage.
//!
//! A stage type whose parameters have one with `"x-following": true` in its schema is given there,
//! unless the author says otherwise, the steps through which its items go next: a list of
//! `{uses, with}`. So a stage that skips what was done before, such as `vector.changed`, sees when
//! what comes after it has changed.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::plan::{Step, Work};
use crate::stage::Catalog;
use crate::template;

use super::draft::Draft;

const MARK: &str = "x-following";

pub(super) fn fill(drafts: &mut [Draft], catalog: &Catalog) {
    for at in 0..drafts.len() {
        for step in 0..steps(&drafts[at].work).len() {
            let Some(parameter) = parameter(&steps(&drafts[at].work)[step], catalog) else {
                continue;
            };
            let following = following(drafts, at, step);
            if let Work::FanOut(fan_out) = &mut drafts[at].work
                && let Value::Object(with) = &mut fan_out.steps[step].with
            {
                with.insert(parameter, following.into());
            }
        }
    }
}

/// Steps that items pass through.
fn steps(work: &Work) -> &[Step] {
    match work {
        Work::FanOut(fan_out) => &fan_out.steps,
        _ => &[],
    }
}

/// The parameter that is to be filled in.
fn parameter(step: &Step, catalog: &Catalog) -> Option<String> {
    let properties = catalog.get(&step.uses)?.with["properties"].as_object()?;
    let (name, _) = properties
        .iter()
        .find(|(_, schema)| schema[MARK] == Value::Bool(true))?;
    let given = step.with.get(name).is_some_and(|given| !given.is_null());
    (!given).then(|| name.clone())
}

/// The steps after this one: those of its own fan-out, then those of fan-outs over what comes out.
fn following(drafts: &[Draft], at: usize, step: usize) -> Vec<Value> {
    // Everything that templates of the same fan-out name is there when this step begins.
    let mut found: Vec<Value> = steps(&drafts[at].work)[step + 1..]
        .iter()
        .map(|step| described(step, &|name| name != "item" && name != "run"))
        .collect();
    let mut over = vec![drafts[at].id.as_str()];
    let mut seen = BTreeSet::from([at]);
    while let Some(id) = over.pop() {
        for (at, draft) in drafts.iter().enumerate() {
            let Work::FanOut(fan_out) = &draft.work else {
                continue;
            };
            let takes = template::roots(&fan_out.over).is_ok_and(|roots| roots.contains(id));
            if takes && seen.insert(at) {
                let steps = fan_out.steps.iter();
                found.extend(steps.map(|step| described(step, &|name| name == "inputs")));
                over.push(&draft.id);
            }
        }
    }
    found
}

fn described(step: &Step, known: &dyn Fn(&str) -> bool) -> Value {
    json!({"uses": step.uses, "with": settled(&step.with, known)})
}

/// Parameters with those templates that can be evaluated before. Of others the text has to do, made
/// such that nobody takes it for a template.
fn settled(with: &Value, known: &dyn Fn(&str) -> bool) -> Value {
    match with {
        Value::String(text) if template::is_template(text) => {
            let all_known =
                template::roots(text).is_ok_and(|roots| roots.iter().all(|root| known(root)));
            match all_known {
                true => with.clone(),
                false => Value::String(text.replace(['{', '}'], "|")),
            }
        }
        Value::Array(values) => values.iter().map(|value| settled(value, known)).collect(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.clone(), settled(value, known)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}
