//! The way of records that are no runs (namespaces, what was set on task queues) into the store: one
//! change at a time, shown when it is durable.

use std::sync::Arc;

use tidemill_engine::Error;
use tidemill_store::committer::NO_LANE;
use tidemill_store::{Commit, Committer};

use crate::core::stopping;

/// Writes the records of one kind.
pub(crate) struct RecordWriter {
    turn: Arc<tokio::sync::Mutex<()>>,
    committer: Arc<Committer>,
}

/// The right to change a record. Held from reading it to the change being durable or not, whether or
/// not the caller waits for that: so every change rests on what is durable.
pub(crate) type Turn = tokio::sync::OwnedMutexGuard<()>;

impl RecordWriter {
    pub(crate) fn new(committer: Arc<Committer>) -> Self {
        Self {
            turn: Arc::default(),
            committer,
        }
    }

    /// Waits until nobody else changes a record of the kind.
    pub(crate) async fn turn(&self) -> Turn {
        self.turn.clone().lock_owned().await
    }

    /// Writes and, once that is durable, calls `show`. The caller may go away: what is stored is
    /// shown all the same.
    pub(crate) async fn write(
        &self,
        turn: Turn,
        commit: Commit,
        show: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let (done, durable) = tokio::sync::oneshot::channel();
        self.committer.submit(
            NO_LANE,
            0,
            commit,
            Box::new(move |result| {
                if result.is_ok() {
                    show();
                }
                drop(turn);
                let _ = done.send(result.map_err(|error| error.to_string()));
            }),
        );
        match durable.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(text)) => Err(Error::Unavailable(text)),
            Err(_) => Err(stopping()),
        }
    }
}
