//! The end of parallel branches: it puts their outputs together.

use serde_json::{Map, Value};
use tidemill_pipeline::plan::Join;

use super::Outcome;
use crate::context::Context;
use crate::evaluate;

pub(super) async fn run(cx: &Context, join: &Join) -> Outcome {
    let mut outputs = Map::new();
    for (branch, output) in &join.outputs {
        let what = format!("the output of `{branch}`");
        match evaluate::text(cx, &what, output).await {
            Ok(value) => outputs.insert(branch.clone(), value),
            Err(fault) => return fault.into(),
        };
    }
    Outcome::done(Value::Object(outputs))
}
