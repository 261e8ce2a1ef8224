//! Stages that are told what follows them.

use serde_json::{Value, json};

use super::super::NoFiles;
use super::*;
use crate::stage::{Kind, StageType, Type};

/// The parameter `version` of `changed` in a pipeline of these stages.
fn version(stages: &str) -> Value {
    let mut catalog = testing::catalog();
    let changed = StageType {
        name: "documents.changed".to_owned(),
        summary: String::new(),
        kind: Kind::Items,
        input: Type::record("document"),
        output: Type::record("document"),
        resource: "cpu".to_owned(),
        with: json!({
            "type": "object",
            "properties": { "version": { "x-following": true } },
        }),
        pure: false,
        batched: None,
    };
    catalog.insert(changed.name.clone(), changed);
    let text = format!(
        "name: test\ninputs: {{ size: {{ type: integer, default: 1 }} }}\nstages:\n  \
         - {{ uses: documents.load, with: {{ path: \"{{{{ inputs.size }}}}\" }} }}\n{stages}"
    );
    let plan = check(&text, "./main.yaml", &catalog, &NoFiles)
        .unwrap_or_else(|found| panic!("{}", show(&found)));
    let steps = plan.nodes.iter().filter_map(|node| match &node.work {
        Work::FanOut(fan_out) => Some(&fan_out.steps),
        _ => None,
    });
    let mut all = steps.flatten();
    let changed = all.find(|step| step.uses == "documents.changed").unwrap();
    changed.with["version"].clone()
}

#[test]
fn a_stage_is_told_the_steps_after_it_with_their_parameters() {
    let found = version(
        "  - uses: documents.changed\n  - uses: text.split\n    with: { size: \"{{ inputs.size }}\" }\n  \
         - uses: embed.text\n  - uses: vector.upsert\n    with: { index: i }\n",
    );
    let expected = json!([
        {"uses": "text.split", "with": {"size": "{{ inputs.size }}"}},
        {"uses": "embed.text", "with": {}},
        {"uses": "vector.upsert", "with": {"index": "i"}},
    ]);
    assert_eq!(found, expected);
}

#[test]
fn what_the_author_says_counts() {
    let found =
        version("  - uses: documents.changed\n    with: { version: 3 }\n  - uses: text.split\n");
    assert_eq!(found, json!(3));
}

#[test]
fn fan_outs_that_could_not_be_joined_follow_too() {
    // Another window keeps them apart; the last works on something else.
    let found = version(
        "  - id: changed\n    uses: documents.changed\n    window: 1\n  - id: split\n    uses: text.split\n    window: 2\n  \
         - id: titles\n    map: { over: \"{{ split }}\", stages: [ { uses: llm.generate, with: { prompt: \"{{ item.text }} {{ load.count }}\" } } ] }\n  \
         - id: others\n    map: { over: \"{{ load }}\", stages: [ { uses: text.title } ] }\n",
    );
    // What cannot be known when it begins is not evaluated.
    let expected = json!([
        {"uses": "text.split", "with": {}},
        {"uses": "llm.generate", "with": {"prompt": "|| item.text || || load.count ||"}},
    ]);
    assert_eq!(found, expected);
}
