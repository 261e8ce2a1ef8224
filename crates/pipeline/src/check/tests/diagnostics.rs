//! A snapshot for each kind of finding. To accept changed ones: `INSTA_UPDATE=always cargo test`.

use super::*;

fn snapshot(name: &str, code: &str, text: &str) {
    let checked = all(text);
    let found = &checked.diagnostics;
    assert!(
        found.iter().any(|found| found.code == code),
        "{name}: no {code} among:\n{}",
        show(found)
    );
    insta::with_settings!({
        snapshot_path => "snapshots",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, show(found));
    });
}

/// A pipeline of these stages, on lines of their own.
fn stages(stages: &str) -> String {
    format!("name: test\nstages:\n{stages}")
}

macro_rules! wrong {
    ($($name:ident, $code:literal, $text:expr;)*) => {
        $(#[test]
        fn $name() {
            let text: String = $text.into();
            snapshot(stringify!($name), $code, &text);
        })*

        #[test]
        fn each_kind_has_a_snapshot_of_its_own() {
            let codes: std::collections::BTreeSet<&str> = [$($code),*].into();
            assert!(codes.len() >= 40, "{}", codes.len());
        }
    };
}

const LOAD: &str = "  - { uses: documents.load, with: { path: docs } }\n";

wrong! {
    // The file.
    empty_file, "empty-file", "# nothing here\n";
    bad_syntax, "yaml-syntax", "name: test\nstages: [ { uses: x\n";
    unquoted_template, "key-not-text", stages("  - uses: documents.load\n    with:\n      path: {{ inputs.folder }}\n");
    colon_in_text, "yaml-syntax", stages("  - approve: Publish: now?\n");
    tab_indent, "tab", "name: test\nstages:\n\t- uses: documents.load\n";
    duplicate_key, "duplicate-key", "name: test\nname: again\nstages: [ { approve: a, approve: b } ]\n";
    not_a_mapping, "not-a-mapping", "- uses: documents.load\n";
    several_documents, "several-documents", "name: a\nstages: [ { approve: a } ]\n---\nname: b\n";
    file_too_large, "file-too-large", format!("name: {}", "x".repeat(1024 * 1024));
    too_deep, "too-deep", format!("name: {}", "[".repeat(100) + &"]".repeat(100));
    billion_laughs, "too-many-values", laughs();
    not_linear, "not-linear", "name: test\nlinear: true\nstages:\n  - { id: a, approve: ok? }\n  - parallel:\n      b: [ { approve: b?, when: \"a.choice == 'approve'\" } ]\n      c: { approve: c? }\n  - { id: end, approve: end?, needs: [a] }\n  - { id: last, approve: last?, needs: [] }\n";
    unknown_anchor, "unknown-anchor", stages("  - approve: *question\n");
    recursive_alias, "recursive-alias", stages("  - &a\n    uses: documents.load\n    with: { path: *a }\n");
    merge_key, "unknown-key", "base: &b { resource: cpu }\nname: test\nstages:\n  - <<: *b\n    approve: ok?\n";

    // Keys and forms.
    missing_name, "missing-key", "stages: [ { approve: ok? } ]\n";
    missing_stages, "missing-key", "name: test\n";
    bad_name, "bad-name", "name: my pipeline!\nstages: [ { approve: ok? } ]\n";
    unknown_key, "unknown-key", "name: test\nstage:\n  - approve: ok?\nstages: [ { approve: ok? } ]\n";
    unknown_stage_key, "unknown-key", stages("  - uses: documents.load\n    with: { path: docs }\n    retires: { attempts: 3 }\n");
    wrong_type, "wrong-type", "name: test\nstages: documents.load\n";
    stage_not_a_mapping, "wrong-type", stages("  - documents.load\n");
    empty_value, "empty-value", stages("  - id:\n    approve: ok?\n");
    no_stages, "no-stages", "name: test\nstages:\n";
    several_kinds, "several-kinds", stages("  - uses: documents.load\n    approve: ok?\n");
    no_kind, "no-kind", stages("  - id: nothing\n    with: { path: docs }\n");
    slip_in_kind, "unknown-key", stages("  - use: documents.load\n");
    key_not_here, "key-not-here", stages("  - approve: ok?\n    retry: { attempts: 3 }\n    timeout: 2d\n");

    // Policies.
    bad_duration, "bad-duration", stages("  - uses: documents.load\n    with: { path: docs }\n    timeout: 10 minutes\n    retry: { delay: 30 }\n");
    bad_percentage, "bad-percentage", stages(&format!("{LOAD}  - uses: text.split\n    tolerate: 5\n"));
    bad_retry_number, "bad-number", stages("  - uses: documents.load\n    with: { path: docs }\n    retry: { attempts: -1, backoff: 0.5 }\n");
    bad_retry, "bad-retry", stages("  - uses: documents.load\n    with: { path: docs }\n    retry: { delay: 1m, max_delay: 10s }\n");
    bad_timeout, "bad-timeout", stages("  - uses: documents.load\n    with: { path: docs }\n    timeout: { attempt: 1h, total: 10m }\n");
    window_zero, "bad-number", stages(&format!("{LOAD}  - uses: text.split\n    window: 0\n    chunk: 0\n"));
    bad_resource, "bad-resource", stages("  - uses: documents.load\n    with: { path: docs }\n    resource: GPU 0\n");
    own_queue, "bad-resource", stages("  - uses: documents.load\n    with: { path: docs }\n    resource: tidemill-pipelines\n");
    cache_not_pure, "cache-not-pure", stages("  - uses: llm.generate\n    with: { prompt: hi }\n    cache: 7d\n");
    no_fan_out, "no-fan-out", stages("  - uses: documents.load\n    with: { path: docs }\n    window: 8\n");

    // What is asked of workers.
    bad_batch_numbers, "bad-number", stages(&embed("batch: { items: 0, cost: -1 }"));
    batch_of_none, "bad-number", stages(&embed("batch: -32"));
    batch_not_a_size, "wrong-type", stages(&embed("batch: large"));
    unknown_batch_key, "unknown-key", stages(&embed("batch: { item: 32, delya: 10ms }"));
    bad_batch_delay, "bad-duration", stages(&embed("batch: { delay: 10 }"));
    expires_before_it_is_due, "bad-batch", stages(&embed("batch: { delay: 2s, expires: 1s }"));
    not_batched, "not-batched", stages(&format!("{LOAD}  - uses: text.split\n    batch: 32\n"));
    bad_share, "bad-share", stages(&embed("device: { share: 0 }"));
    share_of_several, "bad-share", stages(&embed("device: { share: 2 }"));
    no_devices, "bad-number", stages(&embed("device: { count: 0 }"));
    bad_memory, "bad-size", stages(&embed("device: { memory: 82 bananas }"));
    memory_without_unit, "bad-size", stages(&embed("device: { memory: 82 }"));
    unknown_device_key, "unknown-key", stages(&embed("device: { memroy: 82GiB }"));
    device_not_a_mapping, "wrong-type", stages(&embed("device: 0.5"));
    device_on_cpu, "device-on-cpu", stages(&embed("resource: cpu\n    device: { memory: 8GiB }"));
    bad_limit, "bad-limit", stages(&embed("limit: \"{{ load.count }}\""));
    limit_without_name, "missing-key", stages(&embed("limit: { weight: 2 }"));
    weight_zero, "bad-number", stages(&embed("limit: { name: openai, weight: 0 }"));
    priority_zero, "bad-number", stages(&embed("priority: 0"));
    priority_six, "bad-number", "name: test\ndefaults: { priority: 6 }\nstages: [ { approve: ok? } ]\n";
    batch_for_all, "unknown-key", "name: test\ndefaults: { batch: 32 }\nstages: [ { approve: ok? } ]\n";
    batch_not_here, "key-not-here", stages("  - approve: ok?\n    batch: 32\n");
    bad_affinity, "wrong-type", stages(&embed("affinity: 2s"));
    no_affinity, "no-affinity", stages(&embed("affinity: { wait: 2s }\n    with: { model: m }\n    resource: cpu"));
    no_model_to_prefer, "no-affinity", stages(&format!("{LOAD}  - uses: text.split\n    affinity: {{ wait: 2s }}\n"));

    // Stage types and parameters.
    unknown_stage_type, "unknown-stage-type", stages("  - uses: embed.txt\n");
    unknown_family, "unknown-stage-type", stages("  - uses: kafka.consume\n");
    unknown_in_family, "unknown-stage-type", stages("  - uses: vector.reindex_everything\n");
    unknown_parameter, "unknown-parameter", stages(&format!("{LOAD}  - uses: text.split\n    with:\n      siez: 800\n"));
    missing_parameter, "missing-parameter", stages("  - uses: documents.load\n");
    wrong_parameter, "wrong-parameter", stages(&format!("{LOAD}  - uses: text.split\n    with:\n      size: large\n      by: markdwon\n      overlap: -1\n"));
    nested_parameter, "unknown-parameter", stages("  - uses: documents.load\n    with:\n      path: docs\n      part: { item: 10 }\n");
    parameter_of_two_forms, "wrong-parameter", stages(&format!("{LOAD}  - uses: text.split\n  - uses: embed.text\n  - uses: vector.upsert\n    with:\n      index: 7\n"));
    parameter_within_a_form, "unknown-parameter", stages(&format!("{LOAD}  - uses: text.split\n  - uses: embed.text\n  - uses: vector.upsert\n    with:\n      index: {{ qdrant: {{ url: u, colection: c }} }}\n"));
    text_for_a_number, "wrong-parameter", stages(&format!("{LOAD}  - uses: text.split\n    with: {{ size: \"{{{{ load.count }}}} or so\" }}\n"));

    // Types between stages.
    type_mismatch, "type-mismatch", stages(&format!("{LOAD}  - uses: embed.text\n"));
    one_for_a_collection, "type-mismatch", stages(&format!("{LOAD}  - uses: text.title\n"));
    no_input, "no-input", stages("  - uses: text.split\n");
    not_a_collection, "not-a-collection", stages("  - uses: llm.generate\n    with: { prompt: hi }\n  - uses: text.split\n");
    map_not_a_collection, "map-not-a-collection", "name: test\ninputs: { n: integer }\nstages:\n  - map:\n      over: \"{{ inputs.n }}\"\n      stages: [ { uses: llm.generate, with: { prompt: hi } } ]\n";
    not_in_map, "not-in-map", stages(&format!("{LOAD}  - map:\n      stages:\n        - approve: Each?\n        - uses: text.title\n          when: item.size > 1\n"));

    // Names.
    unknown_need, "unknown-need", stages(&format!("{LOAD}  - uses: text.split\n    needs: [laod]\n"));
    self_need, "self-need", stages("  - id: a\n    uses: documents.load\n    with: { path: docs }\n    needs: [a]\n");
    cycle, "cycle", stages("  - id: a\n    approve: a?\n    needs: [c]\n  - id: b\n    approve: b?\n  - id: c\n    approve: c?\n");
    forward_reference, "forward-reference", stages("  - uses: documents.load\n    with: { path: \"{{ later.path }}\" }\n  - id: later\n    uses: http.request\n    with: { url: u }\n");
    self_reference, "self-reference", stages("  - id: a\n    approve: \"{{ a.choice }}?\"\n");
    duplicate_id, "duplicate-id", stages("  - id: a\n    approve: ok?\n  - id: a\n    approve: sure?\n");
    same_default_id, "duplicate-id", stages("  - uses: llm.generate\n    with: { prompt: a }\n  - uses: llm.generate\n    with: { prompt: b }\n");
    reserved_id, "reserved-id", stages("  - id: inputs\n    approve: ok?\n");
    bad_id, "bad-id", stages("  - id: my-stage\n    approve: ok?\n");
    unknown_name, "unknown-name", stages(&format!("{LOAD}  - approve: \"Publish {{{{ laod.count }}}} documents?\"\n"));
    unknown_output, "unknown-name", stages(&format!("{LOAD}outputs:\n  n: \"{{{{ store.count }}}}\"\n"));
    unknown_field, "unknown-field", stages(&format!("{LOAD}  - approve: \"{{{{ load.cuont }}}} of {{{{ run.name }}}}?\"\n"));
    step_not_visible, "step-not-visible", stages(&format!("{LOAD}  - id: each\n    map:\n      stages: [ {{ uses: text.title }} ]\n  - approve: \"{{{{ title }}}}?\"\n"));
    unknown_input, "unknown-input", "name: test\ninputs: { folder: string }\nstages:\n  - uses: documents.load\n    with: { path: \"{{ inputs.foldr }}/{{ inputs.folder }}\" }\n";
    no_inputs_at_all, "unknown-input", stages("  - uses: documents.load\n    with: { path: \"{{ inputs.folder }}\" }\n");
    item_outside, "item-outside", stages("  - uses: llm.generate\n    with: { prompt: \"{{ item.text }}\" }\n");
    item_in_batch, "item-in-batch", stages(&format!("{LOAD}  - uses: text.split\n    with: {{ size: \"{{{{ item.size }}}}\" }}\n"));
    not_available, "not-available", stages("  - uses: llm.generate\n    with: { prompt: \"{{ secrets.key }}\" }\n");

    // Templates and conditions.
    bad_template, "bad-template", stages("  - uses: llm.generate\n    with:\n      prompt: \"Say {{ inputs. }}\"\n");
    bad_template_in_block, "bad-template", stages("  - uses: llm.generate\n    with:\n      prompt: |\n        Summarise:\n        {% if x %}yes{% endfor %}\n");
    unknown_filter, "bad-template", stages(&format!("{LOAD}  - approve: \"{{{{ load | lenght }}}}?\"\n"));
    no_includes, "bad-template", stages("  - approve: \"{% include 'secrets.txt' %}?\"\n");
    bad_expression, "bad-expression", stages(&format!("{LOAD}  - approve: ok?\n    when: load.count >\n"));
    braces_in_when, "bad-expression", stages(&format!("{LOAD}  - approve: ok?\n    when: \"{{{{ load.count }}}} > 100\"\n"));
    never_runs, "never-runs", stages("  - approve: ok?\n    when: false\n");

    // Approvals.
    default_not_a_choice, "unknown-choice", stages("  - approve: { message: ok?, choices: [ship, hold], timeout: 1h, default: holt }\n");
    compared_with_no_choice, "unknown-choice", stages("  - id: ask\n    approve: ok?\n  - uses: llm.generate\n    with: { prompt: p }\n    when: ask.choice == 'aprove'\n");
    default_without_timeout, "default-without-timeout", stages("  - approve: { message: ok?, default: reject }\n");
    bad_choices, "bad-choices", stages("  - approve: { message: ok?, choices: [a, a] }\n");
    bad_form, "bad-input-schema", stages("  - approve:\n      message: ok?\n      form: { type: object, required: yes }\n");

    // Inputs.
    unknown_type, "unknown-type", "name: test\ninputs:\n  a: { type: strnig }\n  b: list\nstages: [ { approve: \"{{ inputs }}\" } ]\n";
    bad_input_schema, "bad-input-schema", "name: test\ninputs:\n  a: { type: string, minLength: long }\nstages: [ { approve: \"{{ inputs }}\" } ]\n";
    wrong_default, "wrong-default", "name: test\ninputs:\n  a: { type: integer, default: ten }\nstages: [ { approve: \"{{ inputs }}\" } ]\n";
    bad_input_name, "bad-input-name", "name: test\ninputs:\n  my-folder: string\nstages: [ { approve: \"{{ inputs }}\" } ]\n";
    unused_input, "unused-input", "name: test\ninputs: { folder: string }\nstages: [ { approve: ok? } ]\n";

    // Calls.
    call_not_found, "call-not-found", stages("  - call: ./nowhere.yaml\n");
    recursive_call, "recursive-call", stages("  - call: ./loop.yaml\n");
    broken_call, "unknown-stage-type", stages("  - call: ./broken.yaml\n");
    wrong_call_input, "wrong-call-input", stages("  - call: { pipeline: ./child.yaml, with: { x: 1 } }\n");
    unknown_call_input, "unknown-call-input", stages("  - call: { pipeline: ./child.yaml, with: { x: a, y: b } }\n");
    missing_call_input, "missing-call-input", stages("  - call: ./child.yaml\n");
}

/// Stages that end with one that runs in batches and has these keys.
fn embed(keys: &str) -> String {
    format!("{LOAD}  - uses: text.split\n  - uses: embed.text\n    {keys}\n")
}

/// Aliases of aliases: a few lines that stand for millions of values.
fn laughs() -> String {
    let mut text = "name: test\na0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
    for level in 1..8 {
        let before = format!("*a{}", level - 1);
        let list = vec![before; 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    text
}
