//! `documents.load` over a small corpus of every format, and over HTTP.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Kept, answer, context, serve, shown};
use tidemill_stages::documents::{Load, PdfReader};
use tidemill_stages::{Error, ErrorKind, Stage};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn corpus() -> String {
    fixtures().join("corpus").to_str().unwrap().to_owned()
}

async fn load(with: Value) -> Result<(Kept, Vec<String>), Error> {
    let (cx, lines) = context(Path::new("unused"));
    let mut kept = Kept::default();
    Load::new(PdfReader::InProcess)
        .source(Value::Null, with, &mut kept, &cx)
        .await?;
    let lines = lines.lock().unwrap().clone();
    Ok((kept, lines))
}

/// Texts and metadata of the corpus are those of the golden file. After a wanted change, run with
/// `UPDATE_GOLDEN=1` and read the difference.
#[tokio::test]
async fn the_corpus_is_loaded_as_before() {
    let (kept, lines) = load(json!({"path": corpus()})).await.unwrap();
    let got = serde_json::to_string_pretty(&shown(&kept)).unwrap() + "\n";
    let path = fixtures().join("golden/corpus.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(got == golden, "not as in {}:\n{got}", path.display());
    assert_eq!(
        lines.last().map(String::as_str),
        Some("10 documents, 3 failed, skipped 2: 1 binary (.png), 1 empty")
    );
}

#[tokio::test]
async fn selection_and_settings() {
    let cases = [
        (
            json!({"include": ["*.md"]}),
            vec!["deep/below.md", "guide.md"],
        ),
        (
            json!({"include": ["*.txt", "*.md"], "exclude": ["deep/**"]}),
            vec!["birlot.txt", "guide.md", "notes.txt"],
        ),
    ];
    for (mut with, expected) in cases {
        with["path"] = corpus().into();
        let (kept, _) = load(with).await.unwrap();
        let ids: Vec<&str> = kept.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, expected);
    }
    let notes = format!("{}/notes.txt", corpus());
    let with = json!({"path": [notes, notes], "metadata": {"team": "mill"}});
    let (kept, lines) = load(with).await.unwrap();
    assert_eq!(kept.items.len(), 1);
    assert_eq!(kept.items[0].value["metadata"]["team"], "mill");
    assert_eq!(
        lines.last().unwrap(),
        "1 document, skipped 1: 1 named twice"
    );
    let (kept, _) = load(json!({"path": notes, "max_bytes": 10})).await.unwrap();
    assert_eq!(
        kept.failed,
        [(
            "notes.txt".to_owned(),
            "is larger than max_bytes: 171 bytes, 10 allowed".to_owned()
        )]
    );
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let cases = [
        (json!({}), "documents.load: with: give `path`"),
        (
            json!({"path": "no/such"}),
            "documents.load: with.path: cannot read /",
        ),
        (
            json!({"path": ".", "include": ["a["]}),
            "documents.load: with.include: `a[`",
        ),
        (
            json!({"path": ".", "format": "doc"}),
            "documents.load: with.format: unknown variant `doc`",
        ),
        (
            json!({"path": ".", "rows": {"template": "{a"}}),
            "documents.load: with.rows.template: ",
        ),
    ];
    for (with, expected) in cases {
        let Err(error) = load(with).await else {
            panic!("{expected}")
        };
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn order_does_not_depend_on_how_long_a_file_takes() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..200 {
        // The early ones are large.
        let text = format!("text {i} ").repeat(if i % 10 == 0 { 20_000 } else { 1 });
        std::fs::write(folder.path().join(format!("{i:03}.txt")), text).unwrap();
    }
    let (kept, _) = load(json!({"path": folder.path()})).await.unwrap();
    let ids: Vec<String> = kept.items.iter().map(|item| item.id.clone()).collect();
    let sorted: Vec<String> = (0..200).map(|i| format!("{i:03}.txt")).collect();
    assert_eq!(ids, sorted);
}

#[tokio::test]
async fn a_file_of_many_rows_is_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..5_000)
        .map(|i| format!("{{\"text\": \"row {i}\"}}\n"))
        .collect();
    std::fs::write(folder.path().join("a.jsonl"), rows).unwrap();
    std::fs::write(folder.path().join("b.txt"), "after").unwrap();
    // The bound is for a row here, and the file is larger.
    let with = json!({"path": folder.path(), "max_bytes": 100});
    let (kept, lines) = load(with).await.unwrap();
    assert_eq!(kept.items.len(), 5_001);
    assert_eq!(kept.items[4_999].id, "a.jsonl#5000");
    assert_eq!(kept.items[5_000].id, "b.txt");
    assert!(lines.len() > 10, "progress is shown on the way");
}

#[tokio::test]
async fn a_cancelled_run_stops() {
    let (cx, _) = context(Path::new("unused"));
    cx.cancelled.cancel();
    let mut kept = Kept::default();
    let error = Load::new(PdfReader::InProcess)
        .source(Value::Null, json!({"path": corpus()}), &mut kept, &cx)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert!(kept.items.is_empty());
}

#[tokio::test]
async fn pages_come_over_http() {
    let html = std::fs::read(fixtures().join("corpus/tides.html")).unwrap();
    let pdf = std::fs::read(fixtures().join("corpus/notice.pdf")).unwrap();
    let url = serve(move |request| {
        let path = request.split(' ').nth(1).unwrap();
        match path {
            "/page?id=1" => answer("200 OK", &["content-type: text/html; charset=utf-8"], &html),
            "/notice" => answer("200 OK", &["content-type: application/pdf"], &pdf),
            "/latin" => answer(
                "200 OK",
                &["content-type: text/plain; charset=iso-8859-2"],
                b"\xb1",
            ),
            "/readme.md" => answer("200 OK", &["content-type: text/plain"], b"# Read me"),
            "/large" => answer("200 OK", &[], &vec![b'x'; 3_000]),
            _ => answer("404 Not Found", &[], b""),
        }
    })
    .await;
    let paths = ["page?id=1", "notice", "latin", "readme.md", "large", "gone"];
    let urls: Vec<String> = paths.iter().map(|path| format!("{url}/{path}")).collect();
    let (kept, _) = load(json!({"url": urls, "max_bytes": 2_000}))
        .await
        .unwrap();
    let got: Vec<(&str, &str)> = kept
        .items
        .iter()
        .map(|item| {
            let text = item.value["text"].as_str().unwrap();
            (&item.id[url.len() + 1..], text.lines().next().unwrap())
        })
        .collect();
    assert_eq!(
        got,
        [
            ("page?id=1", "# How a tide mill works"),
            ("notice", "Notice to millers"),
            ("latin", "ą"),
            ("readme.md", "# Read me"),
        ]
    );
    assert_eq!(kept.items[3].value["title"], "Read me");
    assert_eq!(
        kept.failed,
        [
            (
                urls[4].clone(),
                "is larger than max_bytes, 2000 bytes".to_owned()
            ),
            (
                urls[5].clone(),
                "the server answered 404 Not Found".to_owned()
            ),
        ]
    );
}

#[tokio::test]
async fn a_server_that_is_away_fails_the_stage_for_now() {
    let url = serve(|_| answer("503 Service Unavailable", &["retry-after: 0"], b"")).await;
    let Err(error) = load(json!({"url": url})).await else {
        panic!("nothing was there to load")
    };
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("503"), "{error}");
}

/// The rows of a Parquet file, whatever it is compressed with, are those of the golden file.
#[cfg(feature = "parquet")]
#[tokio::test]
async fn rows_of_parquet_are_loaded_as_before() {
    let golden = fixtures().join("golden/parquet.json");
    for name in ["gauges", "gauges-zstd", "gauges-gzip"] {
        let path = fixtures().join(format!("parquet/{name}.parquet"));
        let rows = json!({"id": "id"});
        let (kept, _) = load(json!({"path": path, "rows": rows})).await.unwrap();
        let got = serde_json::to_string_pretty(&shown(&kept)).unwrap() + "\n";
        let got = got.replace(&format!("{name}.parquet"), "gauges.parquet");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &got).unwrap();
        }
        let wanted = std::fs::read_to_string(&golden).unwrap();
        assert!(got == wanted, "{name} is not as in the golden file:\n{got}");
    }

    // Over HTTP, with the text made of other columns, and a file that is damaged.
    let bytes = std::fs::read(fixtures().join("parquet/gauges.parquet")).unwrap();
    let url = serve(move |request| match request.contains("/good") {
        true => answer("200 OK", &[], &bytes),
        false => answer("200 OK", &[], &bytes[..bytes.len() - 40]),
    })
    .await;
    let urls = [format!("{url}/good.parquet"), format!("{url}/bad.parquet")];
    let rows = json!({"template": "{title}, {year}"});
    let (kept, _) = load(json!({"url": urls, "rows": rows})).await.unwrap();
    assert_eq!(kept.items.len(), 4);
    assert_eq!(kept.items[0].value["text"], "Gate, 1787");
    assert_eq!(kept.failed.len(), 1);
    assert!(kept.failed[0].1.starts_with("not a readable Parquet file"));
}

/// A build without the reader says so of each file.
#[cfg(not(feature = "parquet"))]
#[tokio::test]
async fn parquet_needs_a_build_that_has_it() {
    let path = fixtures().join("parquet");
    let (kept, _) = load(json!({"path": path})).await.unwrap();
    assert!(kept.items.is_empty());
    assert_eq!(kept.failed.len(), 3);
    for (_, why) in kept.failed {
        assert!(why.contains("cargo feature `parquet`"), "{why}");
    }
}
