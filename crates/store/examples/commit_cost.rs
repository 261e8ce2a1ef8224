//! What a commit costs: time, CPU, bytes written, flushes.
//!
//! `cargo run --release -p tidemill-store --example commit_cost -- FOLDER [sqlite]`
//!
//! Of the store with a log, or of SQLite's tables alone.
//!
//! A typical commit adds a history batch of 250 bytes, replaces a state row of 180 bytes, adds a
//! task and removes the one before it. CPU and bytes are those of the whole process, from `/proc`.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use tidemill_store::logged::{self, LoggedStore};
use tidemill_store::sqlite::{self, SqliteStore};
use tidemill_store::*;

/// Runs that are open at a time; commits go round them.
const RUNS: usize = 1000;

fn main() {
    let folder = std::env::args().nth(1).expect("the folder to write into");
    let path = Path::new(&folder).join("commit_cost.db");
    for batch in [1, 32] {
        typical(
            &*fresh(&path),
            batch,
            if batch == 1 { 20_000 } else { 200_000 },
        );
    }
    for callers in [1, 32, 256] {
        through_committer(
            fresh(&path),
            callers,
            if callers == 1 { 20_000 } else { 200_000 },
        );
    }
    for batch in [1, 32] {
        lifecycle(
            &*fresh(&path),
            batch,
            if batch == 1 { 1_000 } else { 10_000 },
        );
    }
    remove(&path);
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

fn fresh(path: &Path) -> Arc<dyn Store> {
    remove(path);
    let store: Arc<dyn Store> = if std::env::args().nth(2).as_deref() == Some("sqlite") {
        Arc::new(SqliteStore::open(path, sqlite::Options::default()).unwrap())
    } else {
        Arc::new(LoggedStore::open(path, logged::Options::default()).unwrap())
    };
    let start: Vec<Commit> = (1..=RUNS)
        .map(|run| Work::new(run as i64).start())
        .collect();
    store.apply(&start.iter().collect::<Vec<_>>()).unwrap();
    store
}

fn typical(store: &dyn Store, batch: usize, commits: usize) {
    let mut work: Vec<Work> = (1..=RUNS).map(|run| Work::new(run as i64)).collect();
    let made: Vec<Commit> = (0..commits).map(|n| work[n % RUNS].step()).collect();
    let meter = Meter::start(store);
    for chunk in made.chunks(batch) {
        store.apply(&chunk.iter().collect::<Vec<_>>()).unwrap();
    }
    meter.report(
        &format!("typical commits, {batch} per transaction"),
        commits,
        store,
    );
}

/// `callers` commits in flight: each completion submits the next.
fn through_committer(store: Arc<dyn Store>, callers: usize, commits: usize) {
    let mut work: Vec<Work> = (1..=RUNS).map(|run| Work::new(run as i64)).collect();
    let mut made: Vec<Commit> = (0..commits).map(|n| work[n % RUNS].step()).collect();
    made.reverse();
    let committer = Committer::start(store.clone());
    let (send, done) = mpsc::channel();
    let meter = Meter::start(&*store);
    let mut submit = || {
        if let Some(commit) = made.pop() {
            let send = send.clone();
            committer.submit(
                0,
                0,
                commit,
                Box::new(move |outcome| send.send(outcome).unwrap()),
            );
        }
    };
    (0..callers).for_each(|_| submit());
    for _ in 0..commits {
        done.recv().unwrap().unwrap();
        submit();
    }
    meter.report(
        &format!("through the committer, {callers} in flight"),
        commits,
        &*store,
    );
    let stats = committer.stats();
    println!(
        "    mean batch {:.1}",
        stats.batch_size_sum as f64 / stats.transactions as f64
    );
}

/// Whole runs: start, 8 typical commits, close; then deletion.
fn lifecycle(store: &dyn Store, batch: usize, runs: usize) {
    let mut commits = Vec::new();
    for group in (RUNS + 1..=RUNS + runs).collect::<Vec<_>>().chunks(batch) {
        let mut work: Vec<Work> = group.iter().map(|run| Work::new(*run as i64)).collect();
        commits.extend(work.iter_mut().map(|work| work.start()));
        for _ in 0..8 {
            commits.extend(work.iter_mut().map(Work::step));
        }
        commits.extend(work.iter_mut().map(Work::close));
    }
    let meter = Meter::start(store);
    for chunk in commits.chunks(batch) {
        store.apply(&chunk.iter().collect::<Vec<_>>()).unwrap();
    }
    meter.report(
        &format!("whole runs of 10 commits, {batch} per transaction (per run)"),
        runs,
        store,
    );
    let deletes: Vec<Commit> = (RUNS + 1..=RUNS + runs)
        .map(|run| Commit {
            deletes: vec![RunNo(run as i64)],
            ..Commit::default()
        })
        .collect();
    let meter = Meter::start(store);
    for chunk in deletes.chunks(batch) {
        store.apply(&chunk.iter().collect::<Vec<_>>()).unwrap();
    }
    meter.report(
        &format!("deleting them, {batch} per transaction (per run)"),
        runs,
        store,
    );
}

/// One run's commits, one after the other.
struct Work {
    run: i64,
    event: i64,
    task: Option<TaskKey>,
}

impl Work {
    fn new(run: i64) -> Self {
        Work {
            run,
            event: 3,
            task: None,
        }
    }

    fn write(&self) -> RunWrite {
        RunWrite::new(RunNo(self.run))
    }

    fn execution(&self, closed: bool) -> Box<Execution> {
        let start_time = 1_700_000_000_000_000_000 + self.run * 1_000_000;
        // Scattered, as ids from clients are.
        let scattered = (self.run as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Box::new(Execution {
            namespace: [1; 16],
            workflow_id: format!("order-{scattered:016x}").into(),
            run_id: (u128::from(start_time as u64) << 64 | u128::from(scattered)).to_be_bytes(),
            workflow_type: "OrderWorkflow".into(),
            task_queue: "orders".into(),
            status: if closed { 2 } else { 1 },
            start_time,
            execution_time: start_time,
            close_time: closed.then_some(start_time + 1_000_000_000),
            history_length: closed.then_some(25),
            history_size_bytes: closed.then_some(2500),
            execution_duration: closed.then_some(1_000_000_000),
            state_transition_count: closed.then_some(10),
            info: Bytes::from(vec![7; 200]),
            delete_after: closed.then_some(start_time + 86_400_000_000_000),
            ..Execution::default()
        })
    }

    fn start(&self) -> Commit {
        let write = RunWrite {
            execution: Some(self.execution(false)),
            history: vec![HistoryBatch {
                first_event_id: 1,
                last_event_id: 2,
                bytes: Bytes::from(vec![1; 400]),
            }],
            state: vec![StateRow {
                kind: 0,
                id: 0,
                value: Some(Bytes::from(vec![2; 180])),
            }],
            due: Some(Some(1_800_000_000_000_000_000 + self.run)),
            ..self.write()
        };
        Commit {
            runs: vec![write],
            ..Commit::default()
        }
    }

    fn step(&mut self) -> Commit {
        let queue = QueueName {
            namespace: [1; 16],
            name: "orders".into(),
            kind: 1,
        };
        let key = TaskKey {
            queue,
            priority: 3,
            seq: self.event * 1_000_000 + self.run,
        };
        let task = TaskRow {
            key: key.clone(),
            run: RunNo(self.run),
            scheduled_event_id: self.event,
            stamp: 1,
            created: 1_700_000_000_000_000_000,
        };
        let write = RunWrite {
            history: vec![HistoryBatch {
                first_event_id: self.event,
                last_event_id: self.event + 2,
                bytes: Bytes::from(vec![3; 250]),
            }],
            state: vec![StateRow {
                kind: 0,
                id: 0,
                value: Some(Bytes::from(vec![self.event as u8; 180])),
            }],
            tasks_added: vec![task],
            tasks_removed: self.task.replace(key).into_iter().collect(),
            ..self.write()
        };
        self.event += 3;
        Commit {
            runs: vec![write],
            ..Commit::default()
        }
    }

    fn close(&mut self) -> Commit {
        let write = RunWrite {
            execution: Some(self.execution(true)),
            history: vec![HistoryBatch {
                first_event_id: self.event,
                last_event_id: self.event,
                bytes: Bytes::from(vec![4; 250]),
            }],
            state: vec![StateRow {
                kind: 0,
                id: 0,
                value: Some(Bytes::from(vec![5; 60])),
            }],
            tasks_removed: self.task.take().into_iter().collect(),
            due: Some(None),
            ..self.write()
        };
        Commit {
            runs: vec![write],
            ..Commit::default()
        }
    }
}

struct Meter {
    started: Instant,
    cpu_ms: u64,
    written: u64,
    fsyncs: u64,
}

impl Meter {
    fn start(store: &dyn Store) -> Self {
        Meter {
            cpu_ms: cpu_ms(),
            written: written(),
            fsyncs: store.fsyncs(),
            started: Instant::now(),
        }
    }

    fn report(&self, what: &str, count: usize, store: &dyn Store) {
        let seconds = self.started.elapsed().as_secs_f64();
        let each = |total: u64| total as f64 / count as f64;
        println!(
            "{what}: {:.0}/s, {:.1} us CPU, {:.0} bytes written, {:.3} fsyncs each",
            count as f64 / seconds,
            each((cpu_ms() - self.cpu_ms) * 1000),
            each(written() - self.written),
            each(store.fsyncs() - self.fsyncs),
        );
        println!("    {} fsyncs since the store was opened", store.fsyncs());
    }
}

/// CPU time of the process; the kernel counts in hundredths of a second.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<u64>().unwrap() * 10)
        .sum()
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .unwrap()
        .parse()
        .unwrap()
}
