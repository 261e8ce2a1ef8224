//! The answer to a message that is too large. Clients know it by its text: with any other they
//! send the same message again, for ever (engine contract 12.3).

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

/// What tonic's decoder says of such a message, before and after decompression.
const TOO_LONG: &str = "Error, decoded message length too large";
const TOO_LONG_INFLATED: &str = "Error decompressing: size limit";

/// Replaces the decoder's answer by the one that clients know. `code` is the answer's.
pub(super) fn translate(response: Response<Body>, code: i32, limit: usize) -> Response<Body> {
    if code != Code::OutOfRange as i32 && code != Code::ResourceExhausted as i32 {
        return response;
    }
    let status = Status::from_header_map(response.headers());
    match status
        .as_ref()
        .and_then(|status| text(status.message(), limit))
    {
        Some(text) => Status::resource_exhausted(text).into_http(),
        None => response,
    }
}

fn text(message: &str, limit: usize) -> Option<String> {
    if message.starts_with(TOO_LONG_INFLATED) {
        return Some(format!(
            "grpc: received message after decompression larger than max {limit}"
        ));
    }
    if !message.starts_with(TOO_LONG) {
        return None;
    }
    let length = message
        .split_whitespace()
        .find(|word| word.parse::<u64>().is_ok());
    let length = length.unwrap_or("unknown");
    Some(format!(
        "grpc: received message larger than max ({length} vs. {limit})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let decoder = "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes";
        let inflated = "Error decompressing: size limit, of 4194304 bytes, exceeded while decompressing message";
        for (message, expected) in [
            (
                decoder,
                Some("grpc: received message larger than max (5000000 vs. 4194304)"),
            ),
            (
                inflated,
                Some("grpc: received message after decompression larger than max 4194304"),
            ),
            ("busy", None),
            ("", None),
        ] {
            assert_eq!(text(message, 4_194_304).as_deref(), expected);
        }
    }
}
