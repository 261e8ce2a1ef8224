//! Reading a run's history: from memory where its newest part is, else from the store.

use std::sync::Arc;

use tidemill_engine::{Batch, Error};
use tidemill_proto::api::history::v1::HistoryEvent;
use tidemill_store::RunNo;

use crate::core::Core;
use crate::shard::{View, decode_batch};

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
        if view
            .tail
            .first_event_id()
            .is_some_and(|first| first <= from)
        {
            let held = view
                .tail
                .batches()
                .filter(|b| b.last_event_id >= from && b.first_event_id <= to);
            return Ok(page(held.cloned(), from, to, batches));
        }
        let stored = self
            .stored_batches(RunNo(view.run.id.no), from, to, batches + 1, false)
            .await?;
        Ok(page(stored.into_iter(), from, to, batches))
    }

    /// Newest first: events `..=from`, at most `batches` batches; the event to go on with.
    pub(crate) async fn read_history_reverse(
        self: &Arc<Self>,
        view: &View,
        from: i64,
        batches: usize,
    ) -> Result<Page, Error> {
        let stored = self
            .stored_batches(RunNo(view.run.id.no), 1, from, batches, true)
            .await?;
        let mut events = Vec::new();
        for batch in &stored {
            events.extend(
                batch
                    .events
                    .iter()
                    .rev()
                    .filter(|e| e.event_id <= from)
                    .cloned(),
            );
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
            let page = self
                .stored_batches(RunNo(view.run.id.no), from, to, PAGE_BATCHES, false)
                .await?;
            if page.is_empty() {
                return Err(Error::DataLoss(format!(
                    "history of run {} ends before event {to}",
                    view.run.id.run_id
                )));
            }
            batches.extend(page);
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
        let held = view
            .tail
            .batches()
            .find(|b| b.first_event_id <= event_id && b.last_event_id >= event_id)
            .cloned();
        let batch = match held {
            Some(batch) => Some(batch),
            None => self
                .stored_batches(RunNo(view.run.id.no), from, event_id, PAGE_BATCHES, false)
                .await?
                .into_iter()
                .find(|b| b.first_event_id <= event_id && b.last_event_id >= event_id),
        };
        batch
            .and_then(|b| b.events.iter().find(|e| e.event_id == event_id).cloned())
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
    ) -> Result<Vec<Arc<Batch>>, Error> {
        let core = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            core.store.read_history(run, from, to, limit, reverse)
        });
        let stored = read
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
            .map_err(|e| Error::Unavailable(e.to_string()))?;
        stored
            .iter()
            .map(|b| decode_batch(b).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(|e| {
                Error::DataLoss(format!("history of run {} cannot be decoded: {e}", run.0))
            })
    }
}

fn page(batches: impl Iterator<Item = Arc<Batch>>, from: i64, to: i64, most: usize) -> Page {
    let mut page = Page::default();
    let mut bytes = 0;
    let mut next = from;
    for (count, batch) in batches.enumerate() {
        if count >= most || (count > 0 && bytes + batch.bytes.len() > PAGE_BYTES) {
            page.next_event_id = Some(next);
            return page;
        }
        bytes += batch.bytes.len();
        page.events.extend(
            batch
                .events
                .iter()
                .filter(|e| e.event_id >= from && e.event_id <= to)
                .cloned(),
        );
        next = batch.last_event_id + 1;
    }
    page
}
