use serde_json::json;

use super::*;

fn scope() -> Value {
    json!({
        "load": { "count": 3, "title": "A", "tags": ["x", "y"], "none": null },
        "inputs": { "n": 7, "ratio": 0.5, "on": true },
        "big": { "$artifact": "sha256:00", "bytes": 99, "media_type": "application/json" },
        "docs": { "$collection": "sha256:11", "item": "document", "count": 12, "parts": 1 },
    })
}

#[test]
fn a_whole_expression_keeps_its_type() {
    for (text, value) in [
        ("{{ inputs.n }}", json!(7)),
        ("  {{- inputs.ratio -}}\n", json!(0.5)),
        ("{{ inputs.on }}", json!(true)),
        ("{{ load.none }}", json!(null)),
        ("{{ load.tags }}", json!(["x", "y"])),
        ("{{ load.count + inputs.n }}", json!(10)),
        (
            "{{ {'a': load.tags[1], 'b': big} }}",
            json!({ "a": "y", "b": scope()["big"] }),
        ),
        ("{{ big }}", scope()["big"].clone()),
        ("{{ docs }}", scope()["docs"].clone()),
        ("{{ docs.count }}", json!(12)),
        ("{{ load.missing | default(5) }}", json!(5)),
        ("{{ 'a' if load.count > 2 else 'b' }}", json!("a")),
        ("{{ load.tags | first }}", json!("x")),
        ("{{ load.tags | length }}", json!(2)),
        ("{{ -9223372036854775808 }}", json!(i64::MIN)),
        ("plain { text }", json!("plain { text }")),
    ] {
        assert_eq!(evaluate_text(text, &scope()), Ok(value), "{text}");
    }
}

#[test]
fn other_strings_become_text() {
    for (text, value) in [
        ("{{ load.count }} of {{ inputs.n }}", "3 of 7"),
        ("{{ load.tags }}!", "[\"x\",\"y\"]!"),
        ("{{ load.title }}{{ load.title }}", "AA"),
        ("{% for t in load.tags %}{{ t | upper }}{% endfor %}", "XY"),
        ("{% if inputs.on %}yes{% endif %}.", "yes."),
        ("{{ load.tags | join(', ') }};", "x, y;"),
        ("is {{ load.none }}", "is null"),
        ("<{{ '<b>' }}>", "<<b>>"),
    ] {
        assert_eq!(evaluate_text(text, &scope()), Ok(json!(value)), "{text}");
    }
}

#[test]
fn templates_within_json_are_evaluated_and_keys_are_not() {
    let value = json!({ "{{ a }}": [1, { "n": "{{ inputs.n }}" }] });
    assert_eq!(
        evaluate(&value, &scope()),
        Ok(json!({ "{{ a }}": [1, { "n": 7 }] }))
    );
}

#[test]
fn what_is_wrong_is_named_with_what_is_known() {
    for (text, message, help) in [
        (
            "{{ laod.count }}",
            "`laod` is not known here",
            "did you mean `load`?",
        ),
        (
            "{{ load.cuont }}",
            "`load` has no field `cuont`",
            "did you mean `count`?",
        ),
        (
            "a {{ load.x.y }}",
            "`load` has no field `x`",
            "known: count, none, tags, title",
        ),
        (
            "{{ big.title }}",
            "`big` is large and kept as an artifact; a template cannot look into it",
            "pass it whole, as `{{ big }}`",
        ),
    ] {
        let error = evaluate_text(text, &scope()).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.help.as_deref()),
            (message, Some(help))
        );
    }
    for text in ["{{ big | length }}", "see {{ big }}", "{{ big['title'] }}"] {
        assert!(evaluate_text(text, &scope()).is_err(), "{text}");
        assert!(touches_artifact(text, &scope()), "{text}");
    }
    for text in ["{{ laod.count }}", "{{ load.count }}", "big", "{{ 'big' }}"] {
        assert!(!touches_artifact(text, &scope()), "{text}");
    }
    let error = evaluate_text("{% set x = 1 %}{{ x }}", &scope()).unwrap_err();
    assert_eq!(error.message, "templates have no `set` statement");
}

#[test]
fn work_is_bounded() {
    let text =
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
    let error = evaluate_text(text, &json!({})).unwrap_err();
    assert!(error.message.contains("too much work"), "{error}");
}

#[test]
fn conditions_are_true_or_false_and_never_undefined() {
    for (expression, holds) in [
        ("load.count > 2", true),
        ("load.title == 'B' or inputs.on", true),
        ("load.none", false),
        ("load.missing is defined", false),
        ("'x' in load.tags and not load.none", true),
        ("big is not none", true),
    ] {
        assert_eq!(condition(expression, &scope()), Ok(holds), "{expression}");
    }
    assert!(condition("load.missing", &scope()).is_err());
    assert!(condition("nothing > 1", &scope()).is_err());
}

#[test]
fn roots_are_the_names_that_a_template_needs() {
    let names = |text: &str| roots(text).unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!(
        names("{{ load.count }} {% for x in docs %}{{ x }}{{ item.a }}{% endfor %}"),
        ["docs", "item", "load"]
    );
    assert_eq!(names("{{ range(3) }}"), Vec::<String>::new());
    assert_eq!(names("load.count"), Vec::<String>::new());
    assert!(roots("{{ load | lenght }}").is_err());
    assert_eq!(
        condition_roots("a.b == c").unwrap(),
        ["a", "c"].map(str::to_owned).into()
    );
    assert_eq!(
        roots_in(&json!([{ "k": "{{ a }}" }, "{{ b }}"]))
            .unwrap()
            .len(),
        2
    );
}
