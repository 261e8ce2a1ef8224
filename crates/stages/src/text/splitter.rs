//! One document to chunks.

use std::collections::BTreeMap;

use super::markdown::{self, Heading};
use super::measure::Measure;
use super::pack::pack;
use super::structure::{SENTENCE, Structure, WORD, within_line};
use crate::records::{Chunk, Document, chunk_id};

/// How documents are split.
pub(crate) struct Splitter<'a> {
    pub(crate) measure: &'a Measure,
    /// Longest chunk, its overlap included.
    pub(crate) size: usize,
    /// How much of the text before it a chunk begins with; less than `size`.
    pub(crate) overlap: usize,
}

impl Splitter<'_> {
    /// The chunks of a document with their ids. `document` is the id of its item.
    pub(crate) fn split(
        &self,
        document: &str,
        of: &Document,
        structure: Structure,
    ) -> Vec<(String, Chunk)> {
        let text = of.text.as_str();
        let headings = match structure {
            Structure::Markdown => markdown::headings(text),
            _ => Vec::new(),
        };
        let mut metadata = of.metadata.clone();
        if let Some(title) = &of.title {
            metadata.insert("title".to_owned(), title.clone().into());
        }
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        let mut chunks = Vec::new();
        let mut previous = None;
        let limit = self.size - self.overlap;
        for (from, to) in pack(text, structure, self.measure, limit) {
            let Some((from, end)) = without_space(text, from, to, structure) else {
                continue;
            };
            let start = match previous.replace(from) {
                Some(earliest) => self.overlapping(text, earliest, from),
                None => from,
            };
            let piece = &text[start..end];
            let occurrence = seen.entry(piece).or_default();
            let id = chunk_id(document, piece, *occurrence);
            *occurrence += 1;
            chunks.push((
                id,
                Chunk {
                    document: document.to_owned(),
                    uri: of.uri.clone(),
                    hash: of.hash.clone(),
                    index: chunks.len() as u32,
                    text: piece.to_owned(),
                    start,
                    end,
                    headings: path(&headings, from, end),
                    metadata: metadata.clone(),
                },
            ));
        }
        chunks
    }

    /// Where a chunk whose own text begins at `start` begins with its overlap: at a sentence if
    /// one begins there, else at a word, and not before `earliest`.
    fn overlapping(&self, text: &str, earliest: usize, start: usize) -> usize {
        if self.overlap == 0 {
            return start;
        }
        let before = &text[earliest..start];
        let mut words: Vec<usize> = within_line(before, WORD).iter().map(|b| b.at).collect();
        words.insert(0, 0);
        let (mut begin, mut left) = (before.len(), self.overlap);
        for &word in words.iter().rev() {
            let piece = &before[word..begin];
            let length = self.measure.of(piece.trim_end())
                + self.measure.space(&piece[piece.trim_end().len()..]);
            if length > left {
                break;
            }
            left -= length;
            begin = word;
        }
        let taken = &before[begin..];
        let at_sentence = begin == 0
            || within_line(before, SENTENCE).iter().any(|b| b.at == begin)
            || before[..begin].ends_with('\n');
        let skip = match within_line(taken, SENTENCE).first() {
            Some(sentence) if !at_sentence => sentence.at,
            _ => 0,
        };
        earliest + begin + skip
    }
}

fn path(headings: &[Heading], start: usize, end: usize) -> Vec<String> {
    if headings.is_empty() {
        return Vec::new();
    }
    markdown::path(headings, start, end)
}

/// The range without white space around it; the indentation of code is kept. `None` if there is
/// nothing else.
fn without_space(
    text: &str,
    start: usize,
    end: usize,
    structure: Structure,
) -> Option<(usize, usize)> {
    let piece = text[start..end].trim_end();
    let body = piece.trim_start();
    if body.is_empty() {
        return None;
    }
    let mut blank = piece.len() - body.len();
    if structure == Structure::Code {
        blank = piece[..blank].rfind('\n').map_or(0, |at| at + 1);
    }
    Some((start + blank, start + piece.len()))
}

#[cfg(test)]
mod tests;
