//! The structure of source code in any language, read off its empty lines and its indentation.

use super::structure::{Boundary, CODE, Level};

/// Indentation that still counts, in steps of [`COLUMNS_PER_STEP`].
const STEPS_MAX: usize = 15;
const COLUMNS_PER_STEP: usize = 2;

/// Lines after an empty line separate more strongly than others, less indented ones more strongly
/// than indented ones; a line that closes something belongs to what it closes, and one after a
/// comment, an attribute or a decorator to that.
pub(crate) fn boundaries(text: &str) -> Vec<Boundary> {
    let mut boundaries = Vec::new();
    let mut at = 0;
    let (mut gap, mut attached) = (false, false);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            gap = true;
        } else {
            if at > 0 {
                let level = if closes(trimmed) {
                    CODE
                } else {
                    CODE + 1 + strength(line, gap, attached)
                };
                boundaries.push(Boundary { at, level });
            }
            gap = false;
            attached = introduces(trimmed);
        }
        at += line.len();
    }
    boundaries
}

fn strength(line: &str, gap: bool, attached: bool) -> Level {
    let columns: usize = line
        .chars()
        .take_while(|c| c.is_whitespace())
        .map(|c| if c == '\t' { 4 } else { 1 })
        .sum();
    let outer = STEPS_MAX - columns.div_ceil(COLUMNS_PER_STEP).min(STEPS_MAX);
    let kind = match (gap, attached) {
        (true, _) => 2,
        (false, false) => 1,
        (false, true) => 0,
    };
    // Both fit: 3 kinds of 16 steps.
    (kind * (STEPS_MAX + 1) + outer) as Level
}

fn closes(line: &str) -> bool {
    line.starts_with(['}', ')', ']'])
        || line.starts_with("</")
        || [
            "end", "else", "elif", "fi", "done", "esac", "except", "finally",
        ]
        .iter()
        .any(|word| {
            line.strip_prefix(word)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
}

/// Whether the next line is what this one speaks of.
fn introduces(line: &str) -> bool {
    ["//", "/*", "*", "#", "@", "--", ";", "\"\"\""]
        .iter()
        .any(|mark| line.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_cut_apart_before_their_insides() {
        let text = "use a;\n\n/// Doc.\nfn one() {\n    let x = 1;\n\n    x\n}\n\nfn two() {\n}\n";
        let mut cuts: Vec<(u8, &str)> = boundaries(text)
            .into_iter()
            .map(|b| (b.level, text[b.at..].lines().next().unwrap().trim()))
            .collect();
        cuts.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
        let order: Vec<&str> = cuts.iter().map(|(_, line)| *line).collect();
        assert_eq!(
            order,
            [
                "/// Doc.",
                "fn two() {",
                "x",
                "let x = 1;",
                "fn one() {",
                "}",
                "}"
            ]
        );
    }
}
