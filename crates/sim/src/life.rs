//! One life of a server's process: from an opening of the store to a crash, or to the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemill_server::namespaces::{DEFAULT, Namespace, Registration};
use tidemill_server::{Config, Server};
use tidemill_store::log::sim::{Faults, SimDisk};
use tidemill_store::logged::{LoggedStore, Options};
use tidemill_store::{Committer, Store};
use tokio::sync::Notify;

use crate::world::{World, now};
use crate::{clients, host, oracle, workers};

/// What others need to call the server.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) world: World,
    pub(crate) server: Server,
    pub(crate) namespace: Namespace,
}

/// How a life ended.
pub(crate) enum End {
    /// The process was killed: what was written is there.
    Killed,
    /// The power went.
    PowerCut,
    /// The server was stopped and the store closed.
    Stopped,
    /// Everything is done.
    Done,
}

/// What is left of a life, to be cleared away when its runtime is gone.
#[derive(Default)]
pub(crate) struct Remains {
    store: Option<Arc<LoggedStore>>,
    committer: Option<Arc<Committer>>,
    /// How much of SQLite's log was flushed: a power cut leaves that, and any part of what came after.
    pub(crate) durable_wal: Option<Arc<AtomicU64>>,
}

impl Remains {
    /// Ends what the process would have ended with. True when nothing holds the store any more.
    pub(crate) fn clear(self) -> bool {
        if let Some(committer) = self.committer {
            committer.close();
        }
        let Some(store) = self.store else { return true };
        let gone = Arc::downgrade(&store);
        drop(store);
        gone.upgrade().is_none()
    }
}

/// How long everything may take once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(900);

/// Of closed runs; the least there is. Nothing else takes so long.
pub(crate) const RETENTION: Duration = Duration::from_secs(3_600);

/// Lives.
pub(crate) async fn live(
    world: &World,
    disk: &SimDisk,
    folder: &Path,
    remains: &mut Remains,
) -> End {
    host::attach();
    world.with(|shared| shared.disk_bad_until = shared.disk_bad_until.min(host::wall()));
    let chaos = Chaos {
        disk: disk.clone(),
        power: Arc::new(AtomicU64::new(NEVER)),
        crash: Arc::default(),
    };
    if oracle::retention::ends_early(world) {
        chaos.cut_within(world, 60);
    } else if world.plan.faults.crashes && !world.is_calm() && world.one_in(3) {
        chaos.cut_within(world, 400);
    } else {
        chaos.keep_power();
    }

    let options = Options {
        bytes: 4096 << world.below(8),
        ..Options::default()
    };
    let store = match LoggedStore::open_on(&folder.join("data.db"), Arc::new(disk.clone()), options)
    {
        Ok(store) => Arc::new(store),
        Err(_) if disk.is_off() => return End::PowerCut,
        Err(error) => {
            world.find(format!("the store does not open: {error}"));
            return End::Done;
        }
    };
    remains.store = Some(store.clone());
    let durable_wal = Arc::new(AtomicU64::new(wal_bytes(folder)));
    remains.durable_wal = Some(durable_wal.clone());

    let submitted = Arc::new(Notify::new());
    let (wake, count) = (submitted.clone(), chaos.counted(world));
    let wake = move || {
        count();
        wake.notify_one();
    };
    // In some lives callers never write themselves.
    let (chance, alone, power) = (world.below(3), world.clone(), disk.clone());
    let count = chaos.counted(world);
    let here = move || {
        count();
        !power.is_off() && chance > 0 && alone.one_in(chance)
    };
    let committer = Arc::new(Committer::stepped(store.clone(), wake, here));
    remains.committer = Some(committer.clone());
    tokio::spawn(commit(
        world.clone(),
        chaos.clone(),
        committer.clone(),
        submitted,
    ));
    tokio::spawn(tend(
        world.clone(),
        chaos.clone(),
        store.clone(),
        folder.to_owned(),
        durable_wal,
    ));

    let life = serve(world, store.clone(), committer, &chaos);
    let crash = async {
        tokio::select! {
            biased;
            () = chaos.crash.notified() => {}
            end = die(world) => return end,
        }
        if world.is_stuck() {
            End::Done
        } else if oracle::retention::is_awaited(world) && world.one_in(2) {
            // What was written is there.
            End::Killed
        } else {
            End::PowerCut
        }
    };
    let end = tokio::select! {
        biased;
        end = crash => end,
        end = life => end,
    };
    host::detach();
    end
}

pub(crate) fn wal_bytes(folder: &Path) -> u64 {
    std::fs::metadata(folder.join("data.db-wal")).map_or(0, |file| file.len())
}

async fn serve(
    world: &World,
    store: Arc<LoggedStore>,
    committer: Arc<Committer>,
    chaos: &Chaos,
) -> End {
    let config = Config {
        namespaces: vec![Registration {
            name: DEFAULT.to_owned(),
            retention: RETENTION,
            ..Default::default()
        }],
        shards: world.plan.shards,
        cache_bytes: if world.one_in(3) { 0 } else { 1 << 20 },
        callers_commit: Some(true),
        ..Default::default()
    };
    let server = loop {
        // Opened by hand where it fails, as a supervisor would.
        let started = Server::start_with(
            store.clone() as Arc<dyn Store>,
            committer.clone(),
            config.clone(),
        );
        match started.await {
            Ok(server) => break server,
            Err(error) => world.say(format!("the server does not start: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let Ok(namespace) = server.namespaces().by_name(DEFAULT) else {
        world.find("the namespace is missing");
        return End::Done;
    };
    let link = Link {
        world: world.clone(),
        server: server.clone(),
        namespace,
    };
    let end = if oracle::retention::is_awaited(world) {
        End::Done
    } else {
        work(&link, chaos, store.clone()).await
    };
    if matches!(end, End::Done) && oracle::retention::is_awaited(world) {
        if world.plan.faults.disk {
            tokio::spawn(spoil_deletions(world.clone(), chaos.clone(), store));
        }
        oracle::retention::watch(&link, &chaos.disk).await;
    }
    if server.metrics().contained_failures.get() > 0 {
        world.find("the engine broke an invariant of its own");
    }
    end
}

/// Clients and workers do what they want to do; then all that came of it is looked at.
async fn work(link: &Link, chaos: &Chaos, store: Arc<LoggedStore>) -> End {
    let (world, server) = (&link.world, &link.server);
    if world.plan.faults.disk {
        let (calm, chaos) = (world.clone(), chaos.clone());
        tokio::spawn(spoil(world.clone(), chaos, store, move || !calm.is_calm()));
    }
    workers::begin(link);
    clients::begin(link);
    let finished = async {
        clients::until_done(world).await;
        End::Done
    };
    let stop = async {
        let wait = 1_000 + world.below(60_000) as u64;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        if !world.plan.faults.crashes || world.is_calm() {
            std::future::pending::<()>().await;
        }
        End::Stopped
    };
    let end = tokio::select! {
        biased;
        end = finished => end,
        end = stop => end,
        () = tokio::time::sleep((world.plan.calm_from + PATIENCE).saturating_sub(now())) => {
            world.find(format!("not done in time: {}", clients::undone(world).join(", ")));
            End::Done
        }
    };
    if matches!(end, End::Stopped) {
        server.shutdown().await;
        return end;
    }
    // So that everything is looked at once.
    chaos.keep_power();
    oracle::at_the_end(link).await;
    if oracle::retention::ends_early(world) {
        chaos.cut_within(world, 40);
    }
    end
}

/// Ends the process at some moment.
async fn die(world: &World) -> End {
    if !world.plan.faults.crashes || world.is_calm() {
        std::future::pending::<()>().await;
    }
    let most = 1 << (4 + world.below(11));
    tokio::time::sleep(Duration::from_millis(world.below(most) as u64)).await;
    if world.is_calm() {
        std::future::pending::<()>().await;
    }
    if world.one_in(2) {
        End::Killed
    } else {
        End::PowerCut
    }
}

/// Does the work of the committer's threads.
async fn commit(world: World, chaos: Chaos, committer: Arc<Committer>, submitted: Arc<Notify>) {
    loop {
        submitted.notified().await;
        loop {
            world.dawdle(world.with(|shared| shared.latency_ms)).await;
            let Some(finished) = committer.step() else {
                break;
            };
            if chaos.disk.is_off() {
                // Nobody hears of anything any more.
                chaos.crash.notify_one();
                return std::future::pending().await;
            }
            world.dawdle(world.with(|shared| shared.latency_ms)).await;
            finished.call_back();
        }
    }
}

/// Does the work of the store's thread.
async fn tend(
    world: World,
    chaos: Chaos,
    store: Arc<LoggedStore>,
    folder: PathBuf,
    durable: Arc<AtomicU64>,
) {
    loop {
        world.dawdle(2_000).await;
        if chaos.disk.is_off() {
            chaos.crash.notify_one();
            return;
        }
        if store.tend() {
            durable.store(wal_bytes(&folder), Ordering::Relaxed);
        }
    }
}

/// What goes wrong with the disk.
#[derive(Clone)]
struct Chaos {
    disk: SimDisk,
    /// The power goes after so many operations.
    power: Arc<AtomicU64>,
    crash: Arc<Notify>,
}

const NEVER: u64 = u64::MAX;

impl Chaos {
    fn set(&self, faults: Faults) {
        let power = self.power.load(Ordering::Relaxed);
        let left = power.saturating_sub(self.disk.operations());
        self.disk.set_faults(Faults {
            power: (power != NEVER).then_some(left),
            ..faults
        });
    }

    /// What counts commits, and ends a life that makes them without end.
    fn counted(&self, world: &World) -> impl Fn() + Send + Sync + use<> {
        let (world, crash) = (world.clone(), self.crash.clone());
        move || {
            world.committed();
            if world.is_stuck() {
                crash.notify_one();
            }
        }
    }

    /// The power goes within so many operations.
    fn cut_within(&self, world: &World, operations: usize) {
        let power = self.disk.operations() + world.below(operations) as u64;
        self.power.store(power, Ordering::Relaxed);
        self.set(Faults::default());
    }

    /// The power stays.
    fn keep_power(&self) {
        self.power.store(NEVER, Ordering::Relaxed);
        self.set(Faults::default());
    }
}

/// The disk is bad now and then while the first runs are deleted.
async fn spoil_deletions(world: World, chaos: Chaos, store: Arc<LoggedStore>) {
    const BEFORE: i64 = 5_000_000_000;
    const AFTER: i64 = 120_000_000_000;
    let Some(first) = oracle::retention::first(&world) else {
        return;
    };
    host::until(first - BEFORE).await;
    spoil(world, chaos, store, || host::wall() < first + AFTER).await;
}

async fn spoil(
    world: World,
    chaos: Chaos,
    store: Arc<LoggedStore>,
    goes_on: impl Fn() -> bool + Send,
) {
    while goes_on() {
        world.dawdle(2_000).await;
        let limit = world.one_in(4);
        match world.below(5) {
            0 => chaos.set(Faults {
                failing_syncs: 1 + world.below(3) as u32,
                ..Faults::default()
            }),
            1 => chaos.set(Faults {
                full: true,
                ..Faults::default()
            }),
            2 => chaos.set(Faults {
                read_only: true,
                ..Faults::default()
            }),
            3 => world.with(|shared| shared.latency_ms = 500),
            _ => {}
        }
        if limit {
            let _ = store.limit_pages(Some(1));
        }
        world.say("the disk is bad");
        world.with(|shared| shared.disk_bad_until = i64::MAX);
        world.dawdle(1_500).await;
        chaos.set(Faults::default());
        world.with(|shared| shared.latency_ms = 2);
        if limit {
            let _ = store.limit_pages(None);
        }
        world.with(|shared| shared.disk_bad_until = host::wall());
        world.say("the disk is good");
    }
}

/// A folder for each life.
pub(crate) fn next_folder(base: &Path) -> PathBuf {
    static FOLDERS: AtomicU64 = AtomicU64::new(0);
    base.join(FOLDERS.fetch_add(1, Ordering::Relaxed).to_string())
}
