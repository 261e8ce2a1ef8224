//! The JSON Schema of the YAML form, for editors: completion, hover texts and red lines while a
//! pipeline is being written. It says less than [`check`](crate::check), which knows about names.

use serde_json::{Map, Value, json};

use crate::stage::{Catalog, PYTHON_CALL, StageType, python_call};

/// The schema of a pipeline whose stages are of the types of `catalog`.
pub fn schema(catalog: &Catalog) -> Value {
    let mut catalog = catalog.clone();
    catalog
        .entry(PYTHON_CALL.to_owned())
        .or_insert_with(python_call);
    let mut definitions = definitions();
    let names: Vec<Value> = catalog
        .values()
        .map(|kind| json!({ "const": kind.name, "description": describe(kind) }))
        .collect();
    let with: Vec<Value> = catalog.values().map(with_rule).collect();
    definitions.insert(
        "stage".to_owned(),
        json!({
            "type": "object",
            "properties": {
                "id": { "$ref": "#/$defs/id" },
                "needs": {
                    "description": "Stages that must have ended first. Otherwise: the one before.",
                    "type": ["array", "string"],
                    "items": { "type": "string" },
                },
                "when": {
                    "description": "An expression; the stage is skipped when it is false.",
                    "type": ["string", "boolean"],
                },
                "allow_failure": {
                    "description": "The run goes on when this stage fails.",
                    "type": "boolean",
                },
                "uses": { "description": "The stage type.", "anyOf": names },
                "with": { "description": "Parameters.", "type": "object" },
                "input": {
                    "description": "A template for the input. Otherwise: the output of the stage before.",
                    "type": "string",
                },
                "resource": { "$ref": "#/$defs/resource" },
                "retry": { "$ref": "#/$defs/retry" },
                "timeout": { "$ref": "#/$defs/timeout" },
                "cache": { "$ref": "#/$defs/cache" },
                "chunk": { "$ref": "#/$defs/chunk" },
                "window": { "$ref": "#/$defs/window" },
                "tolerate": { "$ref": "#/$defs/tolerate" },
                "batch": { "$ref": "#/$defs/batch" },
                "device": { "$ref": "#/$defs/device" },
                "limit": { "$ref": "#/$defs/limit" },
                "priority": { "$ref": "#/$defs/priority" },
                "affinity": { "$ref": "#/$defs/affinity" },
                "approve": { "$ref": "#/$defs/approve" },
                "parallel": {
                    "description": "Branches that run at the same time, by name.",
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {
                        "anyOf": [{ "$ref": "#/$defs/stage" }, { "$ref": "#/$defs/stages" }],
                    },
                },
                "map": { "$ref": "#/$defs/map" },
                "call": { "$ref": "#/$defs/call" },
            },
            "additionalProperties": false,
            "oneOf": [
                { "required": ["uses"] },
                { "required": ["approve"] },
                { "required": ["parallel"] },
                { "required": ["map"] },
                { "required": ["call"] },
            ],
            "allOf": with,
        }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tidemill pipeline",
        "type": "object",
        "properties": {
            "name": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,100}$" },
            "description": { "type": "string" },
            "linear": {
                "description": "Refuse `when` and `needs`: stages one after another.",
                "type": "boolean",
            },
            "inputs": {
                "description": "A JSON Schema for each input; without `default` it is required.",
                "type": "object",
                "additionalProperties": {
                    "anyOf": [
                        { "$ref": "https://json-schema.org/draft/2020-12/schema" },
                        { "enum": ["string", "integer", "number", "boolean", "array", "object"] },
                        { "type": "null" },
                    ],
                },
            },
            "defaults": {
                "description": "For all stages that do not say otherwise.",
                "type": "object",
                "properties": {
                    "resource": { "$ref": "#/$defs/resource" },
                    "retry": { "$ref": "#/$defs/retry" },
                    "timeout": { "$ref": "#/$defs/timeout" },
                    "priority": { "$ref": "#/$defs/priority" },
                    "affinity": { "$ref": "#/$defs/affinity" },
                },
                "additionalProperties": false,
            },
            "stages": { "$ref": "#/$defs/stages" },
            "finally": {
                "description": "Stages that run when all others have ended, however they did.",
                "$ref": "#/$defs/stages",
            },
            "outputs": {
                "description": "What the run returns. Otherwise: the last stage's output.",
            },
        },
        "required": ["name", "stages"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

fn describe(kind: &StageType) -> String {
    format!("{} {} -> {}", kind.summary, kind.input, kind.output)
}

/// A template may stand wherever a parameter may: only the parameters' names are held to the
/// stage type's schema, and values that no template can hide behind.
fn with_rule(kind: &StageType) -> Value {
    json!({
        "if": { "properties": { "uses": { "const": kind.name } }, "required": ["uses"] },
        "then": { "properties": { "with": or_template(&kind.with, true) } },
    })
}

fn or_template(schema: &Value, top: bool) -> Value {
    let Some(fields) = schema.as_object() else {
        return schema.clone();
    };
    let mut fields = fields.clone();
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        for property in properties.values_mut() {
            *property = or_template(property, false);
        }
    }
    // References within the stage type's schema would not be found from here.
    if fields.contains_key("$defs") || fields.contains_key("$ref") {
        return json!({ "type": "object" });
    }
    let has = |key: &str| fields.contains_key(key);
    let any_text = fields.get("type").is_some_and(|kind| kind == "string") && !has("enum");
    let anything = !["type", "enum", "const", "anyOf", "oneOf", "allOf"]
        .map(has)
        .contains(&true);
    if top || any_text || anything {
        return Value::Object(fields);
    }
    let mut either = Map::new();
    for key in ["description", "default", "title"] {
        if let Some(value) = fields.remove(key) {
            either.insert(key.to_owned(), value);
        }
    }
    let template = json!({ "type": "string", "pattern": "\\{\\{" });
    either.insert("anyOf".to_owned(), json!([Value::Object(fields), template]));
    Value::Object(either)
}

fn definitions() -> Map<String, Value> {
    let duration = "^([0-9]+(ms|s|m|h|d))+$";
    let definitions = json!({
        "id": {
            "description": "The name by which templates know the stage. Otherwise: the last part of `uses`.",
            "type": "string",
            "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
        },
        "stages": { "type": "array", "items": { "$ref": "#/$defs/stage" }, "minItems": 1 },
        "duration": { "type": "string", "pattern": duration, "examples": ["30s", "10m", "1h30m"] },
        "resource": {
            "description": "The class of worker: a task queue.",
            "type": "string",
            "examples": ["cpu", "accelerator"],
        },
        "retry": {
            "type": "object",
            "properties": {
                "attempts": {
                    "description": "In all; 0 for no bound.", "type": "integer", "minimum": 0,
                },
                "delay": { "$ref": "#/$defs/duration" },
                "backoff": { "type": "number", "minimum": 1, "maximum": 100 },
                "max_delay": { "$ref": "#/$defs/duration" },
            },
            "additionalProperties": false,
        },
        "timeout": {
            "description": "Of one attempt, or of attempt, total and heartbeat.",
            "anyOf": [
                { "$ref": "#/$defs/duration" },
                {
                    "type": "object",
                    "properties": {
                        "attempt": { "$ref": "#/$defs/duration" },
                        "total": { "$ref": "#/$defs/duration" },
                        "heartbeat": { "$ref": "#/$defs/duration" },
                    },
                    "additionalProperties": false,
                },
            ],
        },
        "cache": {
            "description": "How long a result may be used again.",
            "anyOf": [
                { "type": "boolean" },
                { "$ref": "#/$defs/duration" },
                {
                    "type": "object",
                    "properties": {
                        "ttl": { "$ref": "#/$defs/duration" },
                        "key": { "type": "string" },
                    },
                    "additionalProperties": false,
                },
            ],
        },
        "chunk": { "description": "Items of a chunk.", "type": "integer", "minimum": 1 },
        "window": {
            "description": "Chunks in progress at a time.", "type": "integer", "minimum": 1,
        },
        "tolerate": {
            "description": "Share of the items that may fail: 5% or 0.05.",
            "anyOf": [
                { "type": "number", "minimum": 0, "maximum": 1 },
                { "type": "string", "pattern": "^[0-9.]+ ?%$" },
            ],
        },
        "approve": {
            "description": "Waits for a person.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "message": { "type": "string" },
                        "choices": { "type": "array", "items": { "type": "string" }, "minItems": 1 },
                        "form": { "description": "JSON Schema of a form.", "type": "object" },
                        "timeout": { "$ref": "#/$defs/duration" },
                        "default": {
                            "description": "The answer when nobody gave one in time.",
                            "type": "string",
                        },
                    },
                    "required": ["message"],
                    "additionalProperties": false,
                },
            ],
        },
        "map": {
            "description": "Runs stages for each item of a collection or list.",
            "type": "object",
            "properties": {
                "over": { "type": "string" },
                "chunk": { "$ref": "#/$defs/chunk" },
                "window": { "$ref": "#/$defs/window" },
                "tolerate": { "$ref": "#/$defs/tolerate" },
                "stages": { "$ref": "#/$defs/stages" },
            },
            "required": ["stages"],
            "additionalProperties": false,
        },
        "call": {
            "description": "Runs another pipeline as a part of this one.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "pipeline": { "type": "string" },
                        "with": { "type": "object" },
                    },
                    "required": ["pipeline"],
                    "additionalProperties": false,
                },
            ],
        },
    });
    let mut all = Map::new();
    for definitions in [definitions, demands()] {
        if let Value::Object(definitions) = definitions {
            all.extend(definitions);
        }
    }
    all
}

/// What a stage may ask of the workers that run it.
fn demands() -> Value {
    let items = json!({
        "description": "Items of a call at most.", "type": "integer", "minimum": 1,
    });
    json!({
        "batch": {
            "description": "How items of this run and others become one call; the stage decides the rest.",
            "anyOf": [
                items,
                {
                    "type": "object",
                    "properties": {
                        "items": items,
                        "delay": {
                            "description": "How long an item waits for others.",
                            "$ref": "#/$defs/duration",
                        },
                        "cost": {
                            "description": "What the items of a call may cost together, in the stage's unit, such as tokens.",
                            "type": "integer",
                            "minimum": 1,
                        },
                        "expires": {
                            "description": "How long an item may wait for its call to begin before it fails.",
                            "$ref": "#/$defs/duration",
                        },
                    },
                    "additionalProperties": false,
                },
            ],
        },
        "device": {
            "description": "Devices that a task needs at the same time, all or none.",
            "type": "object",
            "properties": {
                "count": { "type": "integer", "minimum": 1 },
                "share": {
                    "description": "Of each device: 1 is a whole one.",
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 1,
                },
                "memory": {
                    "description": "On each device.",
                    "type": "string",
                    "pattern": "^[0-9]+ *([kKMGT]?B|[KMGT]iB)$",
                    "examples": ["16GiB"],
                },
            },
            "additionalProperties": false,
        },
        "limit": {
            "description": "A limit that all workers share.",
            "anyOf": [
                { "$ref": "#/$defs/limit_name" },
                {
                    "type": "object",
                    "properties": {
                        "name": { "$ref": "#/$defs/limit_name" },
                        "weight": {
                            "description": "How much of the limit's concurrency a task takes.",
                            "type": "integer",
                            "minimum": 1,
                        },
                    },
                    "required": ["name"],
                    "additionalProperties": false,
                },
            ],
        },
        "limit_name": { "type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,100}$" },
        "priority": {
            "description": "1 is the most urgent, 5 the least, 3 the usual.",
            "type": "integer",
            "minimum": 1,
            "maximum": 5,
        },
        "affinity": {
            "description": "How long a task waits for a worker that has its model loaded; 1s unless given.",
            "anyOf": [
                { "const": "none" },
                {
                    "type": "object",
                    "properties": { "wait": { "$ref": "#/$defs/duration" } },
                    "additionalProperties": false,
                },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(validator: &jsonschema::Validator, stage: Value) -> bool {
        validator.is_valid(&json!({ "name": "x", "stages": [stage] }))
    }

    #[test]
    fn editors_see_what_the_check_sees() {
        let schema = schema(&crate::testing::catalog());
        assert!(jsonschema::meta::is_valid(&schema));
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        for right in [
            json!({ "uses": "documents.load", "with": { "path": "{{ inputs.x }}" } }),
            json!({ "uses": "text.split", "with": { "size": "{{ inputs.n }}" }, "tolerate": "5%" }),
            json!({ "uses": "python.call", "with": { "function": "f", "any": 1 }, "timeout": "1h30m" }),
            json!({ "approve": { "message": "ok?" }, "when": "a > 1" }),
            json!({ "parallel": { "a": { "approve": "ok?" }, "b": [{ "call": "./x.yaml" }] } }),
            json!({ "map": { "stages": [{ "uses": "llm.generate", "with": { "prompt": "p" } }] } }),
            json!({
                "uses": "embed.text", "batch": { "items": 32, "delay": "10ms", "cost": 8192 },
                "device": { "count": 2, "share": 0.5, "memory": "40 GiB" }, "priority": 1,
                "limit": { "name": "openai/eu", "weight": 2 }, "affinity": { "wait": "2s" },
            }),
            json!({ "uses": "embed.text", "batch": 32, "limit": "openai", "affinity": "none" }),
        ] {
            assert!(accepts(&validator, right.clone()), "{right}");
        }
        for wrong in [
            json!({ "uses": "documents.laod" }),
            json!({ "uses": "documents.load", "with": { "paht": "x" } }),
            json!({ "uses": "text.split", "with": { "size": "large" } }),
            json!({ "uses": "text.split", "timeout": "10 minutes" }),
            json!({ "uses": "text.split", "approve": "ok?" }),
            json!({ "id": "nothing" }),
            json!({ "uses": "embed.text", "batch": 0 }),
            json!({ "uses": "embed.text", "batch": { "item": 3 } }),
            json!({ "uses": "embed.text", "device": { "share": 0 } }),
            json!({ "uses": "embed.text", "device": { "memory": "82 bananas" } }),
            json!({ "uses": "embed.text", "priority": 6 }),
            json!({ "uses": "embed.text", "limit": { "name": "x", "weight": 0 } }),
            json!({ "uses": "embed.text", "affinity": "some" }),
            json!({ "approve": "ok?", "widnow": 3 }),
        ] {
            assert!(!accepts(&validator, wrong.clone()), "{wrong}");
        }
    }
}
