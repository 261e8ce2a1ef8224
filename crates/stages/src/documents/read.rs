//! One file or response to documents. Everything here blocks: it runs on blocking threads.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::encoding::{SNIFF_BYTES, declared_in_html, decode, is_binary};
use super::format::Format;
use super::html::{self, HtmlMode};
use super::parquet;
use super::pdf::{self, PdfReader};
use super::rows::{self, Row, Rows};
use crate::records::{Document, sha256};
use crate::text::{front_matter, markdown_title};

/// What documents are read with.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) format: Option<Format>,
    pub(crate) max_bytes: u64,
    pub(crate) html: HtmlMode,
    pub(crate) rows: Rows,
    pub(crate) pdf: PdfReader,
    /// Added to each document.
    pub(crate) metadata: Map<String, Value>,
}

/// What became of something that was to be read.
#[derive(Debug)]
pub(crate) enum Loaded {
    Document(Box<Document>),
    Failed {
        id: String,
        why: String,
    },
    /// Passed over, and why: counted, no failure.
    Skipped(String),
}

/// Bytes that came over HTTP.
pub(crate) struct Response {
    pub(crate) bytes: Vec<u8>,
    pub(crate) format: Option<Format>,
    pub(crate) charset: Option<String>,
}

impl Reader {
    /// Gives what is in the file to `each`, which says whether to go on.
    pub(crate) fn file(&self, path: &Path, uri: &str, each: &mut dyn FnMut(Loaded) -> bool) {
        if let Err(why) = self.try_file(path, uri, each) {
            each(Loaded::Failed {
                id: uri.to_owned(),
                why,
            });
        }
    }

    fn try_file(
        &self,
        path: &Path,
        uri: &str,
        each: &mut dyn FnMut(Loaded) -> bool,
    ) -> Result<(), String> {
        let mut file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
        let size = file
            .metadata()
            .map_err(|e| format!("cannot be read: {e}"))?
            .len();
        let known = self.format.or_else(|| Format::of_path(path));
        let cannot = |e: std::io::Error| format!("cannot be read: {e}");
        let mut bytes = Vec::new();
        (&mut file)
            .take(SNIFF_BYTES as u64)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
        if bytes.is_empty() {
            each(Loaded::Skipped("empty".to_owned()));
            return Ok(());
        }
        if known.is_none_or(Format::is_text) && is_binary(&bytes) {
            if known.is_some() {
                return Err("has zero bytes in it, so it is no text".to_owned());
            }
            each(Loaded::Skipped(binary(path)));
            return Ok(());
        }
        let format = known.unwrap_or(Format::Text);
        if format == Format::Parquet {
            return self.parquet(uri, parquet::Source::File(file), each);
        }
        if format.has_rows() {
            let all = bytes.chain(file);
            return self.rows(uri, format, all, each);
        }
        if size > self.max_bytes {
            return Err(self.too_large(size));
        }
        // One byte more than allowed tells that the file has grown.
        file.take(self.max_bytes)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
        if bytes.len() as u64 > self.max_bytes {
            return Err(self.too_large(bytes.len() as u64));
        }
        each(self.whole(uri, format, &bytes, None, Some(path))?);
        Ok(())
    }

    /// As [`Reader::file`], for what came from `url`.
    pub(crate) fn response(
        &self,
        url: &str,
        path: &Path,
        response: Response,
        each: &mut dyn FnMut(Loaded) -> bool,
    ) {
        let format = self
            .format
            .or(response.format)
            .or_else(|| Format::of_path(path))
            .unwrap_or(Format::Text);
        let bytes = response.bytes;
        let result = if bytes.is_empty() {
            Err("the response is empty".to_owned())
        } else if format.is_text() && is_binary(&bytes) {
            Err("the response has zero bytes in it, so it is no text".to_owned())
        } else if format == Format::Parquet {
            self.parquet(url, parquet::Source::Bytes(bytes.into()), each)
        } else if format.has_rows() {
            self.rows(url, format, bytes.as_slice(), each)
        } else {
            self.whole(url, format, &bytes, response.charset.as_deref(), None)
                .map(|loaded| {
                    each(loaded);
                })
        };
        if let Err(why) = result {
            each(Loaded::Failed {
                id: url.to_owned(),
                why,
            });
        }
    }

    pub(crate) fn too_large(&self, size: u64) -> String {
        format!(
            "is larger than max_bytes: {size} bytes, {} allowed",
            self.max_bytes
        )
    }

    fn rows(
        &self,
        uri: &str,
        format: Format,
        reader: impl Read,
        each: &mut dyn FnMut(Loaded) -> bool,
    ) -> Result<(), String> {
        rows::read(
            uri,
            format,
            reader,
            &self.rows,
            self.max_bytes,
            &mut |row| each(self.row(row)),
        )
    }

    fn parquet(
        &self,
        uri: &str,
        source: parquet::Source,
        each: &mut dyn FnMut(Loaded) -> bool,
    ) -> Result<(), String> {
        parquet::read(uri, source, &self.rows, self.max_bytes, &mut |row| {
            each(self.row(row))
        })
    }

    fn row(&self, row: Row) -> Loaded {
        match row {
            Ok(mut document) => {
                document.metadata.extend(self.metadata.clone());
                Loaded::Document(Box::new(document))
            }
            Err((id, why)) => Loaded::Failed { id, why },
        }
    }

    fn whole(
        &self,
        uri: &str,
        format: Format,
        bytes: &[u8],
        charset: Option<&str>,
        path: Option<&Path>,
    ) -> Result<Loaded, String> {
        let mut metadata = Map::new();
        metadata.insert("bytes".to_owned(), bytes.len().into());
        let mut note = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                metadata.insert(name.to_owned(), value.into());
            }
        };
        let (text, title) = match format {
            Format::Pdf => {
                let text = match path {
                    Some(path) => self.pdf.read(path)?,
                    None => self.pdf.read(pdf::spool(bytes)?.path())?,
                };
                (text, None)
            }
            Format::Html => {
                let declared = charset
                    .map(str::to_owned)
                    .or_else(|| declared_in_html(bytes));
                let decoded = decode(bytes, declared.as_deref());
                let page = html::read(&decoded.text, self.html)?;
                note("encoding", decoded.encoding.map(str::to_owned));
                note("author", page.author);
                note("language", page.language);
                note("published", page.published);
                (page.markdown, page.title)
            }
            Format::Markdown => {
                let decoded = decode(bytes, charset);
                note("encoding", decoded.encoding.map(str::to_owned));
                let (front, body) = front_matter(&decoded.text);
                let mut title = markdown_title(body);
                for (name, value) in front {
                    match name {
                        "title" => title = Some(value.to_owned()),
                        _ => note(name, Some(value.to_owned())),
                    }
                }
                (body.to_owned(), title)
            }
            _ => {
                let decoded = decode(bytes, charset);
                note("encoding", decoded.encoding.map(str::to_owned));
                (decoded.text, None)
            }
        };
        if text.trim().is_empty() {
            return Ok(Loaded::Skipped("empty".to_owned()));
        }
        metadata.extend(self.metadata.clone());
        Ok(Loaded::Document(Box::new(Document {
            uri: uri.to_owned(),
            text,
            title,
            hash: sha256(bytes),
            media_type: format.media_type().to_owned(),
            metadata,
        })))
    }
}

/// By extension, since that is what tells a user which files these are.
fn binary(path: &Path) -> String {
    match path.extension() {
        Some(extension) => format!(
            "binary (.{})",
            extension.to_string_lossy().to_ascii_lowercase()
        ),
        None => "binary".to_owned(),
    }
}
