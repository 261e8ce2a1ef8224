//! The requests of one connection, run on the connection's own task.
//!
//! A task for each request would be handed from thread to thread, and each answer would wake the
//! connection to write it alone. Here all requests that can go on do so, and then the connection
//! writes all their answers at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{FuturesUnordered, Stream};
use hyper::rt::Executor;
use hyper::server::conn::http2::Connection;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::dispatch::Dispatch;

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what a connection wants to have run.
#[derive(Clone, Default)]
pub(super) struct Arrivals(Arc<Mutex<Vec<Request>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Arrivals {
    fn execute(&self, request: F) {
        self.0.lock().push(Box::pin(request));
    }
}

/// A connection with its requests.
pub(super) struct Served<S> {
    connection: Connection<TokioIo<S>, Dispatch, Arrivals>,
    arrivals: Arrivals,
    running: FuturesUnordered<Request>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Served<S> {
    /// `connection` gives its requests to `arrivals`.
    pub(super) fn new(
        connection: Connection<TokioIo<S>, Dispatch, Arrivals>,
        arrivals: Arrivals,
    ) -> Self {
        Self {
            connection,
            arrivals,
            running: FuturesUnordered::new(),
        }
    }

    /// No more requests are taken; the future ends when those that run have ended.
    pub(super) fn graceful_shutdown(&mut self) {
        Pin::new(&mut self.connection).graceful_shutdown();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Future for Served<S> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut this.connection).poll(cx) {
                return Poll::Ready(ended);
            }
            this.running.extend(this.arrivals.0.lock().drain(..));
            let mut answered = false;
            while let Poll::Ready(Some(())) = Pin::new(&mut this.running).poll_next(cx) {
                answered = true;
            }
            if !answered {
                return Poll::Pending;
            }
        }
    }
}
