//! While one caller is alone, the runtime's other threads stand aside.
//!
//! ```text
//! a caller's commit, written on its own thread --32 in a row, quickly--> aside --> the others wait
//!                                                                         |
//!              together <-- somebody else has come, or nothing was written for a while
//! ```
//!
//! A thread of tokio's that finds work wakes another one to look for more. With one caller there is no more: that
//! thread is woken, looks and sleeps again, a few times for each call, on the core where the caller's next
//! request is being made. So the others are kept busy with waiting, each by a task that blocks it.
//!
//! The thread that is left writes the caller's commits itself and sees nobody meanwhile. That others have come shows
//! in this: from one commit to the next it finds no moment to sleep, [`CROWD`] times in a row. And a disk that takes
//! long, or a task that does, keeps others waiting for no more than two [`LOOK`]s.

use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// So many commits of a caller who is alone, each soon after the one before, make it worth it: to stand
/// aside, and to come back, costs as much as a few commits.
const ROW: u32 = 32;
const SOON: Duration = Duration::from_millis(1);

/// A caller who is alone and quick may come while its last answer is still being sent: one commit in 20 to 100
/// does, three in a row one in 4,000. Of two callers nearly all do.
const CROWD: u32 = 4;

/// How often a thread that stands aside looks whether commits still come.
const LOOK: Duration = Duration::from_millis(2);

/// Knows whether one caller is alone.
pub(crate) struct Lone {
    /// A caller who is alone writes its commit itself.
    callers_commit: bool,
    /// The threads that can stand aside.
    others: usize,
    state: Mutex<State>,
    together: Condvar,
    /// Counts the times that the others stood aside.
    times: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The others stand aside, or are about to.
    aside: bool,
    /// Which time it is.
    time: u64,
    /// One of them looks whether commits still come.
    watched: bool,
    /// Commits that callers have written.
    commits: u64,
    /// How many of them came soon one after the other.
    row: u32,
    last: Option<Instant>,
    /// Who wrote the last one, and how often that thread had slept then.
    sleeps: Option<(ThreadId, i64)>,
    /// How many in a row came before that thread slept again.
    crowd: u32,
}

impl Lone {
    /// For a runtime with so many threads.
    pub(crate) fn new(callers_commit: bool, threads: usize) -> Self {
        let can = callers_commit && sleeps().is_some();
        Self {
            callers_commit,
            others: if can { threads.saturating_sub(1) } else { 0 },
            state: Mutex::default(),
            together: Condvar::new(),
            times: watch::Sender::new(0),
        }
    }

    /// Starts the tasks that block the others.
    pub(crate) fn start(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let task = |_| {
            let (lone, mut times) = (self.clone(), self.times.subscribe());
            tokio::spawn(async move {
                while times.changed().await.is_ok() {
                    let time = *times.borrow_and_update();
                    lone.stand_aside(time);
                }
            })
        };
        (0..self.others).map(task).collect()
    }

    /// Whether a caller's thread may write its commit now, if the committer agrees that it is alone.
    pub(crate) fn may_commit(&self) -> bool {
        if self.others == 0 {
            return self.callers_commit;
        }
        let mut state = self.state.lock();
        if !state.aside || state.sleeps != sleeps() {
            state.crowd = 0;
            return true;
        }
        state.crowd += 1;
        if state.crowd == CROWD {
            self.come_back(&mut state);
        }
        state.aside
    }

    /// A commit was handed in: the caller's thread has written it, or somebody else will.
    pub(crate) fn committed(&self, here: bool) {
        if self.others == 0 {
            return;
        }
        let mut state = self.state.lock();
        if !here {
            return self.come_back(&mut state);
        }
        let now = Instant::now();
        let soon = state.last.is_some_and(|last| now - last < SOON);
        state.row = if soon { state.row + 1 } else { 0 };
        state.last = Some(now);
        state.commits += 1;
        if state.row >= ROW && !state.aside {
            state.aside = true;
            state.watched = false;
            state.time += 1;
            self.times.send_replace(state.time);
        }
        if state.aside {
            state.sleeps = sleeps();
        }
    }

    /// Blocks a thread for as long as a caller is alone.
    fn stand_aside(&self, time: u64) {
        let mut state = self.state.lock();
        if state.time != time {
            return;
        }
        let watch = !std::mem::replace(&mut state.watched, true);
        let mut seen = state.commits;
        while state.aside && state.time == time {
            if !watch {
                self.together.wait(&mut state);
            } else if self.together.wait_for(&mut state, LOOK).timed_out() {
                if state.commits == seen {
                    self.come_back(&mut state);
                }
                seen = state.commits;
            }
        }
    }

    fn come_back(&self, state: &mut MutexGuard<'_, State>) {
        state.row = 0;
        state.crowd = 0;
        if state.aside {
            state.aside = false;
            self.together.notify_all();
        }
    }
}

/// This thread, and how often it has slept since it began; none where the system does not say.
fn sleeps() -> Option<(ThreadId, i64)> {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
        Some((thread::current().id(), usage.voluntary_context_switches()))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::HashMap;
    use std::sync::mpsc;

    use super::*;

    const NAP: Duration = Duration::from_micros(20);

    /// One of a runtime with two threads, after a caller has been alone for long enough.
    fn alone() -> (tokio::runtime::Runtime, Arc<Lone>) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        let lone = Arc::new(Lone::new(true, 2));
        runtime.block_on(async { lone.start() });
        commit_until_aside(&lone);
        (runtime, lone)
    }

    /// Which time it is that the other thread stands aside, if it does.
    fn aside(lone: &Lone) -> Option<u64> {
        let state = lone.state.lock();
        (state.aside && state.watched).then_some(state.time)
    }

    fn commit_until_aside(lone: &Lone) -> u64 {
        loop {
            if let Some(time) = aside(lone) {
                return time;
            }
            thread::sleep(NAP);
            assert!(lone.may_commit());
            lone.committed(true);
        }
    }

    #[test]
    fn one_thread_serves_while_a_caller_is_alone() {
        let (runtime, lone) = alone();
        let mut threads = HashMap::<ThreadId, u32>::new();
        while threads.values().sum::<u32>() < 50 {
            let time = commit_until_aside(&lone);
            let (tell, told) = mpsc::channel();
            runtime.spawn(async move { tell.send(thread::current().id()) });
            let thread = told.recv().unwrap();
            // It may have come back on a machine that gave us no time.
            if aside(&lone) == Some(time) {
                *threads.entry(thread).or_default() += 1;
            } else {
                threads.clear();
            }
        }
        assert_eq!(threads.len(), 1);
    }

    #[test]
    fn the_others_come_back_when_nothing_is_written_any_more() {
        let (_runtime, lone) = alone();
        while aside(&lone).is_some() {
            thread::sleep(NAP);
        }
    }

    #[test]
    fn the_others_come_back_when_commits_leave_no_time_to_sleep() {
        let (_runtime, lone) = alone();
        let refused = (0..100_000).any(|_| {
            lone.committed(true);
            !lone.may_commit()
        });
        assert!(refused);
        assert_eq!(aside(&lone), None);
    }

    #[test]
    fn who_comes_too_late_does_not_count_as_the_one_who_looks() {
        let lone = Lone::new(true, 2);
        while !lone.state.lock().aside {
            thread::sleep(NAP);
            lone.committed(true);
        }
        let time = lone.state.lock().time;
        lone.stand_aside(time - 1);
        assert!(!lone.state.lock().watched);
    }

    #[test]
    fn the_others_come_back_when_a_commit_is_written_elsewhere() {
        let (_runtime, lone) = alone();
        lone.committed(false);
        assert_eq!(aside(&lone), None);
    }
}
