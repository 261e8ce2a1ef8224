//! What only the embedded index can be asked: its file, other processes, crashes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::Connection;
use serde_json::{Map, json};

use super::super::ChunkVector;
use super::*;
use crate::embed::Spec;

/// Statements until this process kills itself; below zero it does not.
static STEPS_LEFT: AtomicI64 = AtomicI64::new(-1);
const CRASH_FILE: &str = "TIDEMILL_TEST_CRASH_FILE";
const CRASH_AFTER: &str = "TIDEMILL_TEST_CRASH_AFTER";

pub(super) fn step() {
    if STEPS_LEFT.load(Ordering::SeqCst) >= 0 && STEPS_LEFT.fetch_sub(1, Ordering::SeqCst) == 0 {
        std::process::abort();
    }
}

fn model() -> Model {
    Model {
        model: "toy".to_owned(),
        revision: "1".to_owned(),
        dimension: 2,
        embedder: None,
    }
}

fn document(id: &str, version: &str, chunks: usize) -> DocumentChunks {
    let chunk = |index: usize| ChunkVector {
        id: format!("{version}-{index}"),
        index: index as u64,
        text: format!("{version} {index}"),
        metadata: Map::new(),
        vector: vec![1.0, index as f32],
    };
    DocumentChunks {
        id: id.to_owned(),
        uri: id.to_owned(),
        hash: version.to_owned(),
        chunks: (0..chunks).map(chunk).collect(),
    }
}

fn index(folder: &Path) -> (Arc<dyn VectorStore>, PathBuf) {
    let path = folder.join("indexes/i.db");
    (open("i", &path).unwrap(), path)
}

/// Run by the test below in a process of its own; by itself it does nothing.
#[tokio::test]
async fn crashing_upsert() {
    let Ok(file) = std::env::var(CRASH_FILE) else {
        return;
    };
    let after = std::env::var(CRASH_AFTER).unwrap().parse().unwrap();
    let index = open("i", Path::new(&file)).unwrap();
    STEPS_LEFT.store(after, Ordering::SeqCst);
    let documents = vec![document("a", "new", 3), document("b", "new", 1)];
    index.upsert(&model(), documents).await.unwrap();
}

#[tokio::test]
async fn a_process_that_dies_in_an_upsert_leaves_the_old_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let (index, path) = index(folder.path());
    let (mut crashed, mut after) = (0, 0);
    loop {
        let old = vec![document("a", "old", 2), document("b", "old", 2)];
        index.upsert(&model(), old).await.unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "vector::sqlite::tests::crashing_upsert"])
            .env(CRASH_FILE, &path)
            .env(CRASH_AFTER, after.to_string())
            .output()
            .unwrap()
            .status;
        let hashes = index
            .processed(&["a".to_owned(), "b".to_owned()])
            .await
            .unwrap();
        let found = index
            .search(vec![1.0, 0.0], 10, &Filter::default())
            .await
            .unwrap();
        let mut texts: Vec<&str> = found.iter().map(|found| found.text.as_str()).collect();
        texts.sort_unstable();
        if status.success() {
            assert_eq!(hashes["a"], "new");
            assert_eq!(texts, ["new 0", "new 0", "new 1", "new 2"]);
            break;
        }
        assert_eq!((hashes["a"].as_str(), hashes["b"].as_str()), ("old", "old"));
        assert_eq!(
            texts,
            ["old 0", "old 0", "old 1", "old 1"],
            "after {after} statements"
        );
        crashed += 1;
        after += 1;
    }
    assert_eq!(
        crashed, 14,
        "a crash after each statement of the transaction"
    );
}

#[tokio::test]
async fn asking_an_index_that_is_not_there_does_not_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let (index, path) = index(folder.path());
    let found = index
        .search(vec![1.0, 0.0], 3, &Filter::default())
        .await
        .unwrap();
    assert_eq!(found, []);
    assert_eq!(index.info().await.unwrap(), Info::default());
    assert_eq!(index.delete_documents(&["a".to_owned()]).await.unwrap(), 0);
    assert!(!path.exists() && !path.parent().unwrap().exists());
}

#[tokio::test]
async fn an_index_whose_file_was_removed_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (index, path) = index(folder.path());
    index
        .upsert(&model(), vec![document("a", "v", 1)])
        .await
        .unwrap();
    assert_eq!(index.info().await.unwrap().documents, 1);
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert_eq!(index.info().await.unwrap(), Info::default());
    index
        .upsert(&model(), vec![document("b", "v", 1)])
        .await
        .unwrap();
    let ids = index.document_ids().await.unwrap();
    assert_eq!(ids, BTreeSet::from(["b".to_owned()]));
}

#[tokio::test]
async fn files_of_newer_versions_and_of_others_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (index, path) = index(folder.path());
    index
        .upsert(&model(), vec![document("a", "v", 1)])
        .await
        .unwrap();
    let newer = folder.path().join("newer.db");
    Connection::open(&path)
        .unwrap()
        .execute("VACUUM INTO ?1", [newer.to_str()])
        .unwrap();
    Connection::open(&newer)
        .unwrap()
        .pragma_update(None, "user_version", 3)
        .unwrap();
    let foreign = folder.path().join("foreign.db");
    Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(
        &text,
        "Dear diary, this is not a database at all.".repeat(40),
    )
    .unwrap();
    for (file, said) in [
        (newer, "format 3"),
        (foreign, "something else"),
        (text, "none of SQLite"),
    ] {
        let before = std::fs::read(&file).unwrap();
        let index = open("other", &file).unwrap();
        let written = index.upsert(&model(), vec![document("a", "v", 1)]).await;
        let Err(Error::Invalid(message)) = written else {
            panic!("{written:?}");
        };
        assert!(message.contains(said), "{message}");
        assert!(matches!(index.info().await, Err(Error::Invalid(_))));
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
}

#[tokio::test]
async fn a_file_of_the_first_format_is_brought_up_to_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (index, path) = index(folder.path());
    index
        .upsert(&model(), vec![document("a", "v", 1)])
        .await
        .unwrap();
    // Another file than the one that this process has open.
    let old = folder.path().join("old.db");
    let made = Connection::open(&path).unwrap();
    made.execute("VACUUM INTO ?1", [old.to_str()]).unwrap();
    let old_format = "ALTER TABLE model DROP COLUMN embedder; PRAGMA user_version = 1";
    let made = Connection::open(&old).unwrap();
    made.execute_batch(old_format).unwrap();
    let index = open("old", &old).unwrap();
    assert_eq!(index.model().await.unwrap(), Some(model()));
    let spec = Spec::Name("./models/toy".to_owned());
    let found = Model {
        embedder: Some(spec),
        ..model()
    };
    index
        .upsert(&found, vec![document("b", "v", 1)])
        .await
        .unwrap();
    assert_eq!(index.model().await.unwrap(), Some(found));
    assert_eq!(index.info().await.unwrap().documents, 2);
}

#[tokio::test]
async fn writers_with_connections_of_their_own_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.db");
    // As many processes would have: not the shared one that `open` gives.
    let writers = (0..8).map(|writer| {
        let own = Sqlite {
            inner: Arc::new(Inner {
                name: "i".to_owned(),
                path: path.clone(),
                writer: Mutex::new(None),
                reader: Mutex::new(None),
            }),
        };
        async move {
            for round in 0..5 {
                let documents = vec![document("shared", &format!("{writer}-{round}"), 3)];
                own.upsert(&model(), documents).await?;
                let documents = vec![document(&format!("own {writer}"), &round.to_string(), 1)];
                own.upsert(&model(), documents).await?;
            }
            own.info().await
        }
    });
    futures::future::try_join_all(writers).await.unwrap();
    let info = open("i", &path).unwrap().info().await.unwrap();
    assert_eq!((info.documents, info.chunks), (9, 11));
}

#[tokio::test]
async fn vectors_of_length_zero_are_neither_near_nor_far() {
    let folder = tempfile::tempdir().unwrap();
    let (index, _) = index(folder.path());
    let mut documents = document("a", "v", 3);
    documents.chunks[0].vector = vec![0.0, 0.0];
    documents.chunks[1].vector = vec![-1.0, 0.0];
    documents.chunks[2].vector = vec![1.0, 0.0];
    index.upsert(&model(), vec![documents]).await.unwrap();
    for filter in [json!(null), json!({"document": "a"})] {
        let filter = Filter::from_json(&filter).unwrap();
        let found = index.search(vec![2.0, 0.0], 3, &filter).await.unwrap();
        let scores: Vec<f64> = found.iter().map(|found| found.score).collect();
        assert_eq!(scores, [1.0, 0.0, -1.0]);
    }
}
