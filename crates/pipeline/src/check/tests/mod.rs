//! The check as a whole: text in, plan or findings out.

mod demands;
mod diagnostics;
mod following;
mod plans;
mod properties;

use super::{Checked, Loader, Source, check, check_all};
use crate::diagnostic::Diagnostic;
use crate::plan::{Node, Plan, Work};
use crate::testing;

/// Files that the tests call.
struct Files;

impl Loader for Files {
    fn load(&self, path: &str, _: &str) -> Result<Source, String> {
        let text = match path {
            "./child.yaml" => {
                "name: child\ninputs: { x: string, n: { type: integer, default: 1 } }\n\
                 stages: [ { uses: llm.generate, with: { prompt: '{{ inputs.x }} {{ inputs.n }}' } } ]"
            }
            "./broken.yaml" => "name: broken\nstages: [ { uses: nothing.here } ]",
            "./loop.yaml" => "name: loop\nstages: [ { call: ./main.yaml } ]",
            "./main.yaml" => "name: main\nstages: [ { call: ./loop.yaml } ]",
            _ => return Err("there is no such file".to_owned()),
        };
        Ok(Source {
            file: path.to_owned(),
            text: text.to_owned(),
        })
    }
}

fn all(text: &str) -> Checked {
    check_all(text, "./main.yaml", &testing::catalog(), &Files)
}

fn plan(text: &str) -> Plan {
    check(text, "./main.yaml", &testing::catalog(), &Files)
        .unwrap_or_else(|found| panic!("{}", show(&found)))
}

fn show(found: &[Diagnostic]) -> String {
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    shown.join("\n\n")
}

fn node<'p>(plan: &'p Plan, id: &str) -> &'p Node {
    plan.all_nodes()
        .find(|node| node.id == id)
        .unwrap_or_else(|| panic!("no node {id} in {:?}", ids(plan)))
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.all_nodes().map(|node| node.id.as_str()).collect()
}

fn steps(node: &Node) -> Vec<&str> {
    match &node.work {
        Work::FanOut(fan_out) => fan_out.steps.iter().map(|step| step.id.as_str()).collect(),
        other => panic!("{} is no fan-out: {other:?}", node.id),
    }
}

fn input(node: &Node) -> Option<&str> {
    match &node.work {
        Work::Task(step) => step.input.as_deref(),
        Work::FanOut(fan_out) => Some(&fan_out.over),
        other => panic!("{} has no input: {other:?}", node.id),
    }
}
