use std::collections::BTreeSet;

use serde_json::{Map, json};

use super::*;

fn document(text: &str) -> Document {
    Document {
        uri: "a.txt".into(),
        text: text.into(),
        title: Some("A".into()),
        hash: "00".into(),
        media_type: "text/plain".into(),
        metadata: Map::new(),
    }
}

fn split(text: &str, structure: Structure, size: usize, overlap: usize) -> Vec<(String, Chunk)> {
    let splitter = Splitter {
        measure: &Measure::Characters,
        size,
        overlap,
    };
    splitter.split("a.txt", &document(text), structure)
}

/// A small generator, so that the texts are the same on every machine.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn function(&mut self) -> String {
        let mut text = format!("def f{}():", self.below(5_000));
        for _ in 0..2 + self.below(12) {
            text.push_str(&format!(
                "\n    v{} = {}",
                self.below(50),
                self.below(5_000)
            ));
        }
        text
    }

    fn paragraph(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.below(6) {
            for i in 0..4 + self.below(12) {
                if i > 0 {
                    text.push(' ');
                }
                text.push_str(&format!("w{}", self.below(5_000)));
            }
            text.push_str(". ");
        }
        text.trim_end().to_owned()
    }
}

fn ids(chunks: &[(String, Chunk)]) -> BTreeSet<&str> {
    chunks.iter().map(|(id, _)| id.as_str()).collect()
}

#[test]
fn the_same_text_gives_the_same_ids() {
    let mut draw = Draw(1);
    let text: Vec<String> = (0..50).map(|_| draw.paragraph()).collect();
    let text = text.join("\n\n");
    let first = split(&text, Structure::Plain, 500, 50);
    assert_eq!(first, split(&text, Structure::Plain, 500, 50));
    assert_eq!(ids(&first).len(), first.len());
    assert!(first.len() > 10);
    // The id is content and document, so it is the same on every machine and in every version.
    assert_eq!(
        chunk_id("a.txt", "The tide turns.", 0),
        "81626a5cebf1a285640ede76ae84fb5f"
    );
}

#[test]
fn an_edited_paragraph_changes_only_chunks_around_it() {
    let (characters, tokens) = (&Measure::Characters, &Measure::Estimate);
    for (structure, measure, size, overlap) in [
        (Structure::Plain, characters, 600, 0),
        (Structure::Markdown, characters, 600, 0),
        (Structure::Plain, characters, 600, 80),
        (Structure::Plain, tokens, 120, 0),
        (Structure::Plain, tokens, 120, 20),
        (Structure::Code, characters, 300, 0),
    ] {
        let mut draw = Draw(7);
        let mut paragraph = || match structure {
            Structure::Code => draw.function(),
            _ => draw.paragraph(),
        };
        let splitter = Splitter {
            measure,
            size,
            overlap,
        };
        let split = |text: &str| splitter.split("a.txt", &document(text), structure);
        let paragraphs: Vec<String> = (0..120).map(|_| paragraph()).collect();
        let text = paragraphs.join("\n\n");
        let before = split(&text);
        let known = ids(&before);
        let mut changed = 0;
        for edited in 0..paragraphs.len() {
            let mut edit = paragraphs.clone();
            match edited % 3 {
                // A word more, a new paragraph before it, the paragraph gone.
                0 => edit[edited].push_str(" Edited."),
                1 => edit.insert(edited, paragraph()),
                _ => drop(edit.remove(edited)),
            }
            let text = edit.join("\n\n");
            let after = split(&text);
            let new: Vec<usize> = (0..after.len())
                .filter(|&i| !known.contains(after[i].0.as_str()))
                .collect();
            changed += new.len();
            // All of them stand side by side near the edit: nothing is carried through the text.
            let at = edit[..edited].iter().map(|p| p.len() + 2).sum::<usize>();
            for &i in &new {
                let chunk = &after[i].1;
                let distance = chunk
                    .start
                    .saturating_sub(at)
                    .max(at.saturating_sub(chunk.end));
                assert!(
                    distance < 3 * 600,
                    "edit {edited}: chunk {i} is {distance} bytes off"
                );
            }
        }
        let per_edit = changed as f64 / paragraphs.len() as f64;
        assert!(
            per_edit < 2.5,
            "{structure:?} {size} {overlap}: {per_edit} chunks per edit"
        );
        assert!(before.len() > 40, "{structure:?} {size}: {}", before.len());
    }
}

#[test]
fn offsets_point_into_the_text() {
    let mut draw = Draw(3);
    let mut text = String::from("\n\n# Überschrift\n\n");
    for _ in 0..40 {
        text.push_str(&draw.paragraph());
        text.push_str("\n\n");
    }
    for structure in [Structure::Plain, Structure::Markdown, Structure::Code] {
        for overlap in [0, 60] {
            let chunks = split(&text, structure, 300, overlap);
            for (n, (_, chunk)) in chunks.iter().enumerate() {
                assert_eq!(chunk.text, text[chunk.start..chunk.end]);
                assert_eq!(chunk.text.trim(), chunk.text);
                assert_eq!(chunk.index as usize, n);
                assert!(chunk.text.chars().count() <= 300);
            }
            // Nothing but white space lies between chunks.
            for pair in chunks.windows(2) {
                let (a, b) = (&pair[0].1, &pair[1].1);
                assert!(b.start <= a.end || text[a.end..b.start].trim().is_empty());
            }
            let last = chunks.last().unwrap();
            assert!(text[last.1.end..].trim().is_empty());
        }
    }
}

#[test]
fn an_overlap_begins_with_a_sentence() {
    let text = "First one here. Second is short.\n\nThird begins a new paragraph now.";
    let chunks = split(text, Structure::Plain, 55, 20);
    let texts: Vec<&str> = chunks.iter().map(|(_, c)| c.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "First one here. Second is short.",
            "Second is short.\n\nThird begins a new paragraph now."
        ]
    );
}

#[test]
fn equal_texts_have_ids_of_their_own() {
    let text = "Same words.\n\nSame words.\n\nSame words.";
    let chunks = split(text, Structure::Plain, 12, 0);
    assert_eq!(chunks.len(), 3);
    assert_eq!(ids(&chunks).len(), 3);
}

#[test]
fn chunks_carry_what_is_known_of_the_document() {
    let text = "# One\n\nUnder one.\n\n## Two\n\nUnder two.\n";
    let chunks = split(text, Structure::Markdown, 20, 0);
    let got: Vec<_> = chunks
        .iter()
        .map(|(_, c)| json!([c.text, c.headings, c.metadata]))
        .collect();
    assert_eq!(
        got,
        [
            json!(["# One\n\nUnder one.", ["One"], {"title": "A"}]),
            json!(["## Two\n\nUnder two.", ["One", "Two"], {"title": "A"}]),
        ]
    );
}

#[test]
fn nothing_to_split_is_no_chunk() {
    for text in ["", "\n", " \n\n\t"] {
        assert!(split(text, Structure::Plain, 10, 0).is_empty(), "{text:?}");
    }
}

#[test]
fn code_keeps_its_indentation() {
    let text = "def one():\n    return 1\n\n\ndef two():\n    return 2\n";
    let chunks = split(text, Structure::Code, 30, 0);
    let texts: Vec<&str> = chunks.iter().map(|(_, c)| c.text.as_str()).collect();
    assert_eq!(
        texts,
        ["def one():\n    return 1", "def two():\n    return 2"]
    );
}
