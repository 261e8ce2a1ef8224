//! The power goes, and with it what was not synced: of the log, any part of its last writes; of the
//! tables, all that came after some commit of SQLite's. What was acknowledged has to be there again.

use super::workload::{Workload, expected};
use super::*;
use crate::Store;
use crate::log::sim::{Faults, Random};

/// Runs a store into several power cuts.
fn cut(seed: u64) {
    let random = &mut Random(seed);
    let mut workload = Workload::default();
    let mut acknowledged: Vec<Commit> = Vec::new();
    let (mut conn, mut disk) = (empty(), SimDisk::default());
    for _ in 0..1 + random.below(3) {
        let store = open(conn, &disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // The states of the tables that may be left: from the last one that was forced to disk on.
        let mut tables = vec![copy(&store)];
        let applied = |store: &LoggedStore| store.shared.front.lock().applied;
        let mut copied = applied(&store);
        // What was tried since the last commit that was acknowledged.
        let mut failed: Vec<(Vec<Commit>, Workload)> = Vec::new();
        let power = random.below(100) as u64;
        let until = disk.operations() + power;
        let mut limited = false;
        while disk.operations() < until {
            disk.set_faults(Faults {
                failing_syncs: u32::from(random.one_in(20)),
                full: random.one_in(20),
                read_only: false,
                power: Some(until - disk.operations()),
            });
            if random.one_in(25) && !limited {
                // As if the disk were full: the tables cannot grow.
                store.limit_pages(Some(1)).unwrap();
                limited = true;
            } else if random.one_in(4) {
                store.limit_pages(None).unwrap();
                limited = false;
            }
            let mut then = workload.clone();
            let mut commits = Vec::new();
            for _ in 0..1 + random.below(4) {
                let (commit, after) = then.next(random);
                commits.push(commit);
                then = after;
            }
            workload.skip_to(&then);
            if random.one_in(15)
                && let Some(contradiction) = then.contradiction(random)
            {
                commits.push(contradiction);
                let refused = store.apply(&commits.iter().collect::<Vec<_>>());
                assert!(refused.is_err(), "seed {seed}: {refused:?}");
                continue;
            }
            match store.apply(&commits.iter().collect::<Vec<_>>()) {
                Ok(()) => {
                    acknowledged.extend(commits);
                    workload = then;
                    failed.clear();
                }
                Err(_) => failed.push((commits, then)),
            }
            if random.one_in(8) && store.flush().is_ok() {
                tables.push(copy(&store));
                copied = applied(&store);
            }
            if random.one_in(8) && applied(&store) == copied {
                // They are on disk now, and the log may forget them, but nothing that is staged.
                store.shared.trim();
                tables.drain(..tables.len() - 1);
            }
            if random.one_in(30) {
                store.limit_pages(None).unwrap();
                limited = false;
                assert!(shown(&store) == expected(&acknowledged), "seed {seed}");
            }
        }
        disk = disk.after_power_cut(random);
        conn = tables.swap_remove(random.below(tables.len()));
        let left = copy_of(&conn);
        // Its disk is not this one any more.
        drop(store);

        let log = disk.after_kill();
        let store = open(conn, &disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = shown(&store);
        if found != expected(&acknowledged) {
            let one = failed.into_iter().find(|(commits, _)| {
                let with: Vec<_> = acknowledged.iter().chain(commits).cloned().collect();
                found == expected(&with)
            });
            let (commits, then) =
                one.unwrap_or_else(|| panic!("seed {seed}: not what was acknowledged"));
            acknowledged.extend(commits);
            workload = then;
        }
        drop(store);
        // Nothing hangs on when the process that recovers ends in its turn.
        (conn, disk) = (left, log);
    }
}

/// More of them with the environment variable `STORE_SEEDS`.
#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let seeds = std::env::var("STORE_SEEDS").map_or(200, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        cut(seed);
    }
}
