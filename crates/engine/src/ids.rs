//! Identifiers are inputs of the engine, like time: this is where they come in.

/// The source of new identifiers. The server's draws from randomness and counters, the
/// simulator's from a seed.
pub trait Ids {
    /// Sixteen fresh bytes for a version-4 UUID.
    fn random(&self) -> [u8; 16];
    /// The next task sequence number of the store.
    fn task_seq(&self) -> i64;
    /// The number of a new run.
    fn run_no(&self) -> i64;
}

/// A version-7 UUID in text form: ordered by time, so that an index of them grows at its end.
pub fn uuid_at(ids: &dyn Ids, now: crate::Time) -> String {
    let mut b = ids.random();
    let ms = now.0 / 1_000_000;
    b[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    b[6] = (b[6] & 0x0f) | 0x70;
    b[8] = (b[8] & 0x3f) | 0x80;
    format_uuid(&b)
}

/// A version-4 UUID in text form.
pub fn uuid(ids: &dyn Ids) -> String {
    let mut b = ids.random();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    format_uuid(&b)
}

/// The text form of a UUID's bytes.
pub fn format_uuid(b: &[u8; 16]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut s = String::with_capacity(36);
    for (i, byte) in b.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            s.push('-');
        }
        s.push(HEX[(byte >> 4) as usize] as char);
        s.push(HEX[(byte & 15) as usize] as char);
    }
    s
}

/// The bytes of a UUID in its usual text form; `None` if it is not one.
pub fn parse_uuid(s: &str) -> Option<[u8; 16]> {
    let s = s.as_bytes();
    if s.len() != 36 || [8, 13, 18, 23].iter().any(|&i| s[i] != b'-') {
        return None;
    }
    let mut out = [0; 16];
    let mut digits = s.iter().filter(|&&c| c != b'-');
    for byte in &mut out {
        let hi = (*digits.next()? as char).to_digit(16)?;
        let lo = (*digits.next()? as char).to_digit(16)?;
        *byte = (hi * 16 + lo) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_round_trip() {
        let bytes = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        assert_eq!(format_uuid(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(parse_uuid(&format_uuid(&bytes)), Some(bytes));
        for bad in [
            "",
            "x",
            "00112233-4455-6677-8899-aabbccddeefg",
            "00112233+4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }
}
