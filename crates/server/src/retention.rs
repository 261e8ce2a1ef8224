//! Deletes closed runs when their namespace's retention has passed.

use std::sync::Arc;
use std::time::Duration;

use tidemill_store::RunIdentity;

use crate::core::{Core, now};

/// Runs deleted at a time, so that deletion never holds the store for long.
const PAGE: usize = 200;
/// Retention is counted in hours: a look each minute is often enough.
const INTERVAL: Duration = Duration::from_secs(60);

pub(crate) async fn run(core: Arc<Core>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        while let Ok(Ok(expired)) = {
            let core = core.clone();
            tokio::task::spawn_blocking(move || core.store.expired_runs(now().0, PAGE)).await
        } {
            let full = expired.len() == PAGE;
            for run in expired {
                delete(&core, run).await;
            }
            if !full {
                break;
            }
        }
    }
}

async fn delete(core: &Arc<Core>, run: RunIdentity) {
    let Ok(namespace) = core.namespaces.by_id(&run.namespace) else { return };
    if let Err(error) = core.shards.delete(&namespace, run).await {
        tracing::warn!(%error, "a run past its retention could not be deleted; it is tried again");
    }
}
