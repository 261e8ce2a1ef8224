//! Cuts a text into pieces that are as long as allowed, in a way that an edit changes only what
//! is near it.
//!
//! The usual way, to fill piece after piece from the left, moves every later cut when a word is
//! added at the front: all chunks of the document get new ids and are embedded again. Here the text
//! falls into units (sections, paragraphs, sentences: the largest that fit), and neighbours are
//! joined as long as they fit together, across the weakest boundary first. Boundaries of one
//! strength come in an order that is drawn from the words after each, not from its position, so
//! text far from an edit is joined as before. Two pieces side by side never fit into one.

use super::measure::Measure;
use super::structure::{Boundary, CHARACTER, LINE, Level, SENTENCE, Structure, WORD, within_line};

/// Bytes of a unit's beginning that its rank is drawn from: an edit further on does not change it.
const RANK_BYTES: usize = 48;

/// No token is longer than this on average, so that a huge text need not be measured to know that
/// it does not fit.
const BYTES_PER_TOKEN_MAX: usize = 64;

/// A part of the text that is not cut any further.
struct Unit {
    start: usize,
    /// Strength of the boundary before it.
    level: Level,
    /// Length without the white space at its end.
    trimmed: usize,
    /// Length with it.
    full: usize,
}

/// Cuts `text` into ranges of bytes, each at most `limit` long, in order and without gaps. A single
/// character may be longer than a tiny limit.
pub(crate) fn pack(
    text: &str,
    structure: Structure,
    measure: &Measure,
    limit: usize,
) -> Vec<(usize, usize)> {
    let mut divide = Divide {
        text,
        measure,
        limit,
        units: Vec::new(),
    };
    divide.range(0, text.len(), Level::MAX, &structure.boundaries(text));
    join(text, divide.units, limit)
}

struct Divide<'a> {
    text: &'a str,
    measure: &'a Measure,
    limit: usize,
    units: Vec<Unit>,
}

impl Divide<'_> {
    /// Adds the units of `start..end`; `inner` are the boundaries of lines and above within it.
    fn range(&mut self, start: usize, end: usize, level: Level, inner: &[Boundary]) {
        let text = &self.text[start..end];
        let body = text.trim_end();
        if body.len() <= self.limit.saturating_mul(BYTES_PER_TOKEN_MAX) {
            let trimmed = self.measure.of(body);
            if trimmed <= self.limit {
                self.units.push(Unit {
                    start,
                    level,
                    trimmed,
                    full: trimmed + self.measure.space(&text[body.len()..]),
                });
                return;
            }
        }
        let strongest = inner.iter().map(|b| b.level).max().unwrap_or(CHARACTER);
        if strongest > SENTENCE {
            return self.cut(start, end, level, inner, strongest);
        }
        // Only lines at most: sentences are better, also those that go over several lines.
        for finer in [SENTENCE, LINE, WORD, CHARACTER] {
            let mut cuts = if finer == LINE {
                inner.to_vec()
            } else {
                within_line(text, finer)
            };
            if finer != LINE {
                cuts.iter_mut().for_each(|b| b.at += start);
            }
            if cuts.iter().any(|b| b.level == finer) {
                // Line boundaries stay known to the pieces of sentences.
                if finer == SENTENCE {
                    cuts.extend(inner.iter().filter(|b| b.level < SENTENCE));
                    cuts.sort_by_key(|b| (b.at, std::cmp::Reverse(b.level)));
                    cuts.dedup_by_key(|b| b.at);
                }
                return self.cut(start, end, level, &cuts, finer);
            }
        }
        // One character: there is nothing left to cut.
        let trimmed = self.measure.of(body);
        self.units.push(Unit {
            start,
            level,
            trimmed,
            full: trimmed,
        });
    }

    /// Cuts `start..end` at the boundaries of strength `at`.
    fn cut(&mut self, start: usize, end: usize, level: Level, inner: &[Boundary], at: Level) {
        let (mut start, mut level) = (start, level);
        for piece in inner.split_inclusive(|b| b.level == at) {
            let (next, within) = match piece.split_last() {
                Some((last, within)) if last.level == at => (last.at, within),
                _ => (end, piece),
            };
            self.range(start, next, level, within);
            (start, level) = (next, at);
        }
        if start < end {
            self.range(start, end, level, &[]);
        }
    }
}

/// Joins neighbours that fit together, across the weakest boundaries first.
fn join(text: &str, units: Vec<Unit>, limit: usize) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (1..units.len()).collect();
    order.sort_by_cached_key(|&unit| {
        let Unit { start, level, .. } = units[unit];
        (level, rank(&text.as_bytes()[start..]), unit)
    });
    // Length of all units before each.
    let before: Vec<usize> = units
        .iter()
        .scan(0, |sum, unit| {
            let before = *sum;
            *sum += unit.full;
            Some(before)
        })
        .collect();
    // A piece is a run of units. Its first unit knows its last and the other way round; what
    // stands for units within it is out of date and not read.
    let mut last_of: Vec<usize> = (0..units.len()).collect();
    let mut first_of = last_of.clone();
    let mut joined = vec![false; units.len()];
    for boundary in order {
        let (first, last) = (first_of[boundary - 1], last_of[boundary]);
        if before[last] - before[first] + units[last].trimmed <= limit {
            last_of[first] = last;
            first_of[last] = first;
            joined[boundary] = true;
        }
    }
    let mut starts: Vec<usize> = (0..units.len())
        .filter(|&unit| !joined[unit])
        .map(|unit| units[unit].start)
        .collect();
    starts.push(text.len());
    starts.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// FNV-1a over the beginning of a unit.
fn rank(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(RANK_BYTES)
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, structure: Structure, limit: usize) -> Vec<&str> {
        pack(text, structure, &Measure::Characters, limit)
            .into_iter()
            .map(|(start, end)| &text[start..end])
            .collect()
    }

    #[test]
    fn the_largest_parts_that_fit_stay_whole() {
        let rows: [(&str, usize, &[&str]); 5] = [
            ("", 10, &[""]),
            ("One. Two.", 20, &["One. Two."]),
            ("aaaa bbbb\n\ncccc", 10, &["aaaa bbbb\n\n", "cccc"]),
            (
                "Aaaa bb. Cccc dd.\n\nEeee.",
                9,
                &["Aaaa bb. ", "Cccc dd.\n\n", "Eeee."],
            ),
            ("a\n\n\n\n\n\n\n\nb", 4, &["a\n\n\n\n\n\n\n\n", "b"]),
        ];
        for (text, limit, expected) in rows {
            assert_eq!(
                pieces(text, Structure::Plain, limit),
                expected,
                "{text:?} {limit}"
            );
        }
    }

    #[test]
    fn pieces_fit_and_neighbours_would_not() {
        let text: String = (0..400)
            .map(|i| match i % 17 {
                0 => "\n\n".to_owned(),
                5 | 11 => format!("word{i}. "),
                _ => "w".repeat(i % 9 + 1) + " ",
            })
            .collect();
        for structure in [Structure::Plain, Structure::Markdown, Structure::Code] {
            for limit in [1, 7, 50, 200, 10_000] {
                let pieces = pieces(&text, structure, limit);
                assert_eq!(pieces.concat(), text);
                for piece in &pieces {
                    assert!(
                        piece.trim_end().chars().count() <= limit,
                        "{limit}: {piece:?}"
                    );
                }
                for pair in pieces.windows(2) {
                    let both = format!("{}{}", pair[0], pair[1].trim_end());
                    assert!(both.chars().count() > limit, "{limit}: {both:?}");
                }
            }
        }
    }
}
