//! What stages ask of workers, as it stands in the plan.

use serde_json::json;

use super::*;
use crate::plan::{Affinity, Batch, Demands, Device, Limit, Step};

/// The step `embed.text` of a pipeline that has these keys there, after `head`.
fn embed(head: &str, keys: &str) -> Step {
    let plan = plan(&format!(
        "name: test\n{head}\nstages:\n  - {{ uses: documents.load, with: {{ path: docs }} }}\n  \
         - uses: text.split\n  - id: embed\n    uses: embed.text\n    {keys}\n"
    ));
    let Work::FanOut(fan_out) = &node(&plan, "embed").work else {
        panic!("no fan-out")
    };
    fan_out.steps[1].clone()
}

#[test]
fn what_is_asked_is_in_the_plan() {
    let short = embed("", "batch: 32\n    limit: openai\n    priority: 1");
    let expected = Demands {
        batch: Some(Batch {
            items: Some(32),
            ..Batch::default()
        }),
        device: None,
        limit: Some(Limit {
            name: "openai".to_owned(),
            weight: 1,
        }),
        priority: Some(1),
    };
    assert_eq!(short.demands, expected);

    let long = embed(
        "",
        "batch: { items: 8, delay: 10ms, cost: 8192, expires: 30s }\n    \
         device: { count: 2, share: 0.5, memory: 82GiB }\n    \
         limit: { name: openai/eu, weight: 3 }",
    );
    let expected = Demands {
        batch: Some(Batch {
            items: Some(8),
            delay_ms: Some(10),
            cost: Some(8192),
            expires_ms: Some(30_000),
        }),
        device: Some(Device {
            count: 2,
            share: 0.5,
            memory: 82 << 30,
        }),
        limit: Some(Limit {
            name: "openai/eu".to_owned(),
            weight: 3,
        }),
        priority: None,
    };
    assert_eq!(long.demands, expected);
    let a_device = embed("", "device: {}");
    assert_eq!(a_device.demands.device, Some(Device::default()));
}

#[test]
fn python_functions_may_run_in_batches_on_devices() {
    let plan = plan(
        "name: test\nstages:\n  - { id: f, uses: python.call, with: { function: f }, batch: 8, \
         device: { memory: 8GiB } }\n",
    );
    let Work::Task(step) = &node(&plan, "f").work else {
        panic!("no task")
    };
    assert!(step.demands.batch.is_some() && step.demands.device.is_some());
    assert_eq!(step.affinity, None);
}

#[test]
fn defaults_hold_for_stages_that_say_nothing() {
    let head = "defaults: { priority: 4, affinity: { wait: 5s } }";
    let model = "with: { model: m }";
    let general = embed(head, model);
    assert_eq!(general.demands.priority, Some(4));
    assert_eq!(general.affinity.unwrap().wait_ms, 5_000);
    let own = embed(
        head,
        &format!("{model}\n    priority: 2\n    affinity: none"),
    );
    assert_eq!(own.demands.priority, Some(2));
    assert_eq!(own.affinity, None);
}

#[test]
fn a_stage_with_a_model_prefers_workers_that_have_it() {
    let affinity = |wait_ms| {
        Some(Affinity {
            parameter: "model".to_owned(),
            wait_ms,
        })
    };
    let inputs = "inputs: { model: string }";
    for (head, keys, expected) in [
        ("", "with: { model: m }", affinity(1_000)),
        (
            inputs,
            "with: { model: \"{{ inputs.model }}\" }",
            affinity(1_000),
        ),
        (
            "",
            "with: { model: m }\n    affinity: { wait: 250ms }",
            affinity(250),
        ),
        ("", "with: { model: m }\n    resource: gpu", affinity(1_000)),
        ("", "with: {}", None),
        ("", "with: { model: m }\n    affinity: none", None),
        ("", "with: { model: m }\n    affinity: { wait: 0s }", None),
        ("", "with: { model: m }\n    resource: cpu", None),
        ("", "with: { model: m }\n    resource: accelerator/m", None),
        ("defaults: { resource: cpu }", "with: { model: m }", None),
    ] {
        assert_eq!(embed(head, keys).affinity, expected, "{head} {keys}");
    }
}

#[test]
fn a_plan_that_asks_for_nothing_says_nothing() {
    let step = json!(embed("", "with: {}"));
    let keys: Vec<&String> = step.as_object().unwrap().keys().collect();
    let before = [
        "id", "input", "resource", "retry", "timeouts", "uses", "with",
    ];
    assert!(
        keys.iter().all(|key| before.contains(&key.as_str())),
        "{keys:?}"
    );
}
