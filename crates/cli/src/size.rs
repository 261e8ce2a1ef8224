//! Sizes of memory on the command line: `512MiB`, `16GiB`, `2GB`.

/// Reads a size and returns it in bytes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
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

#[cfg(test)]
mod tests {
    use super::parse;

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
