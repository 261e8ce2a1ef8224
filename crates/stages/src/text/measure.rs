//! How long a text is, in the unit of the author's choice.

use tokenizers::Tokenizer;

/// Measures texts. The length of a text is taken to be the sum of the lengths of its pieces, which
/// is exact for characters and, where pieces end at white space, within a few per cent for tokens.
pub(crate) enum Measure {
    Characters,
    /// Word pieces, estimated on the high side, without a vocabulary.
    Estimate,
    Tokenizer(Box<Tokenizer>),
}

impl Measure {
    pub(crate) fn of(&self, text: &str) -> usize {
        match self {
            Measure::Characters => text.chars().count(),
            Measure::Estimate => estimate(text),
            // A text that the tokenizer refuses is bounded like any other.
            Measure::Tokenizer(tokenizer) => tokenizer
                .encode_fast(text, false)
                .map_or_else(|_| estimate(text), |encoding| encoding.len()),
        }
    }

    /// The length of white space between two pieces: vocabularies of word pieces have none for it.
    pub(crate) fn space(&self, text: &str) -> usize {
        match self {
            Measure::Characters => text.chars().count(),
            Measure::Estimate | Measure::Tokenizer(_) => 0,
        }
    }
}

/// Letters of one word piece, on average, in vocabularies of 30,000: common words are one piece,
/// rare ones are cut about this often.
const LETTERS_PER_PIECE: usize = 6;

/// About as many word pieces as a BERT vocabulary makes of `text`.
fn estimate(text: &str) -> usize {
    let mut pieces = 0;
    // Letters and digits of the word at hand.
    let mut word = 0usize;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            word += 1;
            continue;
        }
        if c.is_alphanumeric() && !is_ideograph(c) {
            // Vocabularies know other scripts less well.
            word += 2;
            continue;
        }
        pieces += word.div_ceil(LETTERS_PER_PIECE);
        word = 0;
        pieces += usize::from(!c.is_whitespace());
    }
    pieces + word.div_ceil(LETTERS_PER_PIECE)
}

/// Scripts without spaces: a piece for each character.
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_differ() {
        let rows = [
            ("", 0, 0),
            ("The tide turns.", 15, 4),
            ("incomprehensibility", 19, 4),
            ("潮汐", 2, 2),
            ("x = f(y);", 9, 7),
        ];
        for (text, characters, pieces) in rows {
            assert_eq!(Measure::Characters.of(text), characters, "{text}");
            assert_eq!(Measure::Estimate.of(text), pieces, "{text}");
        }
    }
}
