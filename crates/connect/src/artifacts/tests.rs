//! The store in a folder, in memory and in a server that speaks S3's protocol, through the same
//! checks where all can pass them.

#[path = "../../tests/support/servers.rs"]
mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use serde_json::{Value, json};
use tidemill_pipeline::data::{
    CLAIM_CHECK_BYTES, Collection, FailedItem, Item, Manifest, Part, PartEntry,
};
use tidemill_pipeline::task::Chunk;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const NO_GRACE: Duration = Duration::ZERO;

struct Stores {
    folder: tempfile::TempDir,
    all: Vec<Artifacts>,
}

fn stores() -> Stores {
    let folder = tempfile::tempdir().unwrap();
    let all = vec![
        Artifacts::folder(folder.path().join("store")).unwrap(),
        Artifacts::memory(),
        s3(),
    ];
    Stores { folder, all }
}

/// An empty store under a prefix of its own.
fn s3() -> Artifacts {
    static SERVER: OnceLock<servers::Server> = OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let server = SERVER.get_or_init(|| servers::Server::start(".venv", "s3", "TIDEMILL_TEST_S3"));
    let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let service = AmazonS3Builder::new()
        .with_endpoint(&server.url)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test");
    let place = format!("tidemill/test/{process}/{next}/");
    Artifacts::new(Box::new(objects::s3_with(service, &place).unwrap()))
}

impl Stores {
    fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Where the folder has an object.
    fn object(&self, artifact: &Artifact) -> PathBuf {
        let hex = parse_digest(&artifact.digest).unwrap();
        self.root().join(object_path(hex))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn make_old(path: &Path) {
    let file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() - 48 * HOUR)
        .unwrap();
}

fn item(id: &str) -> Item {
    Item {
        id: id.to_owned(),
        source: String::new(),
        value: json!({"text": id}),
    }
}

async fn collection(artifacts: &Artifacts, sizes: &[usize]) -> Collection {
    let mut manifest = Manifest {
        item: "document".to_owned(),
        parts: Vec::new(),
    };
    let mut next = 0;
    for size in sizes {
        let mut part = Part::default();
        for _ in 0..*size {
            part.items.push(item(&format!("i{next}")));
            next += 1;
        }
        manifest.parts.push(PartEntry {
            digest: artifacts.put_part(&part).await.unwrap().digest,
            count: *size as u64,
        });
    }
    artifacts.put_collection(manifest).await.unwrap()
}

#[tokio::test]
async fn what_was_put_comes_back_under_the_hash_of_its_bytes() {
    for store in stores().all {
        let put = store.put("hello", "text/plain").await.unwrap();
        assert_eq!(
            put.digest,
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!((put.bytes, put.media_type.as_str()), (5, "text/plain"));
        assert_eq!(&store.get(&put.digest).await.unwrap()[..], b"hello");
        let large = vec![7; 3 * HASH_INLINE_BYTES_MAX];
        let put = store
            .put(large.clone(), "application/octet-stream")
            .await
            .unwrap();
        assert_eq!(store.get(&put.digest).await.unwrap(), large);
        let absent = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            store.get(&absent).await,
            Err(Error::Missing(absent.clone()))
        );
        for wrong in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:00",
            &absent.to_uppercase(),
        ] {
            assert!(
                matches!(store.get(wrong).await, Err(Error::Invalid(_))),
                "{wrong}"
            );
        }
    }
}

#[tokio::test]
async fn a_damaged_object_is_never_served_and_a_truncated_one_is_mended_by_a_put() {
    let stores = stores();
    let store = &stores.all[0];
    let put = store.put("hello", "text/plain").await.unwrap();
    fs::write(stores.object(&put), "hellO").unwrap();
    let read = store.get(&put.digest).await;
    assert_eq!(read, Err(Error::Corrupt(put.digest.clone())));
    fs::write(stores.object(&put), "").unwrap();
    let read = store.get(&put.digest).await;
    assert_eq!(read, Err(Error::Corrupt(put.digest.clone())));
    store.put("hello", "text/plain").await.unwrap();
    assert_eq!(&store.get(&put.digest).await.unwrap()[..], b"hello");
}

#[cfg(unix)]
#[tokio::test]
async fn an_object_that_is_there_is_not_written_again() {
    use std::os::unix::fs::MetadataExt;
    let stores = stores();
    let store = &stores.all[0];
    let put = store.put("hello", "text/plain").await.unwrap();
    let file = fs::metadata(stores.object(&put)).unwrap().ino();
    store.for_run("r").put("hello", "text/plain").await.unwrap();
    assert_eq!(fs::metadata(stores.object(&put)).unwrap().ino(), file);
    assert_eq!(names(&stores.root().join("tmp")), [""; 0]);
}

#[tokio::test]
async fn a_store_that_is_gone_is_unavailable_and_comes_back() {
    let stores = stores();
    let store = stores.all[0].for_run("r");
    let put = store.put("hello", "text/plain").await.unwrap();
    let away = stores.folder.path().join("away");
    fs::rename(stores.root(), &away).unwrap();
    let errors = [
        store.get(&put.digest).await.unwrap_err(),
        store.put("hello", "text/plain").await.unwrap_err(),
        store.put("other", "text/plain").await.unwrap_err(),
        store.cached("k", HOUR).await.unwrap_err(),
        store.gc(|_| true, NO_GRACE, true).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_unavailable(), "{error}");
        assert!(error.to_string().contains("is gone"), "{error}");
    }
    assert!(
        !stores.root().exists(),
        "a store that is gone is not made anew"
    );
    fs::rename(&away, stores.root()).unwrap();
    assert_eq!(&store.get(&put.digest).await.unwrap()[..], b"hello");
    store.put("other", "text/plain").await.unwrap();
}

#[test]
fn folders_of_others_and_of_newer_versions_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "x").unwrap();
    let error = Artifacts::folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
    assert_eq!(names(folder.path()), ["thesis.tex"]);

    let newer = tempfile::tempdir().unwrap();
    fs::write(newer.path().join("tidemill-artifacts"), "format 2\n").unwrap();
    let error = Artifacts::folder(newer.path()).unwrap_err().to_string();
    assert!(error.contains("format 2"), "{error}");
    assert_eq!(names(newer.path()), ["tidemill-artifacts"]);
}

#[test]
fn urls_say_where_the_store_lies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b");
    let url = format!("file://{}", path.display()).replace(' ', "%20");
    Artifacts::open(&url).unwrap();
    assert!(path.join("objects").is_dir());
    Artifacts::open(path.to_str().unwrap()).unwrap();
    Artifacts::open("memory:").unwrap();
    for wrong in ["gs://bucket", "file://%zz"] {
        assert!(
            matches!(Artifacts::open(wrong), Err(Error::Invalid(_))),
            "{wrong}"
        );
    }
    // Nobody is asked before it is used.
    Artifacts::open("s3://bucket/prefix").unwrap();
}

#[tokio::test]
async fn parts_keep_items_and_failures() {
    let part = Part {
        items: vec![
            Item {
                id: "a\nb".to_owned(),
                source: "doc".to_owned(),
                value: Value::Null,
            },
            item("c"),
        ],
        failed: vec![FailedItem {
            id: "d".to_owned(),
            source: "doc".to_owned(),
            stage: "embed".to_owned(),
            error: "too long".to_owned(),
        }],
    };
    for store in stores().all {
        let put = store.put_part(&part).await.unwrap();
        assert_eq!(store.get_part(&put.digest).await.unwrap(), part);
        let broken = store
            .put("{\"id\":\"a\",\"value\":1}\n{\"id\":\"b\"}\n", JSON_LINES)
            .await;
        let error = store.get_part(&broken.unwrap().digest).await.unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}

#[tokio::test]
async fn chunks_are_parts_or_are_counted_over_all_parts() {
    for store in stores().all {
        let collection = collection(&store, &[3, 0, 4, 1]).await;
        assert_eq!((collection.count, collection.parts), (8, 4));
        let ids = async |index, size| {
            let chunk = Chunk {
                collection: collection.clone(),
                index,
                size,
            };
            let items = store.chunk(&chunk).await?.items;
            Ok::<_, Error>(items.into_iter().map(|item| item.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(0, 0).await.unwrap(), ["i0", "i1", "i2"]);
        assert_eq!(ids(1, 0).await.unwrap(), [""; 0]);
        assert_eq!(ids(3, 0).await.unwrap(), ["i7"]);
        assert!(matches!(ids(4, 0).await, Err(Error::Invalid(_))));
        assert_eq!(ids(0, 5).await.unwrap(), ["i0", "i1", "i2", "i3", "i4"]);
        assert_eq!(ids(1, 5).await.unwrap(), ["i5", "i6", "i7"]);
        assert!(matches!(ids(2, 5).await, Err(Error::Invalid(_))));
        let all: Vec<Item> = store.items(&collection).try_collect().await.unwrap();
        let wanted: Vec<Item> = (0..8).map(|i| item(&format!("i{i}"))).collect();
        assert_eq!(all, wanted);
    }
}

#[tokio::test]
async fn large_values_travel_as_references() {
    for store in stores().all {
        let small = json!({"text": "x".repeat(100)});
        assert_eq!(store.claim(small.clone()).await.unwrap(), small);
        let large = json!({"text": "x".repeat(CLAIM_CHECK_BYTES)});
        let claimed = store.for_run("r").claim(large.clone()).await.unwrap();
        assert!(claimed["$artifact"].is_string());
        let collection = serde_json::to_value(collection(&store, &[1]).await).unwrap();
        let picture = store.put("png", "image/png").await.unwrap();
        let picture = serde_json::to_value(picture).unwrap();
        // A reference inside a value that is itself behind a reference.
        let outer = store
            .put_json(&json!({"inner": [claimed], "n": 1}))
            .await
            .unwrap();
        let value = json!({"a": [outer, 1], "docs": collection, "picture": picture});
        let resolved = store.resolve(value).await.unwrap();
        let wanted = json!({
            "a": [{"inner": [large], "n": 1}, 1], "docs": collection, "picture": picture,
        });
        assert_eq!(resolved, wanted);
        let half = store.resolve(json!([{"$artifact": "sha256:00"}])).await;
        assert!(matches!(half, Err(Error::Invalid(_))));
    }
}

#[tokio::test]
async fn references_cannot_be_nested_without_end() {
    let store = Artifacts::memory();
    let mut artifact = store.put_json("bottom").await.unwrap();
    for _ in 0..20 {
        artifact = store.put_json(&[&artifact]).await.unwrap();
    }
    let value = serde_json::to_value(&artifact).unwrap();
    assert!(matches!(store.resolve(value).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn garbage_is_what_no_live_run_needs() {
    for store in stores().all {
        let only_a = store.for_run("a").put("one", "text/plain").await.unwrap();
        let shared = store
            .for_run("a")
            .put("shared", "text/plain")
            .await
            .unwrap();
        // A run id may have any characters.
        store
            .for_run("b/../%")
            .put("shared", "text/plain")
            .await
            .unwrap();
        store
            .for_run("c")
            .put("built on", "text/plain")
            .await
            .unwrap();
        store.for_run("b/../%").keep_run("c").await.unwrap();
        let nobodys = store.put("nobody's", "text/plain").await.unwrap();

        let live = |run: &str| run == "b/../%";
        let nothing = store.gc(live, HOUR, false).await.unwrap();
        assert_eq!(
            (nothing.objects, nothing.marks, nothing.kept_objects),
            (0, 0, 4)
        );

        let planned = store.gc(live, NO_GRACE, true).await.unwrap();
        let wanted = Report {
            objects: 2,
            bytes: 11,
            runs: 1,
            marks: 2,
            cache_entries: 0,
            kept_objects: 2,
            kept_bytes: 14,
        };
        assert_eq!(planned, wanted);
        store.get(&only_a.digest).await.unwrap();

        assert_eq!(store.gc(live, NO_GRACE, false).await.unwrap(), wanted);
        assert_eq!(
            store.get(&only_a.digest).await,
            Err(Error::Missing(only_a.digest))
        );
        assert!(store.get(&nobodys.digest).await.is_err());
        store.get(&shared.digest).await.unwrap();

        let rest = store.gc(|_| false, NO_GRACE, false).await.unwrap();
        assert_eq!((rest.objects, rest.kept_objects, rest.runs), (2, 0, 2));
    }
}

#[tokio::test]
async fn called_runs_stay_with_their_caller() {
    for store in stores().all {
        for run in ["team/a", "team/a/legal", "team/ab", "b", "b/c"] {
            let run = store.for_run(run);
            run.put(format!("{run:?}"), "text/plain").await.unwrap();
        }
        // A retry of a called run uses what the caller gave it, too.
        store.for_run("again").put("x", "text/plain").await.unwrap();
        store.for_run("again").keep_run("b/c").await.unwrap();
        let live = |run: &str| run == "team/a" || run == "again";
        let report = store.gc(live, NO_GRACE, false).await.unwrap();
        assert_eq!(
            (report.objects, report.kept_objects, report.runs),
            (1, 5, 1)
        );
        let mut left = store.runs().await.unwrap();
        left.sort();
        assert_eq!(left, ["again", "b", "b/c", "team/a", "team/a/legal"]);
    }
}

#[tokio::test]
async fn a_put_makes_an_old_object_young_and_a_young_one_is_not_collected() {
    let stores = stores();
    let store = &stores.all[0];
    let put = store.put("hello", "text/plain").await.unwrap();
    make_old(&stores.object(&put));
    store.put("hello", "text/plain").await.unwrap();
    let report = store.gc(|_| false, HOUR, false).await.unwrap();
    assert_eq!((report.objects, report.kept_objects), (0, 1));
    // As when a put comes between the listing and the removal.
    let path = object_path(parse_digest(&put.digest).unwrap());
    assert!(!store.inner.blobs.remove_old(&path, HOUR).await.unwrap());
    assert_eq!(&store.get(&put.digest).await.unwrap()[..], b"hello");
    make_old(&stores.object(&put));
    assert!(store.inner.blobs.remove_old(&path, HOUR).await.unwrap());
    assert!(matches!(
        store.get(&put.digest).await,
        Err(Error::Missing(_))
    ));
}

#[tokio::test]
async fn a_collection_that_crashed_half_way_is_ended() {
    let stores = stores();
    let store = stores.all[0].for_run("r");
    let put = store.put("hello", "text/plain").await.unwrap();
    let object = stores.object(&put);
    let aside = stores
        .root()
        .join("trash")
        .join(object.file_name().unwrap());
    fs::rename(&object, &aside).unwrap();
    assert_eq!(&store.get(&put.digest).await.unwrap()[..], b"hello");
    let leftover = stores.root().join("tmp/1-1");
    fs::write(&leftover, "half").unwrap();
    store.gc(|_| true, HOUR, false).await.unwrap();
    assert!(object.exists() && !aside.exists());
    assert!(leftover.exists(), "it may be a write that goes on");
    make_old(&leftover);
    store.gc(|_| true, HOUR, false).await.unwrap();
    assert!(!leftover.exists());
}

#[tokio::test]
async fn cached_results_keep_their_objects_until_they_expire() {
    for store in stores().all {
        let first = store.for_run("first");
        let collection = collection(&first, &[2, 1]).await;
        let output = json!({"value": collection});
        let needs = vec![collection.manifest.clone()];
        first
            .put_cached("key", output.clone(), HOUR, needs)
            .await
            .unwrap();
        assert_eq!(store.cached("other", HOUR).await.unwrap(), None);
        assert_eq!(store.cached("key", NO_GRACE).await.unwrap(), None);

        // The run that made it is gone: manifest and parts stay, for the entry's sake.
        let report = store.gc(|_| false, NO_GRACE, false).await.unwrap();
        assert_eq!((report.objects, report.kept_objects), (0, 3));
        // Another run uses it, and then the entry expires.
        let second = store.for_run("second");
        assert_eq!(
            second.cached("key", HOUR).await.unwrap(),
            Some(output.clone())
        );
        store
            .put_cached("key", json!(1), NO_GRACE, Vec::new())
            .await
            .unwrap();
        let report = store
            .gc(|run| run == "second", NO_GRACE, false)
            .await
            .unwrap();
        assert_eq!((report.cache_entries, report.objects), (1, 0));
        let items: Vec<Item> = store.items(&collection).try_collect().await.unwrap();
        assert_eq!(items.len(), 3);
        let report = store.gc(|_| false, NO_GRACE, false).await.unwrap();
        assert_eq!(report.objects, 3);
    }
}

#[tokio::test]
async fn a_cached_result_whose_object_is_gone_or_that_is_torn_is_none() {
    let stores = stores();
    let store = &stores.all[0];
    let put = store.put("x", "text/plain").await.unwrap();
    let output = json!({"part": {"digest": put.digest}});
    store
        .put_cached("key", output.clone(), HOUR, Vec::new())
        .await
        .unwrap();
    assert_eq!(store.cached("key", HOUR).await.unwrap(), Some(output));
    fs::remove_file(stores.object(&put)).unwrap();
    assert_eq!(store.cached("key", HOUR).await.unwrap(), None);
    fs::write(stores.root().join("cache/key"), "{\"stored_ms\": 1").unwrap();
    assert_eq!(store.cached("key", HOUR).await.unwrap(), None);
}

#[tokio::test]
async fn many_writers_of_the_same_bytes_do_not_disturb_each_other() {
    let stores = stores();
    let store = &stores.all[0];
    let puts = (0..32).map(|i| {
        let store = store.for_run(&format!("run {}", i % 4));
        async move { store.put(format!("object {}", i % 5), "text/plain").await }
    });
    let put = futures::future::try_join_all(puts).await.unwrap();
    for artifact in put {
        store.get(&artifact.digest).await.unwrap();
    }
    assert_eq!(names(&stores.root().join("tmp")), [""; 0]);
    assert_eq!(names(&stores.root().join("refs")).len(), 4);
}
