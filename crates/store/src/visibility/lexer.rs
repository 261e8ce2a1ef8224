//! Text to tokens, each with the byte position where it starts.

use crate::Error;

/// A longer filter is refused before any work is done on it.
const FILTER_BYTES_MAX: usize = 256 * 1024;

/// A lexical element. Keywords are words: only the parser knows which words it looks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A bare word: a keyword or a name.
    Word(String),
    /// A back-quoted name.
    Quoted(String),
    Text(String),
    /// A number as written, without a sign.
    Number(String),
    /// An operator or a punctuation mark.
    Symbol(&'static str),
    End,
}

impl Token {
    /// The token as an error message shows it.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(word) => format!("`{}`", shorten(word)),
            Token::Quoted(name) => format!("name `{}`", shorten(name)),
            Token::Text(text) => format!("text '{}'", shorten(text)),
            Token::Number(number) => format!("number {}", shorten(number)),
            Token::Symbol(symbol) => format!("`{symbol}`"),
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

/// An error at a place in the filter, counted in characters from 1.
pub(super) fn error_at(filter: &str, at: usize, message: impl std::fmt::Display) -> Error {
    let position = filter[..at].chars().count() + 1;
    Error::InvalidFilter(format!("at position {position}: {message}"))
}

/// Longest first, so that `<=` is not read as `<` and `=`.
const SYMBOLS: &[&str] = &[
    "<=>", "<=", ">=", "<>", "!=", "==", "&&", "||", "=", "<", ">", "(", ")", ",", "-", "+", "*",
    "/", "%", ";", "!", "~", "^", "|", "&", ":", "?", ".", "[", "]", "{", "}", "#", "@", "$",
];

/// The tokens of a filter; the last one is [`Token::End`].
pub(super) fn tokens(filter: &str) -> Result<Vec<(usize, Token)>, Error> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(Error::InvalidFilter(format!(
            "the filter has {} bytes, at most {FILTER_BYTES_MAX} are allowed",
            filter.len()
        )));
    }
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(first) = filter[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (token, end) = match first {
            '\'' | '"' => text(filter, at, first)?,
            '`' => quoted(filter, at)?,
            '0'..='9' => number(filter, at)?,
            '.' if starts_with_digit(&filter[at + 1..]) => number(filter, at)?,
            _ if is_word(first) => word(filter, at),
            _ => symbol(filter, at)?,
        };
        out.push((at, token));
        at = end;
    }
    out.push((at, Token::End));
    Ok(out)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

fn word(filter: &str, start: usize) -> (Token, usize) {
    let rest = &filter[start..];
    let end = rest
        .char_indices()
        .find(|(at, c)| {
            // A dot belongs to a name only between two of its parts.
            let inside = *c == '.' && rest[at + 1..].starts_with(is_word);
            !is_word(*c) && !inside
        })
        .map_or(rest.len(), |(at, _)| at);
    (Token::Word(rest[..end].to_owned()), start + end)
}

/// A string literal. The quote is doubled or escaped with a backslash inside.
fn text(filter: &str, start: usize, quote: char) -> Result<(Token, usize), Error> {
    let mut value = String::new();
    let mut chars = filter[start + 1..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|(_, next)| *next == quote).is_some() {
                value.push(quote);
                continue;
            }
            return Ok((Token::Text(value), start + 1 + at + 1));
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        match chars.next() {
            Some((_, '0')) => value.push('\0'),
            Some((_, 'b')) => value.push('\u{8}'),
            Some((_, 'n')) => value.push('\n'),
            Some((_, 'r')) => value.push('\r'),
            Some((_, 't')) => value.push('\t'),
            Some((_, 'Z')) => value.push('\u{1a}'),
            Some((_, other)) => value.push(other),
            None => break,
        }
    }
    Err(error_at(
        filter,
        start,
        format!("the text is not closed: a {quote} is missing"),
    ))
}

fn quoted(filter: &str, start: usize) -> Result<(Token, usize), Error> {
    let rest = &filter[start + 1..];
    match rest.find('`') {
        Some(0) => Err(error_at(filter, start, "the name between ` and ` is empty")),
        Some(end) => Ok((Token::Quoted(rest[..end].to_owned()), start + 1 + end + 1)),
        None => Err(error_at(
            filter,
            start,
            "the name is not closed: a ` is missing",
        )),
    }
}

fn number(filter: &str, start: usize) -> Result<(Token, usize), Error> {
    let bytes = filter.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut end = digits(start);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end = digits(end + 1 + sign);
        }
    }
    if filter[end..].starts_with(is_word) {
        return Err(error_at(
            filter,
            start,
            "a number runs into a word: put text between quotes",
        ));
    }
    Ok((Token::Number(filter[start..end].to_owned()), end))
}

fn symbol(filter: &str, start: usize) -> Result<(Token, usize), Error> {
    let rest = &filter[start..];
    match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
        Some(symbol) => Ok((Token::Symbol(symbol), start + symbol.len())),
        None => {
            let c = rest.chars().next().unwrap_or_default();
            Err(error_at(
                filter,
                start,
                format!("unexpected character {c:?}"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, expected: &[Token]) {
        let found: Vec<Token> = tokens(filter).unwrap().into_iter().map(|t| t.1).collect();
        let (last, found) = found.split_last().unwrap();
        assert_eq!(*last, Token::End, "{filter}");
        assert_eq!(found, expected, "{filter}");
    }

    fn word(text: &str) -> Token {
        Token::Word(text.to_owned())
    }

    fn text(text: &str) -> Token {
        Token::Text(text.to_owned())
    }

    fn number(text: &str) -> Token {
        Token::Number(text.to_owned())
    }

    #[test]
    fn tokens_are_found() {
        use Token::Symbol;
        check("", &[]);
        check(" \t\n", &[]);
        check("A='x'", &[word("A"), Symbol("="), text("x")]);
        check("A<=1", &[word("A"), Symbol("<="), number("1")]);
        check(
            "A<>-1",
            &[word("A"), Symbol("<>"), Symbol("-"), number("1")],
        );
        check("a.b c_1", &[word("a.b"), word("c_1")]);
        check("a. b", &[word("a"), Symbol("."), word("b")]);
        check("größe 名前", &[word("größe"), word("名前")]);
        check("`a b`", &[Token::Quoted("a b".to_owned())]);
        check(
            "1 1.5 .5 1. 1e3 1E-3",
            &["1", "1.5", ".5", "1.", "1e3", "1E-3"].map(number),
        );
        check("'it''s'", &[text("it's")]);
        check(r"'it\'s'", &[text("it's")]);
        check(r#""say ""hi"" 'x'""#, &[text(r#"say "hi" 'x'"#)]);
        check(r"'\n\t\\\q\0'", &[text("\n\t\\q\0")]);
        check("''", &[text("")]);
        check("'日本 🎉'", &[text("日本 🎉")]);
    }

    #[test]
    fn bad_text_is_refused_with_its_place() {
        let rows = [
            (
                "A = 'x",
                "at position 5: the text is not closed: a ' is missing",
            ),
            (
                r"A = 'x\",
                "at position 5: the text is not closed: a ' is missing",
            ),
            (
                r"A = 'x\'",
                "at position 5: the text is not closed: a ' is missing",
            ),
            (
                "A = \"x'",
                "at position 5: the text is not closed: a \" is missing",
            ),
            (
                "`A = 1",
                "at position 1: the name is not closed: a ` is missing",
            ),
            ("``", "at position 1: the name between ` and ` is empty"),
            (
                "é = 1x",
                "at position 5: a number runs into a word: put text between quotes",
            ),
            (
                "A = 0x1F",
                "at position 5: a number runs into a word: put text between quotes",
            ),
            ("A = \u{1f389}", "at position 5: unexpected character '🎉'"),
            ("A = 'x' \0", "at position 9: unexpected character '\\0'"),
        ];
        for (filter, expected) in rows {
            match tokens(filter) {
                Err(Error::InvalidFilter(message)) => assert_eq!(message, expected, "{filter}"),
                other => panic!("{filter}: {other:?}"),
            }
        }
    }
}
