//! Which format a file or a response is in.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

/// How documents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Text,
    Markdown,
    Html,
    Pdf,
    /// A document for each row; the first row names the columns.
    Csv,
    /// As `csv`, with tabs.
    Tsv,
    /// A document for each line: a JSON object.
    Jsonl,
    /// A document for each row, in builds with the feature `parquet`.
    Parquet,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain",
            Format::Markdown => "text/markdown",
            Format::Html => "text/html",
            Format::Pdf => "application/pdf",
            Format::Csv => "text/csv",
            Format::Tsv => "text/tab-separated-values",
            Format::Jsonl => "application/jsonl",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Whether each row is a document.
    pub(crate) fn has_rows(self) -> bool {
        matches!(
            self,
            Format::Csv | Format::Tsv | Format::Jsonl | Format::Parquet
        )
    }

    /// Whether its files are text.
    pub(crate) fn is_text(self) -> bool {
        !matches!(self, Format::Pdf | Format::Parquet)
    }

    /// By the name's extension; `None` if that says nothing.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "txt" | "text" | "log" => Format::Text,
            "md" | "markdown" | "mdx" => Format::Markdown,
            "html" | "htm" | "xhtml" => Format::Html,
            "pdf" => Format::Pdf,
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            "jsonl" | "ndjson" => Format::Jsonl,
            "parquet" => Format::Parquet,
            _ => return None,
        })
    }

    /// By the media type of a response, without its parameters; `None` if that says nothing.
    pub(crate) fn of_media_type(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "text/markdown" => Format::Markdown,
            "text/html" | "application/xhtml+xml" => Format::Html,
            "application/pdf" => Format::Pdf,
            "text/csv" => Format::Csv,
            "text/tab-separated-values" => Format::Tsv,
            "application/jsonl" | "application/x-ndjson" | "application/jsonlines" => Format::Jsonl,
            "application/vnd.apache.parquet" => Format::Parquet,
            "application/json" | "application/xml" => Format::Text,
            // Servers send Markdown and CSV as text/plain: the name in the URL may know better.
            _ => return None,
        })
    }
}
