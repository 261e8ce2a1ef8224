//! Plans in few words.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tidemill_pipeline::plan::{
    Approve, Call, Demands, FORMAT, FanOut, Node, Plan, Retry, Step, Timeouts, Work,
};

pub(crate) fn plan(nodes: Vec<Node>, outputs: Value) -> Plan {
    Plan {
        format: FORMAT,
        name: "test".to_owned(),
        description: String::new(),
        inputs: json!({"type": "object"}),
        nodes,
        finally: Vec::new(),
        outputs,
    }
}

pub(crate) fn step(id: &str, uses: &str, with: Value) -> Step {
    Step {
        id: id.to_owned(),
        uses: uses.to_owned(),
        resource: "cpu".to_owned(),
        input: None,
        with,
        retry: Retry {
            attempts: 2,
            first_delay_ms: 1,
            ..Retry::default()
        },
        timeouts: Timeouts {
            heartbeat_ms: 1_000,
            ..Timeouts::default()
        },
        cache: None,
        demands: Demands::default(),
        affinity: None,
    }
}

pub(crate) fn node(id: &str, needs: &[&str], work: Work) -> Node {
    Node {
        id: id.to_owned(),
        needs: needs
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>(),
        when: None,
        allow_failure: false,
        work,
    }
}

pub(crate) fn stage(id: &str, needs: &[&str], with: Value) -> Node {
    node(id, needs, Work::Task(step(id, "test.call", with)))
}

/// A fan-out over what the node `load` gave.
pub(crate) fn fan_out(id: &str, window: u32, tolerate: f64, steps: &[(&str, Value)]) -> Node {
    let steps = steps
        .iter()
        .map(|(id, with)| step(id, "test.items", with.clone()));
    let work = FanOut {
        over: "{{ load }}".to_owned(),
        item: "vector".to_owned(),
        chunk: 0,
        window,
        tolerate,
        steps: steps.collect(),
    };
    node(id, &["load"], Work::FanOut(work))
}

pub(crate) fn approve(id: &str, needs: &[&str], routed: bool, timeout_ms: Option<u64>) -> Node {
    let work = Approve {
        message: "Publish {{ inputs.title }}?".to_owned(),
        choices: vec!["approve".to_owned(), "reject".to_owned()],
        form: None,
        timeout_ms,
        default: timeout_ms.map(|_| "approve".to_owned()),
        routed,
    };
    node(id, needs, Work::Approve(work))
}

pub(crate) fn call(id: &str, plan: Plan, inputs: Value) -> Node {
    let inputs: BTreeMap<String, Value> = serde_json::from_value(inputs).unwrap();
    let plan = Box::new(plan);
    node(id, &[], Work::Call(Call { plan, inputs }))
}
