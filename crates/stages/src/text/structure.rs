//! Where a text may be cut, and how well it may be cut there.

use super::{code, markdown};

/// How strongly a place separates what stands before it from what comes after: the text is cut at
/// stronger places first.
pub(crate) type Level = u8;

/// Between two words, and where there are none between two characters.
pub(crate) const CHARACTER: Level = 0;
pub(crate) const WORD: Level = 1;
/// A line end within a sentence.
pub(crate) const LINE: Level = 2;
pub(crate) const SENTENCE: Level = 3;
/// A line end after a sentence, or before an item of a list.
pub(crate) const LINE_AFTER_SENTENCE: Level = 4;
pub(crate) const PARAGRAPH: Level = 8;
/// Before a heading of level 6; one of level 1 is 5 more.
pub(crate) const HEADING_6: Level = 16;
/// A form feed.
pub(crate) const PAGE: Level = 15;
/// Lines of code from here, the less indented the higher.
pub(crate) const CODE: Level = 32;

/// A place before a byte of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub(crate) at: usize,
    pub(crate) level: Level,
}

/// What the structure of a text is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    Plain,
    Markdown,
    Code,
}

impl Structure {
    /// Boundaries between lines and above, in order. None is at 0 or at the end.
    pub(crate) fn boundaries(self, text: &str) -> Vec<Boundary> {
        match self {
            Structure::Plain => lines(text),
            Structure::Markdown => markdown::boundaries(text),
            Structure::Code => code::boundaries(text),
        }
    }
}

/// Boundaries of plain text: paragraphs and lines.
pub(crate) fn lines(text: &str) -> Vec<Boundary> {
    let mut boundaries = Vec::new();
    let mut at = 0;
    // What stands before the line at hand: an empty line, the end of a sentence.
    let (mut gap, mut sentence) = (false, false);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            gap = true;
        } else {
            if at > 0 {
                let level = if line.starts_with('\u{c}') {
                    PAGE
                } else if gap {
                    PARAGRAPH
                } else if sentence || is_list_item(trimmed) {
                    LINE_AFTER_SENTENCE
                } else {
                    LINE
                };
                boundaries.push(Boundary { at, level });
            }
            gap = false;
            sentence = ends_sentence(trimmed);
        }
        at += line.len();
    }
    boundaries
}

/// Boundaries inside one line: sentences, words or characters, as `level` says.
pub(crate) fn within_line(text: &str, level: Level) -> Vec<Boundary> {
    let mut boundaries = Vec::new();
    if level == CHARACTER {
        // White space stays with what stands before it.
        let places = text.char_indices().skip(1);
        return places
            .filter(|(_, c)| !c.is_whitespace())
            .map(|(at, _)| Boundary { at, level })
            .collect();
    }
    let mut word = 0;
    for (at, c) in text.char_indices() {
        if !c.is_whitespace() {
            // Scripts that put no space after a sentence.
            let before = &text[..at];
            if level == SENTENCE && before.ends_with(['。', '！', '？']) {
                boundaries.push(Boundary { at, level });
            }
            continue;
        }
        let next = at + c.len_utf8();
        let begins = text[next..]
            .chars()
            .next()
            .is_some_and(|c| !c.is_whitespace());
        if begins && next < text.len() {
            let ended = text[word..at].trim_end();
            if !ended.is_empty() && (level == WORD || ends_sentence(ended)) {
                boundaries.push(Boundary { at: next, level });
            }
            word = next;
        }
    }
    boundaries
}

fn ends_sentence(text: &str) -> bool {
    text.trim_end_matches(['"', '\'', ')', ']', '”', '’', '»', '*', '_'])
        .ends_with(['.', '!', '?', ':', ';', '…', '。', '！', '？'])
}

fn is_list_item(line: &str) -> bool {
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    ["- ", "* ", "+ ", "• "]
        .iter()
        .any(|mark| line.starts_with(mark))
        || (digits.len() < line.len() && (digits.starts_with(". ") || digits.starts_with(") ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks each boundary with its level.
    pub(crate) fn marked(text: &str, boundaries: &[Boundary]) -> String {
        let mut marked = text.to_owned();
        for boundary in boundaries.iter().rev() {
            marked.insert_str(boundary.at, &format!("<{}>", boundary.level));
        }
        marked
    }

    #[test]
    fn lines_and_paragraphs() {
        let text = "One line\nof two. \nThree\n- item\n\n  \nNext\n\u{c}Page\n";
        assert_eq!(
            marked(text, &lines(text)),
            "One line\n<2>of two. \n<4>Three\n<4>- item\n\n  \n<8>Next\n<15>\u{c}Page\n"
        );
    }

    #[test]
    fn sentences_words_and_characters() {
        let text = "It is. (So \"it\" is!)  Yes";
        assert_eq!(
            marked(text, &within_line(text, SENTENCE)),
            "It is. <3>(So \"it\" is!)  <3>Yes"
        );
        assert_eq!(
            marked("a bc  d ", &within_line("a bc  d ", WORD)),
            "a <1>bc  <1>d "
        );
        assert_eq!(marked("aé", &within_line("aé", CHARACTER)), "a<0>é");
        assert_eq!(
            marked("潮。汐。", &within_line("潮。汐。", SENTENCE)),
            "潮。<3>汐。"
        );
    }
}
