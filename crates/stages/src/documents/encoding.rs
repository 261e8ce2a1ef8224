//! Bytes to text.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// How many bytes are looked at to tell text from binary, and for an encoding declared in HTML.
pub(crate) const SNIFF_BYTES: usize = 8 * 1024;

/// Text, and the encoding it was in unless that is UTF-8.
pub(crate) struct Decoded {
    pub(crate) text: String,
    pub(crate) encoding: Option<&'static str>,
}

/// Decodes with the encoding of a byte order mark, else UTF-8, else the `declared` one, else
/// windows-1252, in which every byte means something and which contains Latin-1. Line ends become
/// `\n`.
pub(crate) fn decode(bytes: &[u8], declared: Option<&str>) -> Decoded {
    let encoding = match Encoding::for_bom(bytes) {
        Some((encoding, _)) => encoding,
        None if std::str::from_utf8(bytes).is_ok() => UTF_8,
        None => declared
            .and_then(|label| Encoding::for_label(label.trim().as_bytes()))
            // Declared, and yet it is not.
            .filter(|encoding| *encoding != UTF_8)
            .unwrap_or(WINDOWS_1252),
    };
    let (text, _) = encoding.decode_with_bom_removal(bytes);
    let text = if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        text.into_owned()
    };
    Decoded {
        text,
        encoding: (encoding != UTF_8).then(|| encoding.name()),
    }
}

/// Whether the beginning of a file says that it is no text.
pub(crate) fn is_binary(head: &[u8]) -> bool {
    let head = &head[..head.len().min(SNIFF_BYTES)];
    let wide = matches!(Encoding::for_bom(head), Some((e, _)) if e == UTF_16LE || e == UTF_16BE);
    !wide && head.contains(&0)
}

/// The encoding that a page declares in a `meta` element.
pub(crate) fn declared_in_html(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(SNIFF_BYTES)]).to_ascii_lowercase();
    let after = &head[head.find("charset=")? + "charset=".len()..];
    let label: String = after
        .trim_start_matches(['"', '\''])
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_:.".contains(*c))
        .collect();
    (!label.is_empty()).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_becomes_text() {
        type Row<'a> = (&'a [u8], Option<&'a str>, &'a str, Option<&'a str>);
        let rows: [Row; 7] = [
            (b"caf\xc3\xa9", None, "café", None),
            (b"\xef\xbb\xbfcaf\xc3\xa9", None, "café", None),
            (b"caf\xe9 \x96", None, "café –", Some("windows-1252")),
            (b"\xff\xfeh\0i\0", None, "hi", Some("UTF-16LE")),
            (b"\xfe\xff\0h\0i", None, "hi", Some("UTF-16BE")),
            (b"\x82\xa0", Some("shift_jis"), "あ", Some("Shift_JIS")),
            (b"a\r\nb\rc\n", None, "a\nb\nc\n", None),
        ];
        for (bytes, declared, text, encoding) in rows {
            let decoded = decode(bytes, declared);
            assert_eq!(decoded.text, text);
            assert_eq!(decoded.encoding, encoding, "{text}");
        }
    }

    #[test]
    fn zero_bytes_are_binary_unless_they_are_utf16() {
        assert!(is_binary(b"\x89PNG\r\n\x1a\n\0\0\0"));
        assert!(!is_binary(b"\xff\xfeh\0i\0"));
        assert!(!is_binary(b"plain"));
    }

    #[test]
    fn a_page_declares_its_encoding() {
        let rows: [(&[u8], Option<&str>); 3] = [
            (b"<meta charset=\"Shift_JIS\">", Some("shift_jis")),
            (
                b"<meta http-equiv=Content-Type content='text/html; charset=koi8-r'>",
                Some("koi8-r"),
            ),
            (b"<p>none</p>", None),
        ];
        for (page, expected) in rows {
            assert_eq!(declared_in_html(page).as_deref(), expected);
        }
    }
}
