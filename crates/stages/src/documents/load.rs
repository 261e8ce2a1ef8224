//! The stage `documents.load`.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tidemill_pipeline::data::Item;
use tidemill_pipeline::stage::{Kind, StageType, Type};
use tokio::sync::mpsc;

use super::files::{self, Found, Selection, Skipped};
use super::format::Format;
use super::html::HtmlMode;
use super::pdf::PdfReader;
use super::read::{Loaded, Reader};
use super::rows::Rows;
use super::web::{self, Unfetched};
use crate::params::{self, OneOrMany};
use crate::{Context, Error, Sink, Stage};

const NAME: &str = "documents.load";

/// Documents of one file that wait for those of the files before it.
const READ_AHEAD: usize = 16;

/// Documents between two lines of progress.
const PROGRESS_EVERY: u64 = 100;

/// Loads documents.
#[derive(Clone, Debug)]
pub struct Load {
    pdf: PdfReader,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// A file, a folder (with all below it) or a pattern such as `docs/**/*.md`; or a list of
    /// these. Relative paths start where the worker runs. Hidden files and symbolic links inside
    /// a folder are passed over.
    path: Option<OneOrMany>,
    /// Pages or files to fetch over HTTP.
    url: Option<OneOrMany>,
    /// Patterns of relative paths to take; all when empty. `*.md` means in any folder.
    #[serde(default)]
    include: Vec<String>,
    /// Patterns of relative paths to leave out.
    #[serde(default)]
    exclude: Vec<String>,
    /// How to read everything. By default the name's extension or the response's type decides,
    /// and what is not known is read as text unless it is binary.
    format: Option<Format>,
    /// Largest file that is read, in bytes. Files with rows have no bound; each row has this one.
    #[serde(default = "max_bytes")]
    #[schemars(range(min = 1))]
    max_bytes: u64,
    /// What is taken of an HTML page.
    #[serde(default)]
    html: HtmlMode,
    /// How rows of CSV, JSONL and Parquet become documents.
    #[serde(default)]
    rows: Rows,
    /// Added to the metadata of each document.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// When a part of the collection ends: the unit in which later stages do their work.
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "read by the worker, whose sink lays items into parts"
    )]
    part: PartSize,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "read by the worker, whose sink lays items into parts"
)]
struct PartSize {
    /// Most items of a part; 64 by default.
    #[schemars(range(min = 1))]
    items: Option<u32>,
    /// Bytes after which a part ends; 262144 by default.
    #[schemars(range(min = 1))]
    bytes: Option<u64>,
}

fn max_bytes() -> u64 {
    32 * 1024 * 1024
}

impl Load {
    pub fn new(pdf: PdfReader) -> Self {
        Self { pdf }
    }
}

#[async_trait]
impl Stage for Load {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Loads text, Markdown, HTML, PDF, CSV, JSONL and Parquet from files, folders and URLs."
                .to_owned(),
            kind: Kind::Source,
            input: Type::Any,
            output: Type::collection(Type::record("document")),
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            // The files may have changed.
            pure: false,
            batched: None,
        }
    }

    async fn source(
        &self,
        _input: Value,
        with: Value,
        sink: &mut dyn Sink,
        cx: &Context,
    ) -> Result<(), Error> {
        let with: With = params::parse(NAME, with)?;
        let selection = Selection::new(&with.include, &with.exclude)
            .map_err(|(field, why)| params::wrong(NAME, field, why))?;
        with.rows
            .check()
            .map_err(|why| params::wrong(NAME, "rows.template", why))?;
        let paths = with.path.map(OneOrMany::into_vec).unwrap_or_default();
        let urls = with.url.map(OneOrMany::into_vec).unwrap_or_default();
        if paths.is_empty() && urls.is_empty() {
            return Err(Error::invalid(format!(
                "{NAME}: with: give `path` (a file, folder or pattern) or `url`"
            )));
        }
        let reader = Arc::new(Reader {
            format: with.format,
            max_bytes: with.max_bytes,
            html: with.html,
            rows: with.rows,
            pdf: self.pdf.clone(),
            metadata: with.metadata,
        });
        let mut out = Out {
            sink,
            cx,
            // Only several sources can name the same thing twice.
            seen: (paths.len() + urls.len() > 1).then(HashSet::new),
            loaded: 0,
            failed: 0,
            skipped: Skipped::default(),
        };
        if !paths.is_empty() {
            load_files(paths, selection, &reader, &mut out).await?;
        }
        if !urls.is_empty() {
            load_urls(urls, &reader, &mut out).await?;
        }
        out.report();
        Ok(())
    }
}

/// Where documents go, and what is known of those that went.
struct Out<'a> {
    sink: &'a mut dyn Sink,
    cx: &'a Context,
    seen: Option<HashSet<String>>,
    loaded: u64,
    failed: u64,
    skipped: Skipped,
}

impl Out<'_> {
    async fn put(&mut self, loaded: Loaded) -> Result<(), Error> {
        if self.cx.cancelled.is_cancelled() {
            return Err(Error::cancelled());
        }
        match loaded {
            Loaded::Document(document) => {
                let id = document.uri.clone();
                if self
                    .seen
                    .as_mut()
                    .is_some_and(|seen| !seen.insert(id.clone()))
                {
                    self.skipped.add("named twice");
                    return Ok(());
                }
                // About: quotes and metadata are small beside the text.
                let bytes = document.text.len() + 256;
                let item = Item {
                    id,
                    source: String::new(),
                    value: serde_json::to_value(&*document)
                        .map_err(|e| Error::failed(format!("{}: {e}", document.uri)))?,
                };
                self.loaded += 1;
                self.sink.item(item, bytes).await?;
            }
            Loaded::Failed { id, why } => {
                self.failed += 1;
                self.sink.failed(&id, &why).await?;
            }
            Loaded::Skipped(reason) => self.skipped.add(reason),
        }
        if (self.loaded + self.failed).is_multiple_of(PROGRESS_EVERY) {
            self.report();
        }
        Ok(())
    }

    fn report(&self) {
        let plural = if self.loaded == 1 { "" } else { "s" };
        let mut line = format!("{} document{plural}", self.loaded);
        if self.failed > 0 {
            line.push_str(&format!(", {} failed", self.failed));
        }
        if let Some(skipped) = self.skipped.summary() {
            line.push_str(&format!(", {skipped}"));
        }
        (self.cx.progress)(line);
    }
}

/// How many files are read at the same time.
fn parallel() -> usize {
    std::thread::available_parallelism().map_or(2, NonZeroUsize::get)
}

type Reading = mpsc::Receiver<Loaded>;

/// Reads files on all cores. Their documents keep the order of the files, and each file waits
/// after a few documents until it is its turn, so that memory does not grow with the folder.
async fn load_files(
    paths: Vec<String>,
    selection: Selection,
    reader: &Arc<Reader>,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let (found_tx, mut found) = mpsc::channel(1024);
    let walk = tokio::task::spawn_blocking(move || {
        let mut skipped = Skipped::default();
        for path in &paths {
            files::find(path, paths.len() > 1, &selection, &mut skipped, &mut |f| {
                // Nobody listens any more when the stage has ended.
                found_tx.blocking_send(f).is_ok()
            })?;
        }
        Ok(skipped)
    });
    let mut readings: VecDeque<Reading> = VecDeque::new();
    let mut more = true;
    loop {
        while more && readings.len() < parallel() {
            match found.recv().await {
                Some(Found::File { path, uri }) => {
                    readings.push_back(read_file(reader.clone(), path, uri));
                }
                Some(Found::Failed { uri, why }) => {
                    readings.push_back(just(Loaded::Failed { id: uri, why }));
                }
                None => more = false,
            }
        }
        let Some(mut reading) = readings.pop_front() else {
            break;
        };
        while let Some(loaded) = reading.recv().await {
            out.put(loaded).await?;
        }
    }
    let skipped = walk
        .await
        .map_err(|e| Error::failed(format!("{NAME}: the walk broke down: {e}")))?
        .map_err(|why: String| params::wrong(NAME, "path", why))?;
    out.skipped.merge(skipped);
    Ok(())
}

fn read_file(reader: Arc<Reader>, path: PathBuf, uri: String) -> Reading {
    let (tx, rx) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        reader.file(&path, &uri, &mut |loaded| tx.blocking_send(loaded).is_ok());
    });
    rx
}

fn just(loaded: Loaded) -> Reading {
    let (tx, rx) = mpsc::channel(1);
    // There is room for one.
    let _ = tx.try_send(loaded);
    rx
}

/// Fetches one URL after the other: a site that is asked politely answers for longer.
async fn load_urls(
    urls: Vec<String>,
    reader: &Arc<Reader>,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let all = urls.len();
    let mut for_now = 0;
    for url in urls {
        let id = url.clone();
        let fetched = web::fetch(&url, reader.max_bytes, &out.cx.cancelled).await;
        let mut reading = match fetched {
            Ok(response) => {
                let (tx, rx) = mpsc::channel(READ_AHEAD);
                let reader = reader.clone();
                tokio::task::spawn_blocking(move || {
                    // What stands before the query names the file.
                    let path = url.split(['?', '#']).next().unwrap_or_default();
                    reader.response(&url, Path::new(path), response, &mut |loaded| {
                        tx.blocking_send(loaded).is_ok()
                    });
                });
                rx
            }
            Err(Unfetched {
                why,
                for_now: later,
            }) => {
                for_now += usize::from(later);
                if for_now == all {
                    return Err(Error::unavailable(format!("{NAME}: {id}: {why}")));
                }
                just(Loaded::Failed { id, why })
            }
        };
        while let Some(loaded) = reading.recv().await {
            out.put(loaded).await?;
        }
    }
    Ok(())
}
