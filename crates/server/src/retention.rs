//! Deletes closed runs when their namespace's retention has passed.

use std::sync::Arc;

use crate::core::{Core, now};

/// Runs deleted at a time, so that deletion never holds the store for long.
const PAGE: usize = 200;

pub(crate) async fn run(core: Arc<Core>) {
    while core.stop.sleep(core.config.retention_interval).await {
        while delete_page(&core).await {}
    }
}

/// Deletes some of the runs that are due; whether to go on at once. A store that fails is left
/// alone until the next look.
async fn delete_page(core: &Arc<Core>) -> bool {
    let reader = core.clone();
    let read = tokio::task::spawn_blocking(move || reader.store.expired_runs(now().0, PAGE)).await;
    let Ok(Ok(expired)) = read else { return false };
    let mut go_on = expired.len() == PAGE;
    // All are asked for before the first is waited for: they share transactions.
    let deletions: Vec<_> = expired
        .into_iter()
        .map(|run| core.shards.delete(run))
        .collect();
    for deletion in deletions {
        if let Err(error) = deletion.await {
            tracing::warn!(%error, "a run past its retention could not be deleted; it is tried again");
            go_on = false;
        }
    }
    go_on
}
