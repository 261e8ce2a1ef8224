//! A simulation of the engine: the real server over the real store, with the clock, the disk, the
//! crashes, the clients and the workers made up from a seed.
//!
//! One seed is one history. It is the same each time it is run, whatever the machine does meanwhile:
//!
//! - **One thread.** Server, clients and workers are tasks of a current-thread runtime. The committer's
//!   threads and the store's are tasks too, which step them (`Committer::stepped`, `LoggedStore::open_on`);
//!   calls that block are made in place (`core::blocking`).
//! - **Time** is tokio's, paused: it goes on when everybody waits for it. The wall clock follows.
//! - **Randomness** comes from the seed, the system's too: see [`host`].
//! - **The log's disk** is the store's simulated one. **SQLite** writes real files, in memory where the
//!   system has a place for that. After a power cut they hold what SQLite had flushed when it was
//!   opened, and its log any part of what came after: nothing else writes to them in so short a life.
//!
//! A crash drops the runtime with all its tasks. What clients and workers know stays, and they go on
//! with the next process: requests that were not answered are sent again, tasks that were taken are
//! answered.
//!
//! Nothing that the oracles ([`oracle`]) know comes from the engine: they see requests and answers.

mod clients;
mod host;
mod life;
mod oracle;
mod plan;
mod shrink;
mod trace;
mod workers;
mod world;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use tidemill_store::log::sim::{Faults, SimDisk};
use tokio::runtime::Builder;

use crate::life::{End, Remains};
pub use crate::plan::Limits;
pub use crate::shrink::{Shrunk, shrink};
pub use crate::world::Stats;
use crate::world::World;

/// What became of a seed.
pub struct Outcome {
    pub seed: u64,
    /// Of all that happened. The same for each run of the seed.
    pub hash: u64,
    /// What must not be and was.
    pub findings: Vec<String>,
    pub trace: Vec<String>,
    pub stats: Stats,
    /// The names of its parts, which [`Limits`] can leave out.
    pub parts: Vec<String>,
}

/// Runs a seed. `loud` prints what happens.
///
/// # Panics
/// When the system has no thread or no room for it.
pub fn run(seed: u64, loud: bool) -> Outcome {
    run_limited(seed, &Limits::default(), loud)
}

/// Runs a seed without some of its parts.
///
/// # Panics
/// When the system has no thread or no room for it.
pub fn run_limited(seed: u64, limits: &Limits, loud: bool) -> Outcome {
    let limits = limits.clone();
    std::thread::Builder::new()
        .name(format!("seed-{seed}"))
        .spawn(move || simulate(seed, &limits, loud))
        .expect("the system has a thread")
        .join()
        .unwrap_or_else(|panic| {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            panic!("the simulation of seed {seed} panicked: {what}")
        })
}

fn simulate(seed: u64, limits: &Limits, loud: bool) -> Outcome {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let base = base.expect("there is room for a folder");
    static HOOK: Once = Once::new();
    HOOK.call_once(host::watch_panics);
    host::enter(seed);
    let world = World::new(seed, limits, loud);
    let mut disk = SimDisk::default();
    let mut folder = life::next_folder(base.path());
    std::fs::create_dir(&folder).expect("there is room for a folder");
    loop {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime is made");
        let mut remains = Remains::default();
        let end = runtime.block_on(life::live(&world, &disk, &folder, &mut remains));
        let (left, next) = match end {
            End::Stopped | End::Done => (None, None),
            End::Killed => (
                Some(disk.after_kill()),
                Some(copy(&folder, base.path(), None, &world)),
            ),
            End::PowerCut => (
                Some(world.with(|shared| disk.after_power_cut(&mut shared.random))),
                Some(copy(
                    &folder,
                    base.path(),
                    remains.durable_wal.as_ref(),
                    &world,
                )),
            ),
        };
        if left.is_some() {
            disk.set_faults(Faults {
                power: Some(0),
                ..Faults::default()
            });
        }
        drop(runtime);
        if !remains.clear() {
            world.find("the store is held after the process's end");
        }
        match end {
            End::Done => break,
            End::Stopped => world.say("---- the server was stopped ----"),
            End::Killed => world.say("---- the process was killed ----"),
            End::PowerCut => world.say("---- the power was cut ----"),
        }
        world.with(|shared| shared.stats.crashes += 1);
        if matches!(end, End::Stopped) && disk.is_off() {
            // The power went while the store was closed.
            disk = world.with(|shared| disk.after_power_cut(&mut shared.random));
        }
        if let (Some(left), Some(next)) = (left, next) {
            let _ = std::fs::remove_dir_all(&folder);
            (disk, folder) = (left, next);
        }
    }
    for panic in host::panics() {
        world.find(format!("a panic: {panic}"));
    }
    world.with(|shared| Outcome {
        seed,
        hash: shared.trace.hash(),
        findings: std::mem::take(&mut shared.findings),
        trace: shared.trace.take(),
        stats: shared.stats,
        parts: world.parts.to_vec(),
    })
}

/// The data file and SQLite's log as a crash leaves them.
fn copy(
    folder: &Path,
    base: &Path,
    durable: Option<&Arc<AtomicU64>>,
    world: &World,
) -> std::path::PathBuf {
    let next = life::next_folder(base);
    std::fs::create_dir(&next).expect("there is room for a folder");
    for name in ["data.db", "data.db-wal"] {
        // The first life may end before there is a file.
        let _ = std::fs::copy(folder.join(name), next.join(name));
    }
    if let Some(durable) = durable {
        let durable = durable.load(Ordering::Relaxed);
        let written = life::wal_bytes(&next);
        let left = durable + world.below((written - durable + 1) as usize) as u64;
        if let Ok(wal) = std::fs::File::options()
            .write(true)
            .open(next.join("data.db-wal"))
        {
            wal.set_len(left).expect("a file can be cut");
        }
    }
    next
}
