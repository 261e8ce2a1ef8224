//! What the fuzzers begin with, and what they found, with the compiler that everybody has; and some
//! random bytes, so that no target is without any.

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_fuzzing::TARGETS;

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds");

fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(SEEDS).join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect()
}

/// SplitMix64.
fn random(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..40).flat_map(|_| next().to_le_bytes()).collect()
}

fn run(target: &str, random_inputs: u64) {
    let (name, body) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let mut inputs = inputs(name);
    assert!(!inputs.is_empty(), "{name} begins with nothing");
    inputs.extend((0..random_inputs).map(|seed| (format!("seed {seed}"), random(seed))));
    for (from, input) in inputs {
        let outcome = std::panic::catch_unwind(|| body(&input));
        assert!(outcome.is_ok(), "{name} fails on {from}");
    }
}

macro_rules! targets {
    ($($target:ident: $random_inputs:literal)*) => {
        $(
            #[test]
            fn $target() {
                run(stringify!($target), $random_inputs);
            }
        )*

        #[test]
        fn every_target_is_run() {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
            let mut wrapped: Vec<_> = fs::read_dir(Path::new(SEEDS).join("../fuzz_targets"))
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned())
                .collect();
            wrapped.sort();
            assert_eq!(wrapped, names, "fuzz/fuzz_targets");
        }
    };
}

// With so many random inputs each: an engine is more work than a decoder.
targets! {
    attributes: 1_000
    cron: 1_000
    filters: 1_000
    log: 1_000
    requests: 100
    stateful: 100
    tokens: 100
}
