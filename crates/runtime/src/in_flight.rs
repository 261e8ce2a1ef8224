//! Futures that are under way at the same time, polled in the order in which they began.
//!
//! The usual collections wake and order their futures by means that a replay does not repeat.
//! Here every future is polled, first to last, whenever the workflow is: there are few (nodes, or
//! the window of a fan-out), and the order is the same in every replay.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// A future of a workflow: single-threaded, owning what it needs.
pub(crate) type Local<T> = Pin<Box<dyn Future<Output = T>>>;

pub(crate) struct InFlight<K, T> {
    futures: Vec<(K, Local<T>)>,
}

impl<K: Copy, T> InFlight<K, T> {
    pub(crate) fn new() -> Self {
        Self {
            futures: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, key: K, future: impl Future<Output = T> + 'static) {
        self.futures.push((key, Box::pin(future)));
    }

    /// The result of the earliest future that has ended, or `None` when there is none at all.
    /// `before_poll` runs each time the workflow is woken.
    pub(crate) async fn next(&mut self, mut before_poll: impl FnMut()) -> Option<(K, T)> {
        if self.futures.is_empty() {
            return None;
        }
        poll_fn(|cx| {
            before_poll();
            for at in 0..self.futures.len() {
                let (key, future) = &mut self.futures[at];
                let key = *key;
                if let Poll::Ready(value) = future.as_mut().poll(cx) {
                    drop(self.futures.remove(at));
                    return Poll::Ready(Some((key, value)));
                }
            }
            Poll::Pending
        })
        .await
    }
}
