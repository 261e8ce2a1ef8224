//! A server that is none: for examples and tests without a network. What it answers is made from
//! the request alone, so it is the same each time.
//!
//! - Without a schema it quotes: the line of the conversation that shares most words with the
//!   conversation's last line (the question, in most prompts), or the last line when none does.
//! - With a schema it makes the smallest value of it: `const`, `default`, the first of `examples`;
//!   of an `enum` the value that the last line mentions, else the first; for text the quote.
//! - Vectors are those of [`embed::Fake`](crate::embed::Fake).
//! - Asked for tensors it gives back those that it got.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::event::{Delta, Emit, Events, events};
use super::in_process::embed;
use super::{ChatRequest, Connector, Error, Finish, Message, Request, Role, Usage};

/// Deeper schemas, or ones that contain themselves, end in null.
const DEPTH_MAX: usize = 16;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fake;

impl Connector for Fake {
    fn start(&self, request: Request) -> Events {
        events(move |emit| async move { answer(request, &emit).await })
    }
}

async fn answer(request: Request, emit: &Emit) -> Result<(), Error> {
    match request {
        Request::Chat(request) => {
            let (text, usage) = chat(&request);
            let deltas = pieces(&text, request.stream);
            emit.whole(request.model, deltas, usage, Finish::Stop).await;
        }
        Request::Complete(request) => {
            let chat_request = ChatRequest {
                messages: vec![Message::new(Role::User, request.prompt)],
                ..ChatRequest::default()
            };
            let (text, usage) = chat(&chat_request);
            let deltas = pieces(&text, request.stream);
            emit.whole(request.model, deltas, usage, Finish::Stop).await;
        }
        Request::Embed(request) => {
            let fake = crate::embed::Fake::named(&request.model)?;
            let fake = fake.unwrap_or_else(crate::embed::Fake::usual);
            let model = request.model.clone();
            let (vectors, usage) = embed(&fake, request).await?;
            emit.whole(model, vec![vectors], usage, Finish::Stop).await;
        }
        Request::Infer(request) => {
            let wanted = |name: &str| {
                request.outputs.is_empty() || request.outputs.iter().any(|one| one == name)
            };
            let inputs = request.inputs.into_iter();
            let deltas = inputs
                .filter(|tensor| wanted(&tensor.name))
                .map(Delta::Tensor)
                .collect();
            emit.whole(request.model, deltas, Usage::default(), Finish::Stop)
                .await;
        }
    }
    Ok(())
}

/// A text as a server streams it: word by word.
fn pieces(text: &str, stream: bool) -> Vec<Delta> {
    let pieces: Vec<&str> = match stream {
        true => text.split_inclusive(' ').collect(),
        false => vec![text],
    };
    let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
    pieces.map(|piece| Delta::Text(piece.to_owned())).collect()
}

fn chat(request: &ChatRequest) -> (String, Usage) {
    let said: Vec<&str> = request
        .messages
        .iter()
        .filter(|message| message.role != Role::System)
        .flat_map(|message| message.content.lines())
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let quote = quote(&said);
    let text = match &request.schema {
        None => quote.to_owned(),
        Some(schema) => {
            let last = said.last().copied().unwrap_or_default();
            instance(schema, schema, quote, last, 0).to_string()
        }
    };
    let usage = Usage {
        input_tokens: request
            .messages
            .iter()
            .map(|message| message.content.split_whitespace().count() as u64)
            .sum(),
        output_tokens: text.split_whitespace().count() as u64,
    };
    (text, usage)
}

fn words(line: &str) -> BTreeSet<String> {
    line.split(|character: char| !character.is_alphanumeric())
        // Short words are in every line.
        .filter(|word| word.chars().count() > 3)
        .map(str::to_lowercase)
        .collect()
}

fn quote<'a>(lines: &[&'a str]) -> &'a str {
    let Some((last, before)) = lines.split_last() else {
        return "";
    };
    let asked = words(last);
    let mut best = (0, *last);
    for line in before {
        let shared = words(line).intersection(&asked).count();
        if shared > best.0 {
            best = (shared, line);
        }
    }
    best.1
}

fn instance(root: &Value, schema: &Value, quote: &str, last: &str, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    let make = |schema: &Value| instance(root, schema, quote, last, depth + 1);
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str) {
        let target = pointer
            .strip_prefix('#')
            .and_then(|path| root.pointer(path));
        return target.map_or(Value::Null, make);
    }
    if let Some(value) = schema.get("const").or_else(|| schema.get("default")) {
        return value.clone();
    }
    let list = |name: &str| schema.get(name).and_then(Value::as_array);
    if let Some(value) = list("examples").and_then(|values| values.first()) {
        return value.clone();
    }
    if let Some(values) = list("enum") {
        let last = last.to_lowercase();
        let mentioned = values.iter().find(|value| {
            value
                .as_str()
                .is_some_and(|text| last.contains(&text.to_lowercase()))
        });
        return mentioned.or(values.first()).cloned().unwrap_or_default();
    }
    for name in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = list(name).and_then(|schemas| schemas.first()) {
            return make(first);
        }
    }
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    match kind(schema) {
        "object" => {
            let mut object = Map::new();
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                for (name, schema) in properties {
                    object.insert(name.clone(), make(schema));
                }
            }
            Value::Object(object)
        }
        "array" => {
            let count = number("minItems").unwrap_or(1.0).clamp(0.0, 100.0) as usize;
            let item = schema.get("items").map_or(Value::Null, make);
            Value::Array(vec![item; count])
        }
        "integer" => json!(number("minimum").unwrap_or(0.0).ceil() as i64),
        "number" => json!(number("minimum").unwrap_or(0.0)),
        "boolean" => Value::Bool(false),
        "null" => Value::Null,
        _ => {
            let max = schema.get("maxLength").and_then(Value::as_u64);
            let max = max.map_or(usize::MAX, |max| max as usize);
            Value::String(quote.chars().take(max).collect())
        }
    }
}

fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or("string"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}
