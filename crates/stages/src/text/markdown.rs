//! The structure of Markdown: blocks and headings.

use std::collections::BTreeMap;

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::structure::{Boundary, HEADING_6, LINE, Level, PARAGRAPH, lines};

/// A heading and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heading {
    pub(crate) at: usize,
    /// 1 to 6.
    pub(crate) level: u8,
    pub(crate) text: String,
}

/// A document's blocks.
struct Blocks {
    /// Where each block outside of all others begins.
    starts: Vec<usize>,
    headings: Vec<Heading>,
}

fn options() -> Options {
    Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
}

fn blocks(text: &str) -> Blocks {
    let mut blocks = Blocks {
        starts: Vec::new(),
        headings: Vec::new(),
    };
    let mut depth = 0;
    let mut heading: Option<Heading> = None;
    for (event, range) in Parser::new_ext(text, options()).into_offset_iter() {
        match event {
            Event::Start(tag) => {
                if depth == 0 {
                    blocks.starts.push(range.start);
                    // Headings in quotes and lists do not head what follows.
                    if let Tag::Heading { level, .. } = tag {
                        heading = Some(Heading {
                            at: range.start,
                            level: number(level),
                            text: String::new(),
                        });
                    }
                }
                depth += 1;
            }
            Event::End(end) => {
                depth -= 1;
                if let (TagEnd::Heading(_), Some(mut done)) = (end, heading.take_if(|_| depth == 0))
                {
                    done.text = done.text.trim().to_owned();
                    blocks.headings.push(done);
                }
            }
            Event::Text(said) | Event::Code(said) => {
                if let Some(heading) = &mut heading {
                    heading.text.push_str(&said);
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                if let Some(heading) = &mut heading {
                    heading.text.push(' ');
                }
            }
            Event::Rule if depth == 0 => blocks.starts.push(range.start),
            _ => {}
        }
    }
    blocks
}

fn number(level: HeadingLevel) -> u8 {
    level as u8
}

/// The headings of a document, in order.
pub(crate) fn headings(text: &str) -> Vec<Heading> {
    blocks(text).headings
}

/// Blocks are paragraphs, a heading separates by its level, and what comes directly after a
/// heading hardly separates from it.
pub(crate) fn boundaries(text: &str) -> Vec<Boundary> {
    let Blocks { starts, headings } = blocks(text);
    let mut of_heading = headings.iter().peekable();
    let mut blocks: Vec<Boundary> = Vec::new();
    let mut after_heading = false;
    for start in starts {
        while of_heading.next_if(|heading| heading.at < start).is_some() {}
        let heading = of_heading.next_if(|heading| heading.at == start);
        let level: Level = match heading {
            Some(heading) => HEADING_6 + 6 - heading.level,
            // A heading must not end up alone: it stays with the first sentence after it.
            None if after_heading => LINE,
            None => PARAGRAPH,
        };
        after_heading = heading.is_some();
        if start > 0 {
            blocks.push(Boundary { at: start, level });
        }
    }
    // Inside blocks there are lines; an empty line in a list or in code is no paragraph.
    let mut inner = lines(text)
        .into_iter()
        .map(|b| Boundary {
            at: b.at,
            level: b.level.min(PARAGRAPH - 3),
        })
        .peekable();
    let mut all = Vec::new();
    for block in blocks {
        while let Some(line) = inner.next_if(|line| line.at < block.at) {
            all.push(line);
        }
        inner.next_if(|line| line.at == block.at);
        all.push(block);
    }
    all.extend(inner);
    all
}

/// The front matter of a document, and what comes after it.
pub(crate) fn front_matter(text: &str) -> (BTreeMap<&str, &str>, &str) {
    let parts = text.strip_prefix("---\n").and_then(|rest| {
        let (front, body) = rest.split_once("\n---")?;
        // The closing line has nothing else on it.
        let (end, body) = body.split_once('\n').unwrap_or((body, ""));
        end.trim().is_empty().then_some((front, body))
    });
    let Some((front, body)) = parts else {
        return (BTreeMap::new(), text);
    };
    let fields = front
        .lines()
        // What is nested or a list is left: it takes a YAML parser, and is rarely of use here.
        .filter(|line| !line.starts_with([' ', '\t', '-', '#']))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches(['"', '\''])))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    (fields, body.trim_start_matches('\n'))
}

/// The first heading of a document.
pub(crate) fn title(text: &str) -> Option<String> {
    let first = headings(text).into_iter().next()?;
    (!first.text.is_empty()).then_some(first.text)
}

/// The headings that all of `start..end` stands under, outermost first.
pub(crate) fn path(headings: &[Heading], start: usize, end: usize) -> Vec<String> {
    let mut open: Vec<&Heading> = Vec::new();
    let mut common: Option<Vec<&Heading>> = None;
    for heading in headings {
        if heading.at >= end {
            break;
        }
        if heading.at > start && common.is_none() {
            common = Some(open.clone());
        }
        open.retain(|above| above.level < heading.level);
        open.push(heading);
        if heading.at > start
            && let Some(common) = &mut common
        {
            let same = common.iter().zip(&open).take_while(|(a, b)| a == b).count();
            common.truncate(same);
        }
    }
    let path = common.unwrap_or(open);
    path.into_iter()
        .map(|heading| heading.text.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# Mills

Intro.

## Tide `mills`

They turn.

```
code

# no heading
```

## Wind

Sails.
";

    #[test]
    fn blocks_and_headings_separate() {
        let cuts: Vec<(&str, u8)> = boundaries(TEXT)
            .into_iter()
            .map(|b| (TEXT[b.at..].lines().next().unwrap(), b.level))
            .collect();
        assert_eq!(
            cuts,
            [
                ("Intro.", LINE),
                ("## Tide `mills`", HEADING_6 + 4),
                ("They turn.", LINE),
                ("```", PARAGRAPH),
                ("code", 2),
                ("# no heading", 5),
                ("```", 2),
                ("## Wind", HEADING_6 + 4),
                ("Sails.", LINE),
            ]
        );
    }

    #[test]
    fn a_range_stands_under_the_headings_common_to_all_of_it() {
        let headings = headings(TEXT);
        let at = |word| TEXT.find(word).unwrap();
        let rows: [(&str, &str, &[&str]); 5] = [
            ("Intro", "## Tide", &["Mills"]),
            ("## Tide", "## Wind", &["Mills", "Tide mills"]),
            ("They", "code", &["Mills", "Tide mills"]),
            ("They", "Sails", &["Mills"]),
            ("# Mills", "Sails", &["Mills"]),
        ];
        for (start, end, expected) in rows {
            assert_eq!(
                path(&headings, at(start), at(end)),
                expected,
                "{start}..{end}"
            );
        }
    }

    #[test]
    fn front_matter_is_taken_apart() {
        let text = "---\ntitle: \"Front\"\ntags:\n  - a\nby: Me\n---\n\n# First\n";
        let (fields, body) = front_matter(text);
        assert_eq!(
            fields.into_iter().collect::<Vec<_>>(),
            [("by", "Me"), ("title", "Front")]
        );
        assert_eq!(body, "# First\n");
        for text in ["", "---\n", "---\nno end", "---\na: b\n---- no", "# x"] {
            assert_eq!(front_matter(text).1, text);
        }
    }

    #[test]
    fn the_first_heading_is_the_title() {
        let rows = [
            ("text\n\n# *First* one\n## Second\n", Some("First one")),
            ("no heading", None),
        ];
        for (text, expected) in rows {
            assert_eq!(title(text).as_deref(), expected);
        }
    }
}
