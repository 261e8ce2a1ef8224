//! Sizes of memory as people write them, `512MiB`, `16GiB`, `2GB`, and read them, `9.5 GiB`.

const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];
/// More than what people tell apart, and the sum still fits.
const LARGEST: u64 = 1 << 60;

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
        .filter(|bytes| (1..=LARGEST).contains(bytes))
        .ok_or_else(wrong)
}

/// Shows what is needed, rounded up to a tenth, so that it never reads as no more than what
/// [there is](down).
pub fn up(bytes: u64) -> String {
    show(bytes, u128::div_ceil)
}

/// Shows what there is, rounded down to a tenth.
pub fn down(bytes: u64) -> String {
    show(bytes, |tenths, unit| tenths / unit)
}

fn show(bytes: u64, divide: impl Fn(u128, u128) -> u128) -> String {
    let (name, unit) = *UNITS
        .iter()
        .find(|(_, unit)| bytes >= *unit)
        .unwrap_or(&UNITS[UNITS.len() - 1]);
    let tenths = divide(u128::from(bytes) * 10, u128::from(unit));
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::{down, parse, up};

    #[test]
    fn sizes_are_read_with_their_unit() {
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
            "99999999TiB",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        for (bytes, shown_up, shown_down) in [
            (0, "0 B", "0 B"),
            (1023, "1023 B", "1023 B"),
            (1 << 10, "1 KiB", "1 KiB"),
            (80 << 30, "80 GiB", "80 GiB"),
            ((80 << 30) + 1, "80.1 GiB", "80 GiB"),
            ((9 << 30) + (1 << 29), "9.5 GiB", "9.5 GiB"),
            (u64::MAX, "16777216 TiB", "16777215.9 TiB"),
        ] {
            assert_eq!(up(bytes), shown_up, "{bytes}");
            assert_eq!(down(bytes), shown_down, "{bytes}");
        }
    }
}
