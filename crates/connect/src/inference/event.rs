//! What a call says while it runs: one sequence, whatever connector it goes through.
//!
//! `Started`, the deltas, `Usage`, `Finished`. `Failed` takes the place of what would have followed,
//! and nothing comes after `Finished` or `Failed`. A server that does not stream, or does not count,
//! gives the same sequence: one delta, a usage of zero.

use std::pin::Pin;
use std::task::Poll;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;

use super::tensor::Tensor;
use super::{Error, ErrorKind, Finish, Usage};

/// Events of a call that wait to be taken: a connector reads on when there is room.
const WAITING_MAX: usize = 16;

/// A moment in a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The server took the request. The model is as the server names it, or as it was asked for.
    Started {
        model: String,
    },
    Delta(Delta),
    /// What the whole call used; zero where the server does not count.
    Usage(Usage),
    Finished(Finish),
    Failed(Error),
}

/// A part of the result.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// Follows on the text before it.
    Text(String),
    /// One of the outputs, whole.
    Tensor(Tensor),
}

/// The events of one call, in their order. The request is sent when the first is waited for, and
/// given up when this is dropped.
pub type Events = BoxStream<'static, Event>;

/// All of a call's result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    pub model: String,
    pub text: String,
    pub tensors: Vec<Tensor>,
    pub usage: Usage,
    pub finish: Option<Finish>,
}

/// Waits for the end of a call.
pub async fn collect(events: Events) -> Result<Response, Error> {
    collect_with(events, |_| ()).await
}

/// The same; `each` sees every piece of text as it comes.
pub async fn collect_with(
    mut events: Events,
    mut each: impl FnMut(&str) + Send,
) -> Result<Response, Error> {
    let mut response = Response::default();
    while let Some(event) = events.next().await {
        match event {
            Event::Started { model } => response.model = model,
            Event::Delta(Delta::Text(text)) => {
                each(&text);
                response.text.push_str(&text);
            }
            Event::Delta(Delta::Tensor(tensor)) => response.tensors.push(tensor),
            Event::Usage(usage) => response.usage = usage,
            Event::Finished(finish) => {
                response.finish = Some(finish);
                return Ok(response);
            }
            Event::Failed(error) => return Err(error),
        }
    }
    Err(Error::new(
        ErrorKind::Failed,
        "the call ended without saying how",
    ))
}

/// Where a connector puts the events of a call.
pub(super) struct Emit(mpsc::Sender<Event>);

impl Emit {
    pub(super) async fn emit(&self, event: Event) {
        // The other end is dropped together with the call itself.
        let _ = self.0.send(event).await;
    }

    /// A result that came whole.
    pub(super) async fn whole(&self, model: String, deltas: Vec<Delta>, usage: Usage, end: Finish) {
        self.emit(Event::Started { model }).await;
        for delta in deltas {
            self.emit(Event::Delta(delta)).await;
        }
        self.end(usage, end).await;
    }

    pub(super) async fn end(&self, usage: Usage, finish: Finish) {
        self.emit(Event::Usage(usage)).await;
        self.emit(Event::Finished(finish)).await;
    }
}

/// The events that `call` emits, and `Failed` if it fails. It is run by whoever reads them.
pub(super) fn events<Call>(call: impl FnOnce(Emit) -> Call) -> Events
where
    Call: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (emit, mut emitted) = mpsc::channel(WAITING_MAX);
    let mut call: Option<Pin<Box<Call>>> = Some(Box::pin(call(Emit(emit))));
    let mut failed = None;
    stream::poll_fn(move |cx| {
        if let Some(running) = &mut call
            && let Poll::Ready(done) = running.as_mut().poll(cx)
        {
            call = None;
            failed = done.err().map(Event::Failed);
        }
        match emitted.poll_recv(cx) {
            // Its sender went with the call.
            Poll::Ready(None) => Poll::Ready(failed.take()),
            other => other,
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_run_by_its_reader_and_ends_once() {
        let text = |n: usize| Event::Delta(Delta::Text(n.to_string()));
        // More than may wait, and a failure behind them.
        let all = events(move |emit| async move {
            for n in 0..3 * WAITING_MAX {
                emit.emit(text(n)).await;
                tokio::task::yield_now().await;
            }
            Err(Error::new(ErrorKind::Unavailable, "gone"))
        });
        let found: Vec<Event> = all.collect().await;
        assert_eq!(found.len(), 3 * WAITING_MAX + 1);
        assert_eq!(found[3 * WAITING_MAX - 1], text(3 * WAITING_MAX - 1));
        assert!(matches!(found.last(), Some(Event::Failed(_))));
    }

    #[tokio::test]
    async fn a_result_is_all_deltas_and_an_end_that_is_missing_is_an_error() {
        let usage = Usage {
            input_tokens: 2,
            output_tokens: 1,
        };
        let deltas = ["a", "b"].map(|text| Delta::Text(text.to_owned())).to_vec();
        let whole = events(move |emit| async move {
            emit.whole("m".to_owned(), deltas, usage, Finish::Length)
                .await;
            Ok(())
        });
        let mut pieces = Vec::new();
        let found = collect_with(whole, |text| pieces.push(text.to_owned())).await;
        let found = found.expect("a result");
        assert_eq!((found.text.as_str(), found.usage), ("ab", usage));
        assert_eq!(found.finish, Some(Finish::Length));
        assert_eq!(pieces, ["a", "b"]);

        let cut = collect(events(|_| async { Ok(()) })).await;
        assert_eq!(cut.expect_err("no end").kind, ErrorKind::Failed);
    }
}
