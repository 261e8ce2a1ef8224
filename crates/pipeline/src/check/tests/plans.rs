//! What right pipelines become.

use std::collections::BTreeSet;

use serde_json::json;

use super::super::{NoFiles, check_value};
use super::*;

const SEARCH: &str = r#"
name: semantic-search
description: Makes a folder searchable.
inputs:
  folder: { type: string, default: docs }
stages:
  - uses: documents.load
    with: { path: "{{ inputs.folder }}" }
  - uses: text.split
    with: { size: 800 }
  - uses: embed.text
    retry: { attempts: 3, delay: 2s }
    timeout: 10m
    cache: 7d
    window: 4
    tolerate: 1%
  - id: store
    uses: vector.upsert
    with: { index: demo }
outputs: { chunks: "{{ store.count }}" }
"#;

fn needs(node: &Node) -> Vec<&str> {
    node.needs.iter().map(String::as_str).collect()
}

#[test]
fn stages_over_items_in_a_row_are_one_fan_out() {
    let plan = plan(SEARCH);
    assert_eq!(ids(&plan), ["load", "store"]);
    let store = node(&plan, "store");
    assert_eq!(needs(store), ["load"]);
    assert_eq!(steps(store), ["split", "text", "store"]);
    let Work::FanOut(fan_out) = &store.work else {
        panic!("{store:?}")
    };
    assert_eq!(fan_out.over, "{{ load }}");
    assert_eq!((fan_out.chunk, fan_out.window), (0, 4));
    assert_eq!(fan_out.tolerate, 0.01);
    assert_eq!(fan_out.item, "object");
    let embed = &fan_out.steps[1];
    assert_eq!(embed.resource, "accelerator");
    assert_eq!(
        (embed.retry.attempts, embed.retry.first_delay_ms),
        (3, 2_000)
    );
    assert_eq!(embed.timeouts.attempt_ms, 600_000);
    assert_eq!(
        embed.cache.as_ref().map(|cache| cache.ttl_ms),
        Some(604_800_000)
    );
    assert_eq!(plan.outputs, json!({ "chunks": "{{ store.count }}" }));
}

#[test]
fn a_fan_out_ends_where_something_else_uses_what_is_between() {
    let used = SEARCH.replace("{{ store.count }}", "{{ split.count }}");
    let used = plan(&used);
    assert_eq!(ids(&used), ["load", "split", "store"]);
    let other_window = SEARCH.replace(
        "with: { index: demo }",
        "with: { index: demo }\n    window: 2",
    );
    assert_eq!(ids(&plan(&other_window)), ["load", "text", "store"]);
    let conditional = SEARCH.replace(
        "with: { index: demo }",
        "with: { index: demo }\n    when: load.count > 1",
    );
    assert_eq!(ids(&plan(&conditional)), ["load", "text", "store"]);
}

#[test]
fn code_and_yaml_give_the_same_plan() {
    let value = json!({
        "name": "semantic-search",
        "inputs": { "folder": { "type": "string", "default": "docs" } },
        "stages": [
            { "uses": "documents.load", "with": { "path": "{{ inputs.folder }}" } },
            { "uses": "text.split", "with": { "size": 800 } },
            {
                "uses": "embed.text",
                "retry": { "attempts": 3, "delay": "2s" },
                "timeout": "10m",
                "cache": { "ttl": "168h" },
                "window": 4,
                "tolerate": 0.01,
            },
            { "uses": "vector.upsert", "id": "store", "with": { "index": "demo" } },
        ],
        "outputs": { "chunks": "{{ store.count }}" },
    });
    let code = check_value(&value, "code", &testing::catalog(), &NoFiles)
        .unwrap_or_else(|found| panic!("{}", show(&found)));
    assert_eq!(code.hash(), plan(SEARCH).hash());
}

#[test]
fn the_hash_is_of_the_meaning() {
    let hash = plan(SEARCH).hash();
    for (from, to) in [
        (
            "with: { size: 800 }",
            "with:\n      size: 800  # characters",
        ),
        ("uses: documents.load", "uses: 'documents.load'"),
        (
            "description: Makes a folder searchable.",
            "description: Other words.",
        ),
        (
            "retry: { attempts: 3, delay: 2s }",
            "retry: { delay: 2000ms, attempts: 3 }",
        ),
        ("tolerate: 1%", "tolerate: 0.01"),
    ] {
        let text = SEARCH.replace(from, to);
        assert_ne!(text, SEARCH);
        assert_eq!(plan(&text).hash(), hash, "{to}");
    }
    for (from, to) in [("size: 800", "size: 801"), ("7d", "8d"), ("docs", "texts")] {
        assert_ne!(plan(&SEARCH.replace(from, to)).hash(), hash, "{to}");
    }
}

/// Runs under way are of plans that earlier versions made, and results are kept by their hashes.
#[test]
fn the_hash_of_a_plan_stays_as_it_is() {
    let plan = plan(
        "name: pinned\nstages:\n  - uses: documents.load\n    with: { path: docs }\n  \
         - uses: text.split\n    with: { size: 800 }\n    retry: { attempts: 3, delay: 2s }\n    \
         timeout: 10m\n    cache: 7d\n    tolerate: 1%\n",
    );
    assert_eq!(
        plan.hash(),
        "sha256:27867a7eacbd60a59089746f3bdee15bef291b369c9cb07c65a035b8539296b5"
    );
}

#[test]
fn a_plan_survives_json() {
    let made = plan(SEARCH);
    let text = serde_json::to_string(&made).expect("JSON");
    let read: Plan = serde_json::from_str(&text).expect("a plan");
    assert_eq!(read, made);
    assert_eq!(read.hash(), made.hash());
}

#[test]
fn skipped_stages_and_approvals_are_passed_over() {
    let plan = plan(
        "name: x\nstages:\n\
         - { id: a, uses: http.request, with: { url: a } }\n\
         - { id: b, uses: http.request, with: { url: b }, when: a.status == 200 }\n\
         - { id: ask, approve: Go on? }\n\
         - { id: c, uses: http.request, with: { url: c } }\n",
    );
    assert_eq!(input(node(&plan, "a")), None);
    assert_eq!(input(node(&plan, "b")), Some("{{ a }}"));
    let c = node(&plan, "c");
    assert_eq!(input(c), Some("{{ b if b is not none else a }}"));
    assert_eq!(needs(c), ["ask"]);
    assert_eq!(needs(node(&plan, "ask")), ["b"]);
    let scope = json!({ "a": 1, "b": null });
    let given = crate::template::evaluate_text(input(c).unwrap(), &scope);
    assert_eq!(given, Ok(json!(1)));
}

#[test]
fn needs_decide_order_and_input() {
    let plan = plan(
        "name: x\nstages:\n\
         - { id: a, uses: http.request, with: { url: a } }\n\
         - { id: b, uses: http.request, with: { url: b }, needs: [] }\n\
         - { id: c, uses: http.request, with: { url: c }, needs: [a, b] }\n\
         - { id: d, uses: http.request, with: { url: '{{ b.status }}' }, needs: a }\n\
         - { id: e, uses: http.request, with: { url: e }, input: '{{ a }}' }\n",
    );
    assert!(node(&plan, "b").needs.is_empty());
    assert_eq!(input(node(&plan, "b")), None);
    let c = input(node(&plan, "c")).unwrap();
    let given = crate::template::evaluate_text(c, &json!({ "a": 1, "b": [2] }));
    assert_eq!(given, Ok(json!({ "a": 1, "b": [2] })));
    assert_eq!(input(node(&plan, "d")), Some("{{ a }}"));
    // The template's stage has become a need.
    assert_eq!(needs(node(&plan, "d")), ["a", "b"]);
    // This one came first anyway.
    assert_eq!(needs(node(&plan, "e")), ["d"]);
}

#[test]
fn parallel_branches_meet_in_a_join() {
    let plan = plan(
        "name: x\nstages:\n\
         - { id: a, uses: http.request, with: { url: a } }\n\
         - id: route\n\
         \x20 when: a.status == 200\n\
         \x20 parallel:\n\
         \x20   legal: { uses: llm.generate, with: { prompt: p }, when: a.kind == 'legal' }\n\
         \x20   other:\n\
         \x20     - { id: b, uses: http.request, with: { url: b } }\n\
         \x20     - { id: c, uses: http.request, with: { url: c } }\n\
         - { id: end, uses: http.request, with: { url: '{{ route.legal }}' } }\n",
    );
    assert_eq!(ids(&plan), ["a", "legal", "b", "c", "route", "end"]);
    let legal = node(&plan, "legal");
    assert_eq!(needs(legal), ["a"]);
    assert_eq!(
        legal.when.as_deref(),
        Some("(a.status == 200) and (a.kind == 'legal')")
    );
    assert_eq!(needs(node(&plan, "b")), ["a"]);
    assert_eq!(input(node(&plan, "c")), Some("{{ b }}"));
    let route = node(&plan, "route");
    assert!(
        route
            .needs
            .is_superset(&BTreeSet::from(["legal".to_owned(), "c".to_owned()]))
    );
    assert!(!route.needs.contains("b"));
    let Work::Join(join) = &route.work else {
        panic!("{route:?}")
    };
    assert_eq!(join.outputs["legal"], "{{ legal }}");
    assert_eq!(join.outputs["other"], "{{ c }}");
    assert_eq!(
        input(node(&plan, "end")),
        Some("{{ route if route is not none else a }}")
    );
}

#[test]
fn a_map_runs_calls_for_each_item() {
    let plan = plan(
        "name: x\nstages:\n\
         - { uses: documents.load, with: { path: docs } }\n\
         - id: each\n\
         \x20 map:\n\
         \x20   over: '{{ load }}'\n\
         \x20   chunk: 100\n\
         \x20   tolerate: 5%\n\
         \x20   stages:\n\
         \x20     - { uses: text.split }\n\
         \x20     - { uses: llm.generate, with: { prompt: 'Of {{ load.count }}: {{ item.text }}' } }\n",
    );
    let each = node(&plan, "each");
    assert_eq!(needs(each), ["load"]);
    assert_eq!(steps(each), ["split", "generate"]);
    let Work::FanOut(fan_out) = &each.work else {
        panic!("{each:?}")
    };
    assert_eq!((fan_out.chunk, fan_out.tolerate), (100, 0.05));
    assert_eq!(fan_out.item, "object");
    assert_eq!(fan_out.steps[1].input, None);
}

#[test]
fn approvals_that_a_condition_looks_at_are_routed() {
    let text = "name: x\nstages:\n\
         - { id: ask, approve: { message: Publish?, timeout: 2d, default: reject } }\n\
         - { id: go, uses: http.request, with: { url: u }, when: \"ask.choice == 'approve'\" }\n";
    let approve = |text: &str| match node(&plan(text), "ask").work.clone() {
        Work::Approve(approve) => approve,
        other => panic!("{other:?}"),
    };
    let routed = approve(text);
    assert!(routed.routed);
    assert_eq!(routed.choices, ["approve", "reject"]);
    assert_eq!(routed.timeout_ms, Some(172_800_000));
    assert!(!approve(&text.replace(", when: \"ask.choice == 'approve'\"", "")).routed);
}

#[test]
fn called_pipelines_are_within_the_plan() {
    let plan = plan(
        "name: x\nstages:\n- { id: sub, call: { pipeline: ./child.yaml, with: { x: hi } } }\n",
    );
    let Work::Call(call) = &node(&plan, "sub").work else {
        panic!()
    };
    assert_eq!(call.plan.name, "child");
    assert_eq!(call.inputs["x"], "hi");
}

#[test]
fn python_functions_are_activities_of_their_own_name() {
    let plan = plan(
        "name: x\ndefaults: { resource: cpu }\nstages:\n\
         - { uses: python.call, with: { function: my_stage, depth: 2 }, cache: 1h }\n",
    );
    let Work::Task(step) = &node(&plan, "my_stage").work else {
        panic!()
    };
    assert_eq!(
        (step.uses.as_str(), step.resource.as_str()),
        ("my_stage", "python")
    );
    assert_eq!(step.with, json!({ "depth": 2 }));
    // Whether the function is pure is for its worker to say.
    assert_eq!(
        step.cache.as_ref().map(|cache| cache.ttl_ms),
        Some(3_600_000)
    );
}

#[test]
fn defaults_give_way_to_what_a_stage_says() {
    let plan = plan(
        "name: x\ndefaults: { retry: { attempts: 9, delay: 3s }, timeout: { attempt: 1h, total: 2h } }\n\
         stages:\n- { id: a, uses: http.request, with: { url: u }, retry: { attempts: 1 }, timeout: 5m }\n",
    );
    let Work::Task(step) = &node(&plan, "a").work else {
        panic!()
    };
    assert_eq!((step.retry.attempts, step.retry.first_delay_ms), (1, 3_000));
    assert_eq!(step.timeouts.attempt_ms, 300_000);
    assert_eq!(step.timeouts.total_ms, Some(7_200_000));
}

#[test]
fn finally_sees_everything_and_nothing_waits_for_it() {
    let plan = plan(
        "name: x\nstages:\n- { id: a, uses: http.request, with: { url: u } }\n\
         finally:\n- { id: tell, uses: http.request, with: { url: 'u?{{ a.status }}{{ run.status }}' } }\n",
    );
    assert_eq!(plan.nodes.len(), 1);
    assert_eq!(plan.finally.len(), 1);
    assert!(node(&plan, "tell").needs.is_empty());
    assert_eq!(plan.outputs, json!("{{ a }}"));
}

#[test]
fn warnings_do_not_stop_a_plan() {
    let checked = all("name: x\ninputs: { spare: string }\nstages: [ { approve: Go? } ]\n");
    assert!(checked.plan.is_some());
    assert_eq!(checked.diagnostics.len(), 1);
    assert_eq!(checked.diagnostics[0].code, "unused-input");
}

#[test]
fn all_findings_are_told_at_once_by_place() {
    let checked = all(
        "name: x\nstagse: []\nstages:\n- { uses: text.splt }\n- { uses: documents.load, wiht: {} }\n",
    );
    let codes: Vec<_> = checked
        .diagnostics
        .iter()
        .map(|found| (found.line, found.code))
        .collect();
    assert_eq!(
        codes,
        [
            (2, "unknown-key"),
            (4, "unknown-stage-type"),
            (5, "missing-parameter"),
            (5, "unknown-key"),
        ]
    );
    assert!(checked.plan.is_none());
}
