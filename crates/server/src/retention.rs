//! Deletes closed runs when their namespace's retention has passed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::{Core, blocking, now};

/// Runs deleted at a time, so that deletion never holds the store for long.
const PAGE: usize = 200;

/// Where runs expire, the next look comes this soon: they go one after the other, as they were closed, and
/// not in one burst beside the traffic.
const SOON: Duration = Duration::from_secs(1);

pub(crate) async fn run(core: Arc<Core>) {
    let most = core.config.retention_interval;
    let mut pause = most;
    while core.stop.sleep(pause).await {
        let mut found = false;
        loop {
            let begun = Instant::now();
            let page = delete_page(&core).await;
            found |= page != Page::Empty;
            // At most half of the time is spent on it.
            if page != Page::Full || !core.stop.sleep(begun.elapsed()).await {
                break;
            }
        }
        pause = next_pause(pause, found, most);
    }
}

/// How long to wait until the next look: less where something was found, more and more where not.
fn next_pause(last: Duration, found: bool, most: Duration) -> Duration {
    let next = if found { SOON } else { last * 2 };
    next.min(most)
}

#[derive(PartialEq)]
enum Page {
    /// Nothing is due, or the store fails: it is left alone until the next look.
    Empty,
    Some,
    /// There may be more.
    Full,
}

/// Deletes some of the runs that are due.
async fn delete_page(core: &Arc<Core>) -> Page {
    let reader = core.clone();
    let read = blocking(move || reader.store.expired_runs(now().0, PAGE)).await;
    let Ok(Ok(expired)) = read else {
        return Page::Empty;
    };
    let mut page = match expired.len() {
        0 => Page::Empty,
        PAGE => Page::Full,
        _ => Page::Some,
    };
    // All are asked for before the first is waited for: they share transactions.
    let deletions: Vec<_> = expired
        .into_iter()
        .map(|run| core.shards.delete(run))
        .collect();
    for deletion in deletions {
        if let Err(error) = deletion.await {
            tracing::warn!(%error, "a run past its retention could not be deleted; it is tried again");
            page = Page::Empty;
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_close_together_only_while_runs_expire() {
        let seconds = Duration::from_secs;
        let rows = [
            (60, true, 1),
            (1, true, 1),
            (1, false, 2),
            (2, false, 4),
            (32, false, 60),
            (60, false, 60),
        ];
        for (last, found, next) in rows {
            assert_eq!(
                next_pause(seconds(last), found, seconds(60)),
                seconds(next),
                "{last} {found}"
            );
        }
        let often = Duration::from_millis(10);
        assert_eq!(next_pause(often, true, often), often);
    }
}
