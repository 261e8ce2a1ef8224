//! Short durations: `500ms`, `2s`, `10m`, `1h30m`, `7d`.

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// What a duration can be at most: ten years.
const MAX_MS: u64 = 3_653 * DAY_MS;

/// Milliseconds of a short duration.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        if number.is_empty() {
            return Err(format!("a number was expected at `{rest}`"));
        }
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS,
            "" => return Err(format!("`{number}` has no unit")),
            other => return Err(format!("there is no unit `{other}`")),
        };
        if unit_ms >= smallest {
            return Err("units go from large to small, each once".to_owned());
        }
        smallest = unit_ms;
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(unit_ms))
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= MAX_MS)
            .ok_or("it is longer than ten years")?;
        rest = after;
    }
    Ok(total)
}

/// A duration as [`parse_ms`] reads it.
pub fn show_ms(mut ms: u64) -> String {
    let mut text = String::new();
    for (unit, unit_ms) in [
        ("d", DAY_MS),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if ms >= unit_ms {
            text.push_str(&format!("{}{unit}", ms / unit_ms));
            ms %= unit_ms;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, ms) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
            assert_eq!(show_ms(ms), text);
        }
        for text in [
            "",
            "10",
            "m",
            "1m1h",
            "1w",
            "-1s",
            "1.5h",
            "1s1s",
            "99999999999999999999d",
        ] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }
}
