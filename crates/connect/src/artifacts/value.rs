//! The claim check: large JSON travels as a reference to an artifact.

use std::pin::Pin;

use serde_json::Value;
use tidemill_pipeline::data::{Artifact, CLAIM_CHECK_BYTES};

use super::{Artifacts, Error, JSON};

/// References within referenced values within values: more is a mistake.
const DEPTH_MAX: u32 = 16;
/// What all references of a value may stand for together, in bytes: a few lines of JSON can name
/// the same large object any number of times.
const RESOLVED_BYTES_MAX: u64 = 256 * 1024 * 1024;

impl Artifacts {
    /// The value itself, or a reference to it if its JSON is larger than [`CLAIM_CHECK_BYTES`].
    pub async fn claim(&self, value: Value) -> Result<Value, Error> {
        let bytes = serde_json::to_vec(&value)
            .map_err(|error| Error::Invalid(format!("a value is not JSON: {error}")))?;
        if bytes.len() <= CLAIM_CHECK_BYTES {
            return Ok(value);
        }
        let artifact = self.put(bytes, JSON).await?;
        serde_json::to_value(artifact)
            .map_err(|error| Error::Invalid(format!("a reference is not JSON: {error}")))
    }

    /// The value with the JSON that its references stand for in their place, however deep they are.
    /// References to collections stay, and those to artifacts that are not JSON.
    pub async fn resolve(&self, value: Value) -> Result<Value, Error> {
        let mut bytes_left = RESOLVED_BYTES_MAX;
        self.resolve_in(value, 0, &mut bytes_left).await
    }

    fn resolve_in<'a>(
        &'a self,
        mut value: Value,
        depth: u32,
        bytes_left: &'a mut u64,
    ) -> Pin<Box<dyn Future<Output = Result<Value, Error>> + Send + 'a>> {
        Box::pin(async move {
            if let Some(artifact) = reference(&value)? {
                if artifact.media_type != JSON {
                    return Ok(value);
                }
                if depth == DEPTH_MAX {
                    return Err(Error::Invalid(format!(
                        "artifact {} is referred to through {DEPTH_MAX} others: pass it more directly",
                        artifact.digest
                    )));
                }
                let bytes = self.get(&artifact.digest).await?;
                *bytes_left = bytes_left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                    Error::Invalid(format!(
                        "a value stands for more than {} MiB: use a collection",
                        RESOLVED_BYTES_MAX >> 20
                    ))
                })?;
                let inner = serde_json::from_slice(&bytes).map_err(|error| {
                    Error::Invalid(format!("artifact {} is not JSON: {error}", artifact.digest))
                })?;
                return self.resolve_in(inner, depth + 1, bytes_left).await;
            }
            match &mut value {
                Value::Array(values) => {
                    for value in values.iter_mut().filter(|v| v.is_array() || v.is_object()) {
                        *value = self.resolve_in(value.take(), depth, bytes_left).await?;
                    }
                }
                Value::Object(fields) => {
                    for value in fields
                        .values_mut()
                        .filter(|v| v.is_array() || v.is_object())
                    {
                        *value = self.resolve_in(value.take(), depth, bytes_left).await?;
                    }
                }
                _ => {}
            }
            Ok(value)
        })
    }
}

/// The artifact that a value refers to, if it is a reference.
fn reference(value: &Value) -> Result<Option<Artifact>, Error> {
    let Some(fields) = value.as_object() else {
        return Ok(None);
    };
    if !fields.contains_key("$artifact") {
        return Ok(None);
    }
    serde_json::from_value(value.clone())
        .map(Some)
        .map_err(|error| {
            Error::Invalid(format!(
                "a reference to an artifact has `$artifact`, `bytes` and `media_type`: {error}"
            ))
        })
}
