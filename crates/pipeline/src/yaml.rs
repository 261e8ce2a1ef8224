//! YAML text to a tree in which every key and value knows its place. The only module that knows
//! the YAML parser.
//!
//! Values are read by YAML 1.2's core schema: `yes` and `on` are strings. Aliases are copied, within
//! a bound; merge keys are plain keys, and so refused as unknown.

use std::collections::BTreeMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span as Marks};
use serde_json::{Number, Value};

use crate::diagnostic::{Findings, Span};

/// Bytes of a file that are read.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// Levels of lists and mappings.
const MAX_DEPTH: usize = 64;
/// Values in a file, aliases counted as often as they are used; a long text counts as several.
const MAX_VALUES: usize = 50_000;
const BYTES_PER_VALUE: usize = 256;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    List(Vec<Tree>),
    /// In the order of the file; keys are unique.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Tree,
}

impl Tree {
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            Kind::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    pub(crate) fn list(&self) -> Option<&[Tree]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Scalar(Value::Null))
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => items.iter().map(Tree::to_json).collect(),
            Kind::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// What it is, for messages.
    pub(crate) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(Value::Null) => "nothing",
            Kind::Scalar(Value::Bool(_)) => "a boolean",
            Kind::Scalar(Value::Number(_)) => "a number",
            Kind::Scalar(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// The place of the value at a JSON pointer, or of the nearest value around it; with it the
    /// place of its key, if it has one.
    pub(crate) fn at(&self, pointer: &str) -> (&Tree, Option<Span>) {
        let (mut tree, mut key) = (self, None);
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = match &tree.kind {
                Kind::Map(_) => tree
                    .entry(&part)
                    .map(|entry| (&entry.value, Some(entry.key_span))),
                Kind::List(items) => part
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|item| (item, None)),
                Kind::Scalar(_) => None,
            };
            let Some(next) = next else { break };
            (tree, key) = next;
        }
        (tree, key)
    }
}

/// Reads a file of one document. `None` after an error that leaves nothing to look at.
pub(crate) fn read(findings: &mut Findings) -> Option<Tree> {
    let text = findings.text();
    if text.len() > MAX_BYTES {
        findings.error(
            "file-too-large",
            Span::default(),
            format!("the file has {} bytes, more than {MAX_BYTES}", text.len()),
            "put data into files that stages read, and parts of the pipeline into others by `call`"
                .to_owned(),
        );
        return None;
    }
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(
            &text,
            granit_parser::options! { emit_comments: false },
        ),
        text: &text,
        anchors: BTreeMap::new(),
        values: 0,
        findings,
    };
    match reader.document() {
        Ok(tree) => tree,
        Err(Stop::Reported) => None,
        Err(Stop::Syntax(error)) => {
            syntax_error(&error, &text, findings);
            None
        }
    }
}

enum Stop {
    Syntax(Box<ScanError>),
    Reported,
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        Stop::Syntax(Box::new(error))
    }
}

struct Reader<'t, 'f> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    text: &'t str,
    /// With the number of values in each.
    anchors: BTreeMap<usize, (Tree, usize)>,
    values: usize,
    findings: &'f mut Findings,
}

impl<'t> Reader<'t, '_> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Stop> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Err(error)) => Err(error.into()),
            Some(Ok((event, marks))) => Ok(Some((event, span_of(&marks)))),
        }
    }

    fn document(&mut self) -> Result<Option<Tree>, Stop> {
        let mut first = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(..) if first.is_some() => {
                    self.findings.error(
                        "several-documents",
                        span,
                        "the file has more than one YAML document",
                        "a file holds one pipeline: remove the `---` and what follows".to_owned(),
                    );
                    return Ok(first);
                }
                Event::DocumentStart(..) => {}
                other => first = Some(self.value(other, span, 0)?),
            }
        }
        Ok(first)
    }

    fn value(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Tree, Stop> {
        let before = self.values;
        self.count(1, span)?;
        if depth > MAX_DEPTH {
            self.findings.error(
                "too-deep",
                span,
                format!("values are nested more than {MAX_DEPTH} deep"),
                "a pipeline never needs that; look for a bracket that is not closed".to_owned(),
            );
            return Err(Stop::Reported);
        }
        let anchor = event.anchor_id();
        let tree = match event {
            Event::Scalar(text, style, _, tag) => {
                self.count(text.len() / BYTES_PER_VALUE, span)?;
                let string = tag
                    .as_ref()
                    .is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let value = if string || !matches!(style, ScalarStyle::Plain) {
                    Value::String(text.into_owned())
                } else {
                    plain(&text)
                };
                Tree {
                    kind: Kind::Scalar(value),
                    span: self.trimmed(span),
                }
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                let end = loop {
                    match self.next()? {
                        Some((Event::SequenceEnd, end)) => break end.end,
                        Some((event, span)) => items.push(self.value(event, span, depth + 1)?),
                        None => break span.end,
                    }
                };
                Tree {
                    kind: Kind::List(items),
                    span: self.trimmed(Span {
                        start: span.start,
                        end,
                    }),
                }
            }
            Event::MappingStart(..) => self.mapping(span, depth)?,
            Event::Alias(id) => {
                let Some((mut tree, values)) = self.anchors.get(&id).cloned() else {
                    self.findings.error(
                        "recursive-alias",
                        span,
                        "this alias stands inside the value that it stands for",
                        "write the value out".to_owned(),
                    );
                    return Err(Stop::Reported);
                };
                self.count(values, span)?;
                tree.span = span;
                tree
            }
            _ => Tree {
                kind: Kind::Scalar(Value::Null),
                span,
            },
        };
        if let Some(id) = anchor.filter(|id| *id != 0) {
            self.anchors
                .insert(id, (tree.clone(), self.values - before));
        }
        Ok(tree)
    }

    fn mapping(&mut self, start: Span, depth: usize) -> Result<Tree, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let end = loop {
            let (event, span) = match self.next()? {
                Some((Event::MappingEnd, end)) => break end.end,
                Some(next) => next,
                None => break start.end,
            };
            let key = self.value(event, span, depth + 1)?;
            let Some((event, span)) = self.next()? else {
                break start.end;
            };
            let value = self.value(event, span, depth + 1)?;
            let name = match &key.kind {
                Kind::Scalar(Value::String(text)) => text.clone(),
                Kind::Scalar(Value::Null) => String::new(),
                Kind::Scalar(other) => other.to_string(),
                Kind::List(_) | Kind::Map(_) => {
                    self.findings.error(
                        "key-not-text",
                        key.span,
                        format!("a key must be text, not {}", key.what()),
                        "to begin a template with `{{`, put it in quotes: \"{{ … }}\"".to_owned(),
                    );
                    continue;
                }
            };
            if let Some(earlier) = entries.iter().find(|entry| entry.key == name) {
                let line = self.text[..earlier.key_span.start].matches('\n').count() + 1;
                self.findings.error(
                    "duplicate-key",
                    key.span,
                    format!("`{name}` is given twice"),
                    format!("the other one is on line {line}: remove one of them"),
                );
                continue;
            }
            entries.push(Entry {
                key: name,
                key_span: key.span,
                value,
            });
        };
        Ok(Tree {
            kind: Kind::Map(entries),
            span: self.trimmed(Span {
                start: start.start,
                end,
            }),
        })
    }

    fn count(&mut self, values: usize, span: Span) -> Result<(), Stop> {
        self.values += values;
        if self.values > MAX_VALUES {
            self.findings.error(
                "too-many-values",
                span,
                format!("the file stands for more than {MAX_VALUES} values"),
                "aliases that repeat aliases grow fast: write out what is needed".to_owned(),
            );
            return Err(Stop::Reported);
        }
        Ok(())
    }

    /// Without the white space after a value, which the parser counts to a block.
    fn trimmed(&self, span: Span) -> Span {
        let text = self.text.get(span.start..span.end).unwrap_or_default();
        Span {
            start: span.start,
            end: span.start + text.trim_end().len(),
        }
    }
}

fn span_of(marks: &Marks) -> Span {
    let start = marks.start.byte_offset().unwrap_or_default();
    Span {
        start,
        end: marks.end.byte_offset().unwrap_or(start).max(start),
    }
}

/// The value of an unquoted scalar.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number = match digits.as_bytes() {
        [b'0', b'x', ..] => u64::from_str_radix(&digits[2..], 16).ok().map(Number::from),
        [b'0', b'o', ..] => u64::from_str_radix(&digits[2..], 8).ok().map(Number::from),
        // Not `inf`, `nan` and the like, which Rust would read as numbers.
        [b'0'..=b'9' | b'.', ..] if !digits.ends_with('_') => {
            let whole = text.strip_prefix('+').unwrap_or(text);
            whole
                .parse::<u64>()
                .map(Number::from)
                .or_else(|_| whole.parse::<i64>().map(Number::from))
                .ok()
                .or_else(|| whole.parse::<f64>().ok().and_then(Number::from_f64))
        }
        _ => None,
    };
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn syntax_error(error: &ScanError, text: &str, findings: &mut Findings) {
    let start = error.marker().byte_offset().unwrap_or_else(|| {
        text.char_indices()
            .nth(error.marker().index())
            .map_or(text.len(), |(at, _)| at)
    });
    let start = start.min(text.len());
    let span = Span {
        start,
        end: start + 1,
    };
    let line_start = text
        .get(..start)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |at| at + 1);
    let line = text.get(line_start..).and_then(|rest| rest.lines().next());
    let line = line.unwrap_or_default();
    let indent = &line[..line.len() - line.trim_start().len()];
    if let Some(tab) = indent.find('\t') {
        let at = line_start + tab;
        findings.error(
            "tab",
            Span {
                start: at,
                end: at + 1,
            },
            "YAML does not indent with tabs",
            "use spaces".to_owned(),
        );
        return;
    }
    let (code, help) = match error.kind() {
        ErrorKind::UnknownAnchor => (
            "unknown-anchor",
            "define it before, with `&name`, or put the text in quotes",
        ),
        _ if line.contains(": {{") || line.contains("- {{") => {
            ("yaml-syntax", "put a template in quotes: \"{{ … }}\"")
        }
        _ if error.info().contains("mapping values") => {
            ("yaml-syntax", "text with `: ` in it must be in quotes")
        }
        _ => (
            "yaml-syntax",
            "look at this line and the one before: indentation, quotes, brackets",
        ),
    };
    findings.error(
        code,
        span,
        format!("this is not YAML: {}", error.info()),
        help.to_owned(),
    );
}
