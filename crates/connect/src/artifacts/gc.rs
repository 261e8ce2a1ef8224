//! Collecting what nobody needs any more.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::blobs;
use super::cache::{self, now_ms};
use super::{Artifacts, Error, decode_name, encode_name, is_hex, object_path};

/// The name of a mark that says: whatever that run needs.
pub(super) const RUN_MARK: &str = "run=";

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Objects that were removed, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Runs that are gone whose marks were removed, and how many marks.
    pub runs: u64,
    pub marks: u64,
    /// Cached results that have expired.
    pub cache_entries: u64,
    /// Objects that stay, and their bytes.
    pub kept_objects: u64,
    pub kept_bytes: u64,
}

struct Marks {
    /// The age of the latest mark: a run may be at work before anyone can list it.
    youngest: Duration,
    objects: Vec<[u8; 32]>,
    runs: Vec<String>,
    names: Vec<String>,
}

/// A run and those that called it: the run of a called pipeline has the id of its caller, a `/` and
/// the name of the stage that calls.
fn with_callers(run: &str) -> impl Iterator<Item = &str> {
    let callers = run.match_indices('/').map(|(at, _)| &run[..at]);
    callers.filter(|caller| !caller.is_empty()).chain([run])
}

impl Artifacts {
    /// The runs that have marks here.
    pub async fn runs(&self) -> Result<Vec<String>, Error> {
        let folders = self.inner.blobs.folders("refs").await?;
        Ok(folders
            .iter()
            .filter_map(|name| decode_name(name))
            .collect())
    }

    /// Removes the marks of runs that are gone, expired results, and objects that no run and no
    /// result needs. Whatever is younger than `grace` stays, so a run that has begun meanwhile loses
    /// nothing; in an object store the grace must be well over an hour. `live_runs` says whether a
    /// run is still there, retention included; the runs that it called stay with it. With `dry_run`
    /// everything is counted and nothing removed.
    pub async fn gc(
        &self,
        live_runs: impl Fn(&str) -> bool + Send,
        grace: Duration,
        dry_run: bool,
    ) -> Result<Report, Error> {
        let blobs = &self.inner.blobs;
        let mut report = Report::default();
        if !dry_run {
            blobs.tidy(grace).await?;
        }
        // Objects before marks: a put marks first, so an object that is seen here without its mark
        // being seen below was refreshed after this, and `remove_old` notices.
        let objects = blobs.list("objects").await?;

        let mut gone = BTreeMap::new();
        let mut needed: HashSet<[u8; 32]> = HashSet::new();
        let mut built_on: Vec<String> = Vec::new();
        for folder in blobs.folders("refs").await? {
            let marks = marks(blobs.list(&format!("refs/{folder}")).await?);
            // A folder whose name is not ours is not understood, so it is kept.
            let live = decode_name(&folder).is_none_or(|run| with_callers(&run).any(&live_runs));
            if live || (!marks.names.is_empty() && marks.youngest < grace) {
                needed.extend(marks.objects);
                built_on.extend(marks.runs);
            } else {
                gone.insert(folder, marks);
            }
        }
        // Runs that are gone but whose results a later run uses.
        while let Some(run) = built_on.pop() {
            let Some(run) = decode_name(&run) else {
                continue;
            };
            for run in with_callers(&run) {
                if let Some(marks) = gone.remove(&encode_name(run)?) {
                    needed.extend(marks.objects);
                    built_on.extend(marks.runs);
                }
            }
        }
        let expired = self.expired_entries(&mut needed).await?;

        for (folder, marks) in gone {
            report.runs += 1;
            report.marks += marks.names.len() as u64;
            if !dry_run {
                for name in &marks.names {
                    blobs.remove(&format!("refs/{folder}/{name}")).await?;
                }
                blobs.remove_folder(&format!("refs/{folder}")).await?;
            }
        }
        for name in expired {
            report.cache_entries += 1;
            if !dry_run {
                blobs.remove(&format!("cache/{name}")).await?;
            }
        }
        for object in objects {
            let Some(hash) = from_hex(&object.name) else {
                continue;
            };
            let goes = object.age >= grace
                && !needed.contains(&hash)
                && (dry_run || blobs.remove_old(&object_path(&object.name), grace).await?);
            if goes {
                report.objects += 1;
                report.bytes += object.bytes;
            } else {
                report.kept_objects += 1;
                report.kept_bytes += object.bytes;
            }
        }
        Ok(report)
    }

    /// The names of the cached results that have expired; the objects of the others are needed.
    async fn expired_entries(
        &self,
        needed: &mut HashSet<[u8; 32]>,
    ) -> Result<BTreeSet<String>, Error> {
        let blobs = &self.inner.blobs;
        let mut expired = BTreeSet::new();
        for listed in blobs.list("cache").await? {
            let Some(bytes) = blobs.read(&format!("cache/{}", listed.name)).await? else {
                continue;
            };
            match serde_json::from_slice::<cache::Entry>(&bytes) {
                Ok(entry) if !entry.is_expired(now_ms()) => {
                    needed.extend(entry.objects.iter().filter_map(|hex| from_hex(hex)));
                }
                // What cannot be read is of no use to anyone.
                _ => {
                    expired.insert(listed.name);
                }
            }
        }
        Ok(expired)
    }
}

fn marks(entries: Vec<blobs::Entry>) -> Marks {
    let mut marks = Marks {
        youngest: Duration::MAX,
        objects: Vec::new(),
        runs: Vec::new(),
        names: Vec::new(),
    };
    for entry in entries {
        marks.youngest = marks.youngest.min(entry.age);
        if let Some(run) = entry.name.strip_prefix(RUN_MARK) {
            marks.runs.push(run.to_owned());
        } else if let Some(hash) = from_hex(&entry.name) {
            marks.objects.push(hash);
        }
        marks.names.push(entry.name);
    }
    marks
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if !is_hex(text.as_bytes()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}
