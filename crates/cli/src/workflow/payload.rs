//! Payloads in and out: JSON, as SDKs write it.

use std::collections::HashMap;

use tidemill_proto::api::common::v1::{Payload, Payloads};

use crate::exit::Failure;

const ENCODING: &str = "encoding";
const JSON: &[u8] = b"json/plain";

/// Arguments given as JSON texts; none is no payload at all.
pub(super) fn from_json(inputs: &[String]) -> Result<Payloads, Failure> {
    let payload = |input: &String| {
        serde_json::from_str::<serde_json::Value>(input).map_err(|error| {
            Failure::usage(format!(
                "--input {input}: not JSON: {error}. A text needs quotes: --input '\"text\"'"
            ))
        })?;
        Ok(Payload {
            metadata: HashMap::from([(ENCODING.to_owned(), JSON.to_vec())]),
            data: input.clone().into_bytes(),
            ..Default::default()
        })
    };
    Ok(Payloads {
        payloads: inputs.iter().map(payload).collect::<Result<_, Failure>>()?,
    })
}

/// As [`from_json`], but nothing for no inputs.
pub(super) fn optional(inputs: &[String]) -> Result<Option<Payloads>, Failure> {
    if inputs.is_empty() {
        Ok(None)
    } else {
        from_json(inputs).map(Some)
    }
}

/// A payload for people: JSON as it is, anything else by its size.
pub(super) fn text(payload: &Payload) -> String {
    let encoding = payload
        .metadata
        .get(ENCODING)
        .map_or(&b""[..], Vec::as_slice);
    if encoding == b"binary/null" {
        return "null".to_owned();
    }
    match std::str::from_utf8(&payload.data) {
        Ok(text) if encoding.starts_with(b"json/") => text.to_owned(),
        _ if encoding.is_empty() => format!("<{} bytes>", payload.data.len()),
        _ => format!(
            "<{} bytes {}>",
            payload.data.len(),
            String::from_utf8_lossy(encoding)
        ),
    }
}

/// All payloads, a line each.
pub(super) fn lines(payloads: &Option<Payloads>) -> String {
    let texts = payloads
        .iter()
        .flat_map(|payloads| &payloads.payloads)
        .map(text);
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_json() {
        let payloads = from_json(&["1".into(), "\"text\"".into()]).unwrap();
        assert_eq!(lines(&Some(payloads)), "1\n\"text\"");
        assert_eq!(from_json(&["text".into()]).unwrap_err().code(), 2);
        assert!(optional(&[]).unwrap().is_none());
    }
}
