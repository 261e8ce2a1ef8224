//! Text to tokens, each with the byte where it begins.

use tidemill_engine::Error;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A keyword or the name of a field.
    Word(String),
    /// A name between back quotes: never a keyword.
    Name(String),
    Text(String),
    Number(String),
    Symbol(&'static str),
    End,
}

/// Longest first, so that `<=` is not read as `<` and `=`.
const SYMBOLS: &[&str] = &["<=", ">=", "<>", "!=", "=", "<", ">", "(", ")"];

/// The tokens with the byte where each begins; the last one is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Error> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' | '"' => {
                let (value, length) = quoted(rest, first).ok_or_else(|| {
                    error_at(text, at, format_args!("a closing {first} is missing"))
                })?;
                (Token::Text(value), length)
            }
            '`' => {
                let end = rest[1..]
                    .find('`')
                    .ok_or_else(|| error_at(text, at, "a closing ` is missing"))?;
                (Token::Name(rest[1..=end].to_owned()), end + 2)
            }
            c if c.is_ascii_digit() || c == '-' => {
                let length = 1 + length_of(&rest[1..], |c| c.is_ascii_digit());
                (Token::Number(rest[..length].to_owned()), length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = length_of(rest, |c| c.is_alphanumeric() || c == '_');
                (Token::Word(rest[..length].to_owned()), length)
            }
            c => match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
                Some(symbol) => (Token::Symbol(symbol), symbol.len()),
                None => {
                    return Err(error_at(
                        text,
                        at,
                        format_args!("unexpected character {c:?}"),
                    ));
                }
            },
        };
        found.push((at, token));
        at += length;
    }
    found.push((at, Token::End));
    Ok(found)
}

/// The bytes at the beginning of `text` whose characters all belong.
fn length_of(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// A text between quotes, in which the quote is doubled or follows a backslash, and its length with
/// them; `None` when it does not end.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            value.push(chars.next()?.1);
        } else if c != quote {
            value.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Some((value, at + 1));
        }
    }
    None
}

impl Token {
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(text) | Token::Name(text) | Token::Number(text) => shorten(text),
            Token::Text(text) => format!("'{}'", shorten(text)),
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::End => "the end".to_owned(),
        }
    }
}

/// Keeps what a client wrote from flooding an error message.
pub(super) fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// An error at a place in the query, counted in characters from 1.
pub(super) fn error_at(text: &str, at: usize, message: impl std::fmt::Display) -> Error {
    let position = text[..at].chars().count() + 1;
    Error::InvalidArgument(format!("invalid query at position {position}: {message}"))
}
