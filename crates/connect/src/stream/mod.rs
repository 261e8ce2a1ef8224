//! What a stage says while it is at work, such as a model's tokens: text by name, for those who want
//! to watch. It never enters a run's history, which has the result only.
//!
//! A stream lives in the memory of the worker whose stage writes it, and some minutes longer. Its
//! text is addressed by offsets in bytes, which are never used twice: when an attempt is given up
//! and another begins, its text follows behind the first's end, and readers are told.
//! The store is bounded: a stream keeps its tail, and streams that have ended make room for others.

mod sse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use futures::stream;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use sse::{Refusal, Watch};

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one stream.
    pub each: usize,
    /// Bytes of all streams together; those that are being written may go beyond it.
    pub all: usize,
    /// Streams that have ended.
    pub ended: usize,
    /// How long a stream is kept after its end.
    pub keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            each: 4 * 1024 * 1024,
            all: 64 * 1024 * 1024,
            ended: 4096,
            keep: Duration::from_secs(300),
        }
    }
}

/// The streams of one process. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Store>);

#[derive(Debug, Default)]
struct Store {
    limits: Limits,
    streams: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Offset of the first byte of `text`.
    base: u64,
    text: String,
    /// Offset at which the present attempt began.
    began: u64,
    /// Tells the present attempt's writer from those before it.
    attempt: u64,
    end: Option<End>,
    changed: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct End {
    at: Instant,
    failed: Option<String>,
}

impl Entry {
    fn offset(&self) -> u64 {
        self.base + self.text.len() as u64
    }

    /// The next attempt begins one behind the end, so that who has read to the end of the one before
    /// is told from who has been told of this one.
    fn restart(&mut self) {
        self.base = self.offset() + 1;
        self.began = self.base;
        self.text.clear();
    }

    /// Drops from the front what is beyond `most` bytes.
    fn keep_tail(&mut self, most: usize) {
        if self.text.len() > most {
            let mut cut = self.text.len() - most;
            while !self.text.is_char_boundary(cut) {
                cut += 1;
            }
            self.text.drain(..cut);
            self.base += cut as u64;
        }
    }
}

/// A part of a stream, as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// `offset` is that of its end: where to read on.
    Text { offset: u64, text: String },
    /// What follows begins anew at `offset`: an attempt was given up. What was read before it is no
    /// part of the result.
    Restarted { offset: u64 },
    /// What follows begins at `offset`: what was asked for before it is not kept any more.
    Skipped { offset: u64 },
    /// There is no more, and the result is whole.
    Finished { offset: u64 },
    /// There is no more.
    Failed { offset: u64, reason: String },
}

impl Streams {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Store {
            limits,
            streams: Mutex::default(),
        }))
    }

    /// Begins the stream `name`, or another attempt of it; what the writer of an earlier attempt
    /// still says is dropped.
    pub fn write(&self, name: &str) -> Writer {
        let mut streams = self.lock();
        let entry = streams.entry(name.to_owned()).or_insert_with(|| Entry {
            base: 0,
            text: String::new(),
            began: 0,
            attempt: 0,
            end: None,
            changed: Arc::default(),
        });
        entry.attempt += 1;
        if entry.attempt > 1 {
            entry.restart();
        }
        entry.end = None;
        entry.changed.notify_waiters();
        Writer {
            streams: self.clone(),
            name: name.to_owned(),
            attempt: entry.attempt,
            ended: false,
        }
    }

    /// Reads the stream `name` from `offset` on and waits for more until it ends; `None` when there
    /// is no such stream here: it has not begun, ended long ago, or is another worker's.
    pub fn read(&self, name: &str, offset: u64) -> Option<impl Stream<Item = Piece> + use<>> {
        let mut streams = self.lock();
        self.forget(&mut streams);
        streams.get(name)?;
        drop(streams);
        let reader = Reader {
            streams: self.clone(),
            name: name.to_owned(),
            offset,
            attempt: None,
            done: false,
        };
        Some(stream::unfold(reader, |mut reader| async move {
            reader.next().await.map(|piece| (piece, reader))
        }))
    }

    /// Bytes of text that are kept.
    pub fn bytes(&self) -> usize {
        self.lock().values().map(|entry| entry.text.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        let streams = &self.0.streams;
        streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what ended too long ago, and what ended first while there is too much.
    fn forget(&self, streams: &mut BTreeMap<String, Entry>) {
        let limits = &self.0.limits;
        streams.retain(|_, entry| {
            let end = entry.end.as_ref();
            end.is_none_or(|end| end.at.elapsed() < limits.keep)
        });
        let mut bytes: usize = streams.values().map(|entry| entry.text.len()).sum();
        let ended = streams.iter();
        let ended = ended.filter_map(|(name, entry)| Some((entry.end.as_ref()?.at, name.clone())));
        let mut ended: Vec<_> = ended.collect();
        ended.sort();
        let mut left = ended.len();
        for (_, name) in ended {
            if bytes <= limits.all && left <= limits.ended {
                break;
            }
            if let Some(entry) = streams.remove(&name) {
                bytes -= entry.text.len();
                left -= 1;
                entry.changed.notify_waiters();
            }
        }
    }
}

/// The one who writes a stream. A writer that is dropped before it has finished leaves a stream that
/// failed.
#[derive(Debug)]
pub struct Writer {
    streams: Streams,
    name: String,
    attempt: u64,
    ended: bool,
}

impl Writer {
    pub fn append(&self, text: &str) {
        self.change(|entry, limits| {
            entry.text.push_str(text);
            entry.keep_tail(limits.each);
        });
    }

    /// What was written so far is given up; what follows is another attempt.
    pub fn restart(&self) {
        self.change(|entry, _| entry.restart());
    }

    pub fn finish(mut self) {
        self.end(None);
    }

    pub fn fail(mut self, reason: impl Into<String>) {
        self.end(Some(reason.into()));
    }

    fn end(&mut self, failed: Option<String>) {
        self.ended = true;
        let at = Instant::now();
        self.change(|entry, _| entry.end = Some(End { at, failed }));
        let mut streams = self.streams.lock();
        self.streams.forget(&mut streams);
    }

    fn change(&self, change: impl FnOnce(&mut Entry, &Limits)) {
        let mut streams = self.streams.lock();
        if let Some(entry) = streams.get_mut(&self.name)
            && entry.attempt == self.attempt
            && entry.end.is_none()
        {
            change(entry, &self.streams.0.limits);
            entry.changed.notify_waiters();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Some("given up before its end".to_owned()));
        }
    }
}

struct Reader {
    streams: Streams,
    name: String,
    offset: u64,
    /// Offset at which the attempt began that this reader is in.
    attempt: Option<u64>,
    done: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Piece> {
        loop {
            if self.done {
                return None;
            }
            let store = self.streams.clone();
            let changed = {
                let streams = store.lock();
                let Some(entry) = streams.get(&self.name) else {
                    drop(streams);
                    self.done = true;
                    return Some(Piece::Failed {
                        offset: self.offset,
                        reason: "it is not kept any more".to_owned(),
                    });
                };
                if let Some(piece) = self.take(entry) {
                    return Some(piece);
                }
                // Registered before the lock is let go, so that no change is missed.
                let mut changed = Box::pin(entry.changed.clone().notified_owned());
                changed.as_mut().enable();
                changed
            };
            changed.await;
        }
    }

    fn take(&mut self, entry: &Entry) -> Option<Piece> {
        let end = entry.offset();
        // A new reader has seen what lies before its offset, if it is of this attempt at all. One
        // that is ahead has seen another worker's stream.
        let seen = self.attempt.replace(entry.began);
        let ahead = self.offset > end;
        let behind = match seen {
            Some(seen) => seen != entry.began,
            None => self.offset > 0 && self.offset < entry.began,
        };
        if ahead || behind {
            self.offset = entry.began;
            return Some(Piece::Restarted {
                offset: entry.began,
            });
        }
        // A reader from the start wants the attempt that counts.
        self.offset = self.offset.max(entry.began);
        if self.offset < entry.base {
            self.offset = entry.base;
            return Some(Piece::Skipped { offset: entry.base });
        }
        if self.offset < end {
            let mut from = (self.offset - entry.base) as usize;
            while !entry.text.is_char_boundary(from) {
                from += 1;
            }
            self.offset = end;
            return Some(Piece::Text {
                offset: end,
                text: entry.text[from..].to_owned(),
            });
        }
        let ended = entry.end.as_ref()?;
        self.done = true;
        Some(match &ended.failed {
            None => Piece::Finished { offset: end },
            Some(reason) => Piece::Failed {
                offset: end,
                reason: reason.clone(),
            },
        })
    }
}
