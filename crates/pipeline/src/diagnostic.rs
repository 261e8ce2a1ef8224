//! What is wrong with a pipeline file, and where.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

/// A finding about a pipeline file. [`fmt::Display`] prints it with its line of the file and a
/// caret below the place.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A stable name of the kind of finding, such as `unknown-stage-type`.
    pub code: &'static str,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// Characters that the caret underlines; at least 1, and not beyond the line.
    pub length: usize,
    /// The line of the file.
    pub source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    /// The pipeline can be run, but perhaps not as its author means.
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

impl Diagnostic {
    /// As machines read it.
    pub fn to_json(&self) -> Value {
        json!({
            "severity": self.severity.name(),
            "code": self.code,
            "message": self.message,
            "help": self.help,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "length": self.length,
        })
    }
}

impl fmt::Debug for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, code, .. } = self;
        writeln!(f, "{}[{code}]: {message}", self.severity.name())?;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{margin}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{margin} |")?;
        // Tabs and other controls would move the caret away from its place.
        let source: String = self
            .source
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        writeln!(f, "{}", format!("{number} | {source}").trim_end())?;
        write!(
            f,
            "{margin} | {}{}",
            " ".repeat(self.column.saturating_sub(1)),
            "^".repeat(self.length.max(1))
        )?;
        if let Some(help) = &self.help {
            write!(f, "\n{margin} = help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// A range of bytes of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A file and what was found in it.
pub(crate) struct Findings {
    file: String,
    text: Arc<str>,
    found: Vec<(usize, Diagnostic)>,
}

impl Findings {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            text: text.into(),
            found: Vec::new(),
        }
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn text(&self) -> Arc<str> {
        self.text.clone()
    }

    pub(crate) fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.add(Severity::Error, code, span, message.into(), help.into());
    }

    pub(crate) fn warning(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.add(Severity::Warning, code, span, message.into(), help.into());
    }

    /// Takes over what was found in another file, which is reported at the place that named it.
    pub(crate) fn adopt(&mut self, span: Span, others: Vec<Diagnostic>) {
        self.found
            .extend(others.into_iter().map(|other| (span.start, other)));
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.found
            .iter()
            .any(|(_, diagnostic)| diagnostic.severity == Severity::Error)
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: Span,
        message: String,
        help: Option<String>,
    ) {
        let text = &*self.text;
        let start = floor(text, span.start);
        let end = floor(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let source = text[line_start..line_end].trim_end_matches('\r');
        let diagnostic = Diagnostic {
            severity,
            code,
            message,
            help,
            file: self.file.clone(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            length: text[start..end.min(line_end)]
                .trim_end()
                .chars()
                .count()
                .max(1),
            source: shorten(source),
        };
        // One place can be reached on two ways, such as the input of a stage in two branches.
        if !self.found.iter().any(|(_, known)| *known == diagnostic) {
            self.found.push((start, diagnostic));
        }
    }

    /// All that was found, by place.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|(a, x), (b, y)| {
            (a, x.severity, x.code, &x.message).cmp(&(b, y.severity, y.code, &y.message))
        });
        self.found.into_iter().map(|(_, found)| found).collect()
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A line that no terminal could show is cut.
fn shorten(line: &str) -> String {
    const LONGEST: usize = 400;
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}
