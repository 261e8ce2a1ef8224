//! Comparing run ids. They are stored as 16 bytes; a filter compares their text. Bytes are in the
//! same order as the canonical text, so a comparison with any text becomes one with bytes.

use std::ops::Bound;

/// The bytes of a run id in canonical text: lower case, with hyphens.
pub(super) fn parse(text: &str) -> Option<[u8; 16]> {
    match at_or_after(text) {
        Some((id, true)) => Some(id),
        _ => None,
    }
}

/// The bound for "from `text` on"; `None` when no run id is that large.
pub(super) fn lower(bound: Bound<&str>) -> Option<Bound<[u8; 16]>> {
    Some(match bound {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(text) => Bound::Included(at_or_after(text)?.0),
        Bound::Excluded(text) => match at_or_after(text)? {
            (id, true) => Bound::Excluded(id),
            (id, false) => Bound::Included(id),
        },
    })
}

/// The bound for "up to `text`".
pub(super) fn upper(bound: Bound<&str>) -> Bound<[u8; 16]> {
    let (text, included) = match bound {
        Bound::Unbounded => return Bound::Unbounded,
        Bound::Included(text) => (text, true),
        Bound::Excluded(text) => (text, false),
    };
    match at_or_after(text) {
        None => Bound::Unbounded,
        Some((id, true)) if included => Bound::Included(id),
        Some((id, _)) => Bound::Excluded(id),
    }
}

/// The first run id whose text is `text` or sorts after it, and whether it is `text` itself.
fn at_or_after(text: &str) -> Option<([u8; 16], bool)> {
    const DIGITS: u32 = 32;
    let mut value: u128 = 0;
    let mut read = 0;
    let mut bytes = text.bytes();
    // The ids that begin with the digits read so far, from `value` padded with zeros on.
    let padded = |value: u128, read: u32| value.checked_shl(4 * (DIGITS - read)).unwrap_or(0);
    let next_prefix = |value: u128, read: u32| match value.checked_add(1) {
        Some(next) if read == DIGITS || next >> (4 * read) == 0 => Some(padded(next, read)),
        _ => None,
    };
    for position in 0..36 {
        let Some(byte) = bytes.next() else {
            return Some((padded(value, read).to_be_bytes(), false));
        };
        if matches!(position, 8 | 13 | 18 | 23) {
            match byte {
                b'-' => continue,
                ..b'-' => return Some((padded(value, read).to_be_bytes(), false)),
                _ => return next_prefix(value, read).map(|id| (id.to_be_bytes(), false)),
            }
        }
        let (digit, exact) = match byte {
            b'0'..=b'9' => (byte - b'0', true),
            b'a'..=b'f' => (byte - b'a' + 10, true),
            ..b'0' => (0, false),
            b':'..b'a' => (10, false),
            b'g'.. => return next_prefix(value, read).map(|id| (id.to_be_bytes(), false)),
        };
        value = value << 4 | u128::from(digit);
        read += 1;
        if !exact {
            return Some((padded(value, read).to_be_bytes(), false));
        }
    }
    match bytes.next() {
        None => Some((value.to_be_bytes(), true)),
        Some(_) => next_prefix(value, read).map(|id| (id.to_be_bytes(), false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(id: [u8; 16]) -> String {
        uuid_text(&id)
    }

    fn uuid_text(id: &[u8; 16]) -> String {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        parts.join("-")
    }

    #[test]
    fn only_canonical_text_is_a_run_id() {
        let text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        assert_eq!(canonical(parse(text).unwrap()), text);
        for other in [
            "",
            "x",
            "0F1E2D3C-4b5a-6978-8796-a5b4c3d2e1f0",
            &text[1..],
            &format!("{text}0"),
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn bytes_compare_as_text_does() {
        let ids: Vec<[u8; 16]> = [
            "00000000-0000-0000-0000-000000000000",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1ef",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f1",
            "0f1e2d3c-4b5b-0000-0000-000000000000",
            "9fffffff-ffff-ffff-ffff-ffffffffffff",
            "a0000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ]
        .map(|text| parse(text).unwrap())
        .to_vec();
        let mut texts: Vec<String> = ids.iter().map(uuid_text).collect();
        for extra in [
            "",
            "-",
            "0",
            "0f",
            "0f1e2d3c",
            "0f1e2d3c-",
            "0f1e2d3c-4b5a",
            "0f1e2d3c,",
            "0f1e2d3c.",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0x",
            "0f1e2d3c4b5a",
            "9:",
            "9z",
            "A",
            "Zed",
            "f",
            "fg",
            "g",
            "ffffffff-ffff-ffff-ffff-ffffffffffffa",
            "ffffffff-ffff-ffff-ffff-fffffffffffg",
            "ffffffffx",
            "é",
            "日本",
        ] {
            texts.push(extra.to_owned());
        }
        for text in &texts {
            for id in &ids {
                let shown = uuid_text(id);
                let above = |bound| {
                    lower(bound).is_some_and(|low| match low {
                        Bound::Unbounded => true,
                        Bound::Included(low) => *id >= low,
                        Bound::Excluded(low) => *id > low,
                    })
                };
                let below = |bound| match upper(bound) {
                    Bound::Unbounded => true,
                    Bound::Included(high) => *id <= high,
                    Bound::Excluded(high) => *id < high,
                };
                assert_eq!(
                    above(Bound::Included(text)),
                    shown >= *text,
                    "{shown} >= {text}"
                );
                assert_eq!(
                    above(Bound::Excluded(text)),
                    shown > *text,
                    "{shown} > {text}"
                );
                assert_eq!(
                    below(Bound::Included(text)),
                    shown <= *text,
                    "{shown} <= {text}"
                );
                assert_eq!(
                    below(Bound::Excluded(text)),
                    shown < *text,
                    "{shown} < {text}"
                );
            }
        }
    }
}
