//! The end of parallel branches: it puts their outputs together.

use serde_json::{Map, Value};
use tidemill_pipeline::plan::Join;
use tidemill_pipeline::template;

use super::Outcome;
use crate::context::Context;

pub(super) fn run(cx: &Context, join: &Join) -> Outcome {
    let scope = cx.scope();
    let mut outputs = Map::new();
    for (branch, output) in &join.outputs {
        match template::evaluate_text(output, &scope) {
            Ok(value) => outputs.insert(branch.clone(), value),
            Err(error) => return Outcome::failed(format!("the output of `{branch}`: {error}")),
        };
    }
    Outcome::done(Value::Object(outputs))
}
