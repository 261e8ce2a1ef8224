//! The payload of a task, read so that a wrong one is refused by the name of the field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tidemill_pipeline::plan::Demands;
use tidemill_pipeline::task::TaskInput;
use tidemill_stages::Error;

/// Fields that are not known are left alone: an interpreter may be newer than its workers.
pub(crate) fn decode(payload: &[u8]) -> Result<TaskInput, Error> {
    let mut fields = match serde_json::from_slice(payload) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(Error::invalid("the task's payload is not a JSON object")),
        Err(e) => {
            let what = format!("the task's payload is not JSON: {e}");
            return Err(Error::invalid(what));
        }
    };
    Ok(TaskInput {
        run: required(&mut fields, "run")?,
        stage: required(&mut fields, "stage")?,
        with: fields.remove("with").unwrap_or_default(),
        input: required(&mut fields, "input")?,
        scope: fields.remove("scope").unwrap_or_default(),
        cache: match fields.remove("cache") {
            Some(cache) => field("cache", cache)?,
            None => None,
        },
        demands: match fields.remove("demands") {
            Some(demands) => field("demands", demands)?,
            None => Demands::default(),
        },
    })
}

fn required<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<T, Error> {
    match fields.remove(name) {
        Some(value) => field(name, value),
        None => Err(Error::invalid(format!(
            "the task's payload has no field `{name}`"
        ))),
    }
}

/// Reads a value of the payload; `name` is for the message when it cannot be read.
pub(crate) fn field<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
        .map_err(|e| Error::invalid(format!("the task's payload, field `{name}`: {e}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_pipeline::task::Input;

    use super::*;

    #[test]
    fn a_payload_is_read_or_refused_by_field() {
        let good = json!({
            "run": {"id": "r", "pipeline": "p", "plan": "sha256:0"},
            "stage": "split",
            "input": {"value": 1},
            "something": "newer",
        });
        let task = decode(good.to_string().as_bytes()).unwrap();
        assert_eq!(task.input, Input::Value(json!(1)));
        assert_eq!((task.with, task.scope, task.cache), Default::default());

        for (field, value, part) in [
            ("run", json!(5), "field `run`"),
            ("run", json!({"id": "r"}), "missing field `pipeline`"),
            ("stage", json!(null), "field `stage`"),
            ("input", json!({"other": 1}), "unknown variant `other`"),
            ("cache", json!({"ttl_ms": "1h"}), "field `cache`"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let error = decode(bad.to_string().as_bytes()).unwrap_err();
            assert!(!error.kind.is_retryable());
            assert!(error.message.contains(part), "{}", error.message);
        }
        let mut short = good;
        short.as_object_mut().unwrap().remove("stage");
        let error = decode(short.to_string().as_bytes()).unwrap_err();
        assert!(error.message.contains("no field `stage`"));
        assert!(
            decode(b"[]")
                .unwrap_err()
                .message
                .contains("not a JSON object")
        );
        assert!(decode(b"{").unwrap_err().message.contains("not JSON"));
    }
}
