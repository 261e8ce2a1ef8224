//! What a request says beside its message: the caller's deadline and who the caller is.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use tidemill_server::Call;

const TIMEOUT: &str = "grpc-timeout";
const CLIENT_NAME: &str = "client-name";

/// Reads the call's part of a request's headers.
pub(crate) fn from_headers(headers: &HeaderMap) -> Call {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Call {
        deadline: text(TIMEOUT)
            .and_then(timeout)
            .map(|timeout| Instant::now() + timeout),
        client_name: text(CLIENT_NAME).unwrap_or_default().to_owned(),
    }
}

/// A `grpc-timeout` header: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let unit = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(unit)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (text, expected) in [
            ("1H", ms(3_600_000)),
            ("2M", ms(120_000)),
            ("70S", ms(70_000)),
            ("11000m", ms(11_000)),
            ("5000u", ms(5)),
            ("1000000n", ms(1)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("+5S", None),
            ("5x", None),
            ("5ä", None),
            ("", None),
        ] {
            assert_eq!(timeout(text), expected, "{text:?}");
        }
    }

    #[test]
    fn who_calls() {
        let mut headers = HeaderMap::new();
        assert!(from_headers(&headers).deadline.is_none());
        headers.insert(CLIENT_NAME, "temporal-cli".parse().unwrap());
        headers.insert(TIMEOUT, "10S".parse().unwrap());
        let call = from_headers(&headers);
        assert_eq!(call.client_name, "temporal-cli");
        assert!(
            call.deadline
                .is_some_and(|deadline| deadline > Instant::now())
        );
    }
}
