//! Long polls: who waits is told of what happens from then on.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicI64, Ordering};
use shuttle::thread;
use tidemill_engine::UpdateEvent;
use tidemill_store::RunNo;

use crate::explore::explore;
use crate::waiters::{QueryEvent, Waiters};

const RUN: RunNo = RunNo(1);
const SCHEDULES: usize = 4_000;

/// Readers look, and wait for more if that is not all; others stop waiting meanwhile.
pub fn history_grows_beside_waits() {
    explore(SCHEDULES, || {
        const ALL: i64 = 3;
        let waiters = Arc::new(Waiters::new());
        let length = Arc::new(AtomicI64::new(0));
        let writer = {
            let (waiters, length) = (waiters.clone(), length.clone());
            thread::spawn(move || {
                for n in 1..=ALL {
                    length.store(n, Ordering::SeqCst);
                    waiters.history_grew(RUN, n == ALL);
                }
            })
        };
        let reader = |close: bool| {
            let (waiters, length) = (waiters.clone(), length.clone());
            thread::spawn(move || {
                let mut wait = if close {
                    waiters.watch_close(RUN)
                } else {
                    waiters.watch_history(RUN)
                };
                while length.load(Ordering::SeqCst) < ALL {
                    assert!(block_on(wait.told()), "nobody stops");
                }
            })
        };
        let readers = [reader(false), reader(true)];
        let goes = {
            let waiters = waiters.clone();
            thread::spawn(move || {
                drop(waiters.watch_history(RUN));
                drop(waiters.watch_close(RUN));
            })
        };
        for thread in readers.into_iter().chain([writer, goes]) {
            thread.join().unwrap();
        }
    });
}

/// An update or a query is waited for before it is sent: its event comes, or the word that nobody will
/// tell any more.
pub fn answers_beside_a_reload_and_a_stop() {
    explore(SCHEDULES, || {
        let waiters = Arc::new(Waiters::new());
        let mut update = waiters.wait_for_update(RUN, "a");
        let mut query = waiters.wait_for_query(RUN);
        let id = query.id().to_owned();
        let worker = {
            let waiters = waiters.clone();
            thread::spawn(move || {
                waiters.update_event(RUN, "a", &UpdateEvent::Accepted);
                waiters.query_event(&id, QueryEvent::Released);
            })
        };
        let another = {
            let waiters = waiters.clone();
            thread::spawn(move || {
                let mut wait = waiters.wait_for_update(RUN, "b");
                block_on(wait.event())
            })
        };
        let reload = {
            let waiters = waiters.clone();
            thread::spawn(move || waiters.run_dropped(RUN))
        };
        assert!(matches!(
            block_on(update.event()),
            None | Some(UpdateEvent::Accepted)
        ));
        assert!(matches!(
            block_on(query.event()),
            None | Some(QueryEvent::Released)
        ));
        let stop = {
            let waiters = waiters.clone();
            thread::spawn(move || waiters.close())
        };
        assert_eq!(another.join().unwrap(), None);
        for thread in [worker, reload, stop] {
            thread.join().unwrap();
        }
        assert!(block_on(waiters.wait_for_query(RUN).event()).is_none());
    });
}
