//! No text makes the check panic.

use proptest::prelude::*;

use super::*;

const WHOLE: &str = "name: x\ninputs: { a: { type: string, default: b } }\nstages:\n\
    - { uses: documents.load, with: { path: '{{ inputs.a }}' } }\n\
    - { id: s, uses: text.split, with: { size: 8 }, window: 2, when: load.count > 1 }\n\
    - id: p\n  parallel:\n    l: { approve: { message: 'ok {{ s.count }}?', timeout: 1h } }\n\
    \x20   m: [ { uses: http.request, with: { url: \"u\" } } ]\n\
    - map: { over: '{{ load }}', stages: [ { uses: llm.generate, with: { prompt: '{{ item.x }}' } } ] }\n\
    - { call: { pipeline: ./child.yaml, with: { x: y } }, needs: [p] }\noutputs: { n: '{{ load.count }}' }\n";

#[test]
fn the_text_that_is_mangled_is_right_before() {
    plan(WHOLE);
}

/// Every finding can be shown and points into the text.
fn survives(text: &str) {
    let checked = all(text);
    assert_eq!(
        checked.plan.is_none(),
        checked.diagnostics.iter().any(crate::check::is_error)
    );
    for found in checked.diagnostics {
        assert!(found.line >= 1 && found.column >= 1);
        assert!(found.to_string().contains(found.code));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_text(text in "\\PC*") {
        survives(&text);
    }

    #[test]
    fn yaml_like_text(text in "[-a-z:{}\\[\\]&*!|>'\"%#@, \n\t.0-9?]{0,200}") {
        survives(&text);
    }

    #[test]
    fn a_right_text_with_a_part_replaced(
        at in 0..WHOLE.len(),
        length in 0..20usize,
        by in "(\\PC{0,6}|[-:{}\\[\\]'\"\n\t &*]{0,4})",
    ) {
        let end = (at + length).min(WHOLE.len());
        if WHOLE.is_char_boundary(at) && WHOLE.is_char_boundary(end) {
            survives(&format!("{}{by}{}", &WHOLE[..at], &WHOLE[end..]));
        }
    }

    #[test]
    fn any_expression(text in "[a-z0-9(){}\\[\\]'\".|+*/%<>=!~, -]{0,60}") {
        let _ = crate::template::condition(&text, &serde_json::json!({ "a": 1 }));
        let _ = crate::template::evaluate_text(&format!("{{{{{text}}}}}"), &serde_json::json!({ "a": [1] }));
        let _ = crate::template::roots(&format!("x{{{{{text}}}}}"));
    }
}
