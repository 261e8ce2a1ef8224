//! Sizes of memory as people write them: `512MiB`, `16GiB`, `2GB`.

/// Reads a size and returns it in bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 512MiB, 16GiB or 2GB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let value: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim_start() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    value
        .checked_mul(unit)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(wrong)
}

/// Writes bytes as people read them: `82 GiB`, `1.5 GiB`, `512 B`.
pub fn format(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let rounded = (value * 10.0).round() / 10.0;
    format!("{rounded} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn sizes_are_written_with_one_decimal_at_most() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1536, "1.5 KiB"),
            (82 << 30, "82 GiB"),
            (1 << 50, "1024 TiB"),
        ] {
            assert_eq!(format(bytes), text);
        }
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(parse("512MiB"), Ok(512 << 20));
        assert_eq!(parse("2 GB"), Ok(2_000_000_000));
        for wrong in [
            "",
            "16",
            "GiB",
            "1.5GiB",
            "0GiB",
            "-1GiB",
            "16gib",
            "99999999999TiB",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
