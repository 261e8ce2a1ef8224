//! Reading a run's history: from memory where its newest part is, else from the store.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tidemill_engine::{DecodedBatch, Error, encoded};
use tidemill_proto::api::history::v1::{History, HistoryEvent};
use tidemill_store::{HistoryBatch, RunNo};

use crate::core::{Core, blocking, read_failed};
use crate::shard::View;

/// Batches in one page; the protocol's pages count batches.
pub(crate) const PAGE_BATCHES: usize = 256;
/// Bytes in one page: a message must stay well under what clients accept.
pub(crate) const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A stretch of history.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Encoded histories, one after another.
    pub(crate) parts: Vec<Bytes>,
    /// The next event, when there is more.
    pub(crate) next_event_id: Option<i64>,
}

impl Page {
    /// Adds events that are not stored.
    pub(crate) fn add(&mut self, events: impl IntoIterator<Item = HistoryEvent>) {
        let mut part = Vec::new();
        for event in events {
            encoded::append(&mut part, &event);
        }
        self.parts.push(part.into());
    }
}

/// A stretch of history from its end.
#[derive(Debug)]
pub(crate) struct ReversePage {
    pub(crate) events: Vec<HistoryEvent>,
    /// The event to go on with.
    pub(crate) next_event_id: Option<i64>,
}

impl Core {
    /// Events `from..=to` of a run, at most `batches` batches.
    pub(crate) async fn read_history(
        self: &Arc<Self>,
        view: &View,
        from: i64,
        to: i64,
        batches: usize,
    ) -> Result<Page, Error> {
        if from > to {
            return Ok(Page::default());
        }
        let run = RunNo(view.run.id.no);
        if view
            .tail
            .first_event_id()
            .is_some_and(|first| first <= from)
        {
            let held = view
                .tail
                .batches()
                .filter(|b| b.last_event_id >= from && b.first_event_id <= to);
            return page(held, from, to, batches, run);
        }
        let stored = self
            .stored_batches(run, from, to, batches + 1, false)
            .await?;
        page(stored.iter(), from, to, batches, run)
    }

    /// Newest first: events `..=from`, at most `batches` batches; the event to go on with.
    pub(crate) async fn read_history_reverse(
        self: &Arc<Self>,
        view: &View,
        from: i64,
        batches: usize,
    ) -> Result<ReversePage, Error> {
        let run = RunNo(view.run.id.no);
        let stored = self.stored_batches(run, 1, from, batches, true).await?;
        let mut events = Vec::new();
        for batch in &stored {
            let batch = decode(batch, run)?.into_iter().rev();
            events.extend(batch.filter(|e| e.event_id <= from));
        }
        let last = stored.last().map_or(1, |b| b.first_event_id);
        Ok(ReversePage {
            events,
            next_event_id: (last > 1).then_some(last - 1),
        })
    }

    /// The whole history of a run.
    pub(crate) async fn all_batches(
        self: &Arc<Self>,
        view: &View,
    ) -> Result<Vec<Arc<DecodedBatch>>, Error> {
        let to = view.run.last_event_id();
        let mut batches: Vec<Arc<DecodedBatch>> = Vec::new();
        loop {
            let from = batches.last().map_or(1, |b| b.last_event_id + 1);
            if from > to {
                return Ok(batches);
            }
            let run = RunNo(view.run.id.no);
            let page = self
                .stored_batches(run, from, to, PAGE_BATCHES, false)
                .await?;
            if page.is_empty() {
                return Err(Error::DataLoss(format!(
                    "history of run {} ends before event {to}",
                    view.run.id.run_id
                )));
            }
            for batch in page {
                batches.push(Arc::new(DecodedBatch {
                    first_event_id: batch.first_event_id,
                    last_event_id: batch.last_event_id,
                    events: decode(&batch, run)?,
                    bytes: batch.bytes,
                }));
            }
        }
    }

    /// One event, found through the first event id of its batch.
    pub(crate) async fn read_event(
        self: &Arc<Self>,
        view: &View,
        batch_id: i64,
        event_id: i64,
    ) -> Result<HistoryEvent, Error> {
        let from = if batch_id > 0 { batch_id } else { event_id };
        let run = RunNo(view.run.id.no);
        let holds = |b: &HistoryBatch| b.first_event_id <= event_id && b.last_event_id >= event_id;
        let held = view.tail.batches().find(|b| holds(b)).cloned();
        let batch = match held {
            Some(batch) => Some(batch),
            None => self
                .stored_batches(run, from, event_id, PAGE_BATCHES, false)
                .await?
                .into_iter()
                .find(holds),
        };
        let event = match batch {
            Some(batch) => event(&batch, event_id, run)?,
            None => None,
        };
        event.ok_or_else(|| {
            Error::DataLoss(format!(
                "event {event_id} of run {} is missing",
                view.run.id.run_id
            ))
        })
    }

    async fn stored_batches(
        self: &Arc<Self>,
        run: RunNo,
        from: i64,
        to: i64,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<HistoryBatch>, Error> {
        let core = self.clone();
        let read = blocking(move || core.store.read_history(run, from, to, limit, reverse));
        read.await
            .map_err(|e| Error::Internal(e.to_string()))?
            .map_err(read_failed)
    }
}

/// The events of a stored batch.
fn decode(batch: &HistoryBatch, run: RunNo) -> Result<Vec<HistoryEvent>, Error> {
    let history = History::decode(batch.bytes.clone());
    Ok(history.map_err(|e| broken(run, &e))?.events)
}

/// One event of a stored batch; the others are not decoded.
fn event(batch: &HistoryBatch, event_id: i64, run: RunNo) -> Result<Option<HistoryEvent>, Error> {
    for place in encoded::places(&batch.bytes) {
        let place = place.map_err(|e| broken(run, &e))?;
        if place.event_id == event_id {
            let event = HistoryEvent::decode(batch.bytes.slice(place.event));
            return event.map(Some).map_err(|e| broken(run, &e));
        }
    }
    Ok(None)
}

/// The part of a stored batch that holds events `from..=to`.
fn cut(batch: &HistoryBatch, from: i64, to: i64, run: RunNo) -> Result<Bytes, Error> {
    let (mut begin, mut end) = (0, 0);
    let mut next = batch.first_event_id;
    for place in encoded::places(&batch.bytes) {
        let place = place.map_err(|e| broken(run, &e))?;
        if place.event_id != next {
            return Err(missing(run, next));
        }
        next += 1;
        if place.event_id < from {
            begin = place.whole.end;
        }
        if place.event_id <= to {
            end = place.whole.end;
        }
    }
    if next != batch.last_event_id + 1 {
        return Err(missing(run, next));
    }
    Ok(batch.bytes.slice(begin..end.max(begin)))
}

fn missing(run: RunNo, event_id: i64) -> Error {
    Error::DataLoss(format!("event {event_id} of run {} is missing", run.0))
}

fn broken(run: RunNo, error: &dyn std::error::Error) -> Error {
    Error::DataLoss(format!(
        "history of run {} cannot be decoded: {error}",
        run.0
    ))
}

fn page<'a>(
    batches: impl Iterator<Item = &'a HistoryBatch>,
    from: i64,
    to: i64,
    most: usize,
    run: RunNo,
) -> Result<Page, Error> {
    let mut page = Page::default();
    let mut bytes = 0;
    let mut next = from;
    for (count, batch) in batches.enumerate() {
        if count >= most || (count > 0 && bytes + batch.bytes.len() > PAGE_BYTES) {
            page.next_event_id = Some(next);
            return Ok(page);
        }
        bytes += batch.bytes.len();
        page.parts.push(cut(batch, from, to, run)?);
        next = batch.last_event_id + 1;
    }
    Ok(page)
}
