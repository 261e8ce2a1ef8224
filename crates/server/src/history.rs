//! Reading a run's history: from memory where its newest part is, else from the store.

use std::sync::Arc;

use prost::Message;
use tidemill_engine::{Batch, Error};
use tidemill_proto::api::history::v1::{History, HistoryEvent};
use tidemill_store::{HistoryBatch, RunNo};

use crate::core::{Core, blocking};
use crate::shard::View;

/// Batches in one page; the protocol's pages count batches.
pub(crate) const PAGE_BATCHES: usize = 256;
/// Bytes in one page: a message must stay well under what clients accept.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A stretch of history.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) events: Vec<HistoryEvent>,
    /// The next event, when there is more.
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
    ) -> Result<Page, Error> {
        let run = RunNo(view.run.id.no);
        let stored = self.stored_batches(run, 1, from, batches, true).await?;
        let mut events = Vec::new();
        for batch in &stored {
            let batch = decode(batch, run)?.into_iter().rev();
            events.extend(batch.filter(|e| e.event_id <= from));
        }
        let last = stored.last().map_or(1, |b| b.first_event_id);
        Ok(Page {
            events,
            next_event_id: (last > 1).then_some(last - 1),
        })
    }

    /// The whole history of a run.
    pub(crate) async fn all_batches(
        self: &Arc<Self>,
        view: &View,
    ) -> Result<Vec<Arc<Batch>>, Error> {
        let to = view.run.last_event_id();
        let mut batches: Vec<Arc<Batch>> = Vec::new();
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
                batches.push(Arc::new(Batch {
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
        let events = match batch {
            Some(batch) => decode(&batch, run)?,
            None => Vec::new(),
        };
        events
            .into_iter()
            .find(|e| e.event_id == event_id)
            .ok_or_else(|| {
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
            .map_err(|e| Error::Unavailable(e.to_string()))
    }
}

/// The events of a stored batch.
fn decode(batch: &HistoryBatch, run: RunNo) -> Result<Vec<HistoryEvent>, Error> {
    let history = History::decode(batch.bytes.clone());
    let history = history
        .map_err(|e| Error::DataLoss(format!("history of run {} cannot be decoded: {e}", run.0)))?;
    Ok(history.events)
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
        let events = decode(batch, run)?.into_iter();
        page.events
            .extend(events.filter(|e| e.event_id >= from && e.event_id <= to));
        next = batch.last_event_id + 1;
    }
    Ok(page)
}
