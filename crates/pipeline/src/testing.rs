//! A catalog of stage types like the built-in ones, for tests: nothing runs them.

use serde_json::{Value, json};

use crate::stage::{Batched, Catalog, Kind, StageType, Type};

/// Stage types of all kinds, with the names, types and main parameters of the built-in ones.
pub fn catalog() -> Catalog {
    let documents = || Type::collection(Type::record("document"));
    let chunks = || Type::collection(Type::record("chunk"));
    let vectors = || Type::collection(Type::record("vector"));
    let stages = [
        stage("documents.load", Kind::Source, Type::Any, documents()).with(
            json!({
                "path": { "type": "string", "description": "A folder or a file." },
                "glob": { "type": "string" },
                "part": {
                    "type": "object",
                    "properties": {
                        "items": { "type": "integer", "minimum": 1 },
                        "bytes": { "type": "integer", "minimum": 1 },
                    },
                    "additionalProperties": false,
                },
            }),
            &["path"],
        ),
        stage("text.split", Kind::Items, documents(), chunks())
            .pure()
            .with(
                json!({
                    "size": { "type": "integer", "minimum": 1 },
                    "overlap": { "type": "integer", "minimum": 0 },
                    "by": { "enum": ["recursive", "markdown", "token", "code"] },
                }),
                &[],
            ),
        stage("embed.text", Kind::Items, chunks(), vectors())
            .pure()
            .on("accelerator")
            .batched("model")
            .with(json!({ "model": { "type": "string" } }), &[]),
        stage(
            "vector.upsert",
            Kind::Items,
            vectors(),
            Type::collection(Type::Object),
        )
        .with(
            json!({
                "index": {
                    "anyOf": [
                        { "type": "string" },
                        {
                            "type": "object",
                            "properties": { "qdrant": {
                                "type": "object",
                                "properties": { "url": { "type": "string" } },
                                "required": ["url"],
                                "additionalProperties": false,
                            } },
                            "required": ["qdrant"],
                            "additionalProperties": false,
                        },
                    ],
                },
            }),
            &["index"],
        ),
        stage("vector.prune", Kind::Call, documents(), Type::Object)
            .with(json!({ "index": { "type": "string" } }), &["index"]),
        stage("llm.generate", Kind::Call, Type::Any, Type::Object)
            .on("accelerator")
            .with(
                json!({ "prompt": { "type": "string" }, "model": {} }),
                &["prompt"],
            ),
        stage(
            "text.title",
            Kind::Call,
            Type::record("document"),
            Type::String,
        )
        .pure()
        .with(json!({}), &[]),
        stage("http.request", Kind::Call, Type::Any, Type::Object).with(
            json!({
                "url": { "type": "string" },
                "method": { "enum": ["GET", "POST", "PUT", "DELETE"] },
                "body": {},
            }),
            &["url"],
        ),
    ];
    stages
        .into_iter()
        .map(|stage| (stage.name.clone(), stage))
        .collect()
}

fn stage(name: &str, kind: Kind, input: Type, output: Type) -> StageType {
    StageType {
        name: name.to_owned(),
        summary: format!("Stands for {name}."),
        kind,
        input,
        output,
        resource: "cpu".to_owned(),
        with: Value::Null,
        pure: false,
        batched: None,
    }
}

impl StageType {
    fn with(mut self, properties: Value, required: &[&str]) -> Self {
        self.with = json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        self
    }

    fn on(mut self, resource: &str) -> Self {
        resource.clone_into(&mut self.resource);
        self
    }

    fn batched(mut self, model: &str) -> Self {
        self.batched = Some(Batched {
            model: Some(model.to_owned()),
        });
        self
    }

    fn pure(mut self) -> Self {
        self.pure = true;
        self
    }
}
