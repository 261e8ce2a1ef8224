//! A stage over the items of one chunk: templates that speak of `item`, calls per item, and what
//! failed before or fails now.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Map, Value};
use tidemill_pipeline::data::{FailedItem, Item, Part};
use tidemill_pipeline::template;
use tidemill_stages::{Context, Error, ErrorKind, Stage};

use crate::store::Store;

/// Calls of one chunk that run at the same time.
const CALLS_AT_A_TIME: usize = 8;
/// Calls of one item before it counts as failed, if another try may help at all.
const TRIES: u32 = 3;
const TRY_AGAIN_FIRST: Duration = Duration::from_millis(500);
/// An item that is told to wait longer than this waits no longer: it fails.
const TRY_AGAIN_MOST: Duration = Duration::from_secs(30);
/// Characters of an item's error that are kept.
const ERROR_CHARS: usize = 2_000;

/// A stage as it is applied to a whole chunk.
pub(crate) struct Whole<'a> {
    stage: &'a dyn Stage,
    /// Called once for each item, rather than once for the chunk.
    per_item: bool,
    with: Value,
    /// Whether `with` has templates that speak of `item`.
    templates: bool,
    /// Values that templates of `with` name besides `item`.
    scope: Map<String, Value>,
}

impl<'a> Whole<'a> {
    pub(crate) fn new(stage: &'a dyn Stage, per_item: bool, with: Value, scope: Value) -> Self {
        Self {
            stage,
            per_item,
            templates: speaks_of_item(&with),
            with,
            scope: match scope {
                Value::Object(fields) => fields,
                _ => Map::new(),
            },
        }
    }
}

/// Runs it. What came out holds the chunk's earlier failures too.
pub(crate) async fn run(
    store: &Store,
    whole: Whole<'_>,
    chunk: Part,
    cx: &Context,
) -> Result<Part, Error> {
    let Part { items, failed } = chunk;
    let mut made = if whole.per_item {
        calls(store, &whole, items, cx).await?
    } else {
        groups(&whole, items, &failed, cx).await?
    };
    for failure in &mut made.failed {
        if failure.stage.is_empty() {
            failure.stage = cx.stage.clone();
        }
        shorten(&mut failure.error);
    }
    // A stage may have handed on what it was shown.
    let known: HashSet<(&str, &str)> = failed.iter().map(place).collect();
    made.failed
        .retain(|failure| !known.contains(&place(failure)));
    let new = std::mem::replace(&mut made.failed, failed);
    made.failed.extend(new);
    Ok(made)
}

fn place(failure: &FailedItem) -> (&str, &str) {
    (&failure.id, &failure.stage)
}

/// How many items of the fan-out's own collection these failures spoil.
pub(crate) fn sources(failed: &[FailedItem]) -> usize {
    let sources = failed.iter().map(|failure| {
        if failure.source.is_empty() {
            &failure.id
        } else {
            &failure.source
        }
    });
    sources.collect::<BTreeSet<_>>().len()
}

/// Runs a stage of kind Items: once, or once for each distinct value of its parameters.
async fn groups(
    whole: &Whole<'_>,
    items: Vec<Item>,
    failed: &[FailedItem],
    cx: &Context,
) -> Result<Part, Error> {
    // What a stage leaves open is the same as for the item that it was given.
    let sources: HashMap<String, String> = items
        .iter()
        .filter(|item| !item.source.is_empty())
        .map(|item| (item.id.clone(), item.source.clone()))
        .collect();
    let mut made = Part::default();
    let mut groups: Vec<(Value, Vec<Item>)> = Vec::new();
    if whole.templates {
        let mut places: HashMap<String, usize> = HashMap::new();
        for item in items {
            match parameters(whole, &item) {
                Ok(with) => {
                    let at = *places.entry(with.to_string()).or_insert(groups.len());
                    if at == groups.len() {
                        groups.push((with, Vec::new()));
                    }
                    groups[at].1.push(item);
                }
                Err(e) => made.failed.push(failure(&item, &e)),
            }
        }
    } else {
        groups.push((whole.with.clone(), items));
    }
    for (with, items) in groups {
        if cx.cancelled.is_cancelled() {
            return Err(Error::cancelled());
        }
        let chunk = Part {
            items,
            failed: failed.to_vec(),
        };
        let part = whole.stage.items(chunk, with, cx).await?;
        made.items.extend(part.items);
        made.failed.extend(part.failed);
    }
    let inherit = |id: &str, source: &mut String| {
        if source.is_empty()
            && let Some(known) = sources.get(id)
        {
            source.clone_from(known);
        }
    };
    for item in &mut made.items {
        inherit(&item.id, &mut item.source);
    }
    for failure in &mut made.failed {
        inherit(&failure.id, &mut failure.source);
    }
    Ok(made)
}

/// Runs a stage of kind Call on each item; its output is the item's new value.
async fn calls(
    store: &Store,
    whole: &Whole<'_>,
    items: Vec<Item>,
    cx: &Context,
) -> Result<Part, Error> {
    let total = items.len();
    let mut results = stream::iter(items)
        .map(|item| call(store, whole, item, cx))
        .buffered(CALLS_AT_A_TIME);
    let mut made = Part::default();
    // Set while nothing at all could be done, because something was not there.
    let mut nothing: Option<Error> = None;
    let mut useful = false;
    while let Some(result) = results.next().await {
        match result? {
            Ok(item) => {
                useful = true;
                made.items.push(item);
            }
            Err((item, e)) => {
                made.failed.push(failure(&item, &e.message));
                if matches!(e.kind, ErrorKind::Unavailable | ErrorKind::RateLimited) {
                    nothing.get_or_insert(e);
                } else {
                    useful = true;
                }
            }
        }
        let done = made.items.len() + made.failed.len();
        (cx.progress)(format!("{done} of {total} items"));
    }
    match nothing {
        Some(e) if !useful => Err(e),
        _ => Ok(made),
    }
}

/// One item's call, tried again a few times. The outer error is the task's.
async fn call(
    store: &Store,
    whole: &Whole<'_>,
    item: Item,
    cx: &Context,
) -> Result<Result<Item, (Item, Error)>, Error> {
    let mut tries = 0;
    let mut wait = TRY_AGAIN_FIRST;
    loop {
        if cx.cancelled.is_cancelled() {
            return Err(Error::cancelled());
        }
        let error = match once(store, whole, &item, cx).await {
            Ok(value) => return Ok(Ok(Item { value, ..item })),
            Err(e) => e,
        };
        tries += 1;
        let delay = error.retry_after.unwrap_or(wait);
        match error.kind {
            ErrorKind::ArtifactStoreUnavailable | ErrorKind::Cancelled => return Err(error),
            ErrorKind::Invalid => return Ok(Err((item, error))),
            _ if tries >= TRIES || delay > TRY_AGAIN_MOST => return Ok(Err((item, error))),
            _ => {}
        }
        wait *= 2;
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = cx.cancelled.cancelled() => return Err(Error::cancelled()),
        }
    }
}

async fn once(store: &Store, whole: &Whole<'_>, item: &Item, cx: &Context) -> Result<Value, Error> {
    let with = parameters(whole, item).map_err(Error::invalid)?;
    let input = store.resolve(item.value.clone()).await?;
    let cx = Context {
        item: item.id.clone(),
        ..cx.clone()
    };
    whole.stage.call(input, with, &cx).await
}

/// The stage's parameters for one item.
fn parameters(whole: &Whole<'_>, item: &Item) -> Result<Value, String> {
    if !whole.templates {
        return Ok(whole.with.clone());
    }
    let mut scope = whole.scope.clone();
    scope.insert("item".to_owned(), item.value.clone());
    evaluate(&whole.with, &Value::Object(scope)).map_err(|e| e.to_string())
}

/// Evaluates the strings that speak of `item`. All others are values already: what looks like a
/// template in them came from a document.
fn evaluate(with: &Value, scope: &Value) -> Result<Value, template::Error> {
    Ok(match with {
        Value::String(text) if template::speaks_of_item(text) => {
            template::evaluate_text(text, scope)?
        }
        Value::Array(values) => {
            let values = values.iter().map(|value| evaluate(value, scope));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| Ok((key.clone(), evaluate(value, scope)?)));
            Value::Object(fields.collect::<Result<_, template::Error>>()?)
        }
        other => other.clone(),
    })
}

fn speaks_of_item(with: &Value) -> bool {
    match with {
        Value::String(text) => template::speaks_of_item(text),
        Value::Array(values) => values.iter().any(speaks_of_item),
        Value::Object(fields) => fields.values().any(speaks_of_item),
        _ => false,
    }
}

fn failure(item: &Item, error: &str) -> FailedItem {
    FailedItem {
        id: item.id.clone(),
        source: item.source.clone(),
        // Filled in with the rest.
        stage: String::new(),
        error: error.to_owned(),
    }
}

fn shorten(error: &mut String) {
    if let Some((at, _)) = error.char_indices().nth(ERROR_CHARS) {
        error.truncate(at);
        error.push('…');
    }
}
