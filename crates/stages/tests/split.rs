//! `text.split` as a worker runs it, and the stages of `data`.

#[expect(dead_code, reason = "other test files use the rest")]
mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::context;
use tidemill_pipeline::data::{Item, Part};
use tidemill_stages::data::{Filter, Set};
use tidemill_stages::text::Split;
use tidemill_stages::{Error, ErrorKind, Stage};

fn document(id: &str, media_type: &str, text: &str) -> Item {
    Item {
        id: id.into(),
        source: String::new(),
        value: json!({"uri": id, "text": text, "hash": "00", "media_type": media_type}),
    }
}

async fn split(items: Vec<Item>, with: Value, data: &Path) -> Result<Part, Error> {
    let chunk = Part {
        items,
        failed: Vec::new(),
    };
    Split::default().items(chunk, with, &context(data).0).await
}

fn texts(part: &Part) -> Vec<&str> {
    let texts = part.items.iter().map(|item| item.value["text"].as_str());
    texts.map(Option::unwrap).collect()
}

#[tokio::test]
async fn each_document_is_split_as_suits_it() {
    let code = "def a():\n    x = 1. + 2.\n\n\ndef b():\n    y\n";
    let markdown = "# A\n\nOne.\n\n# B\n\nTwo.";
    let items = vec![
        document("a.py", "text/plain", code),
        document("a.md", "text/markdown", markdown),
        document("a.txt", "text/plain", "One two. Three four five.\n\nSix."),
    ];
    let part = split(items, json!({"size": 26}), Path::new("unused"))
        .await
        .unwrap();
    assert_eq!(
        texts(&part),
        [
            "def a():\n    x = 1. + 2.",
            "def b():\n    y",
            "# A\n\nOne.\n\n# B\n\nTwo.",
            "One two. Three four five.",
            "Six.",
        ]
    );
    assert_eq!(part.items[0].source, "a.py");
    assert_eq!(part.items[0].value["document"], "a.py");
    assert_eq!(part.items[1].value["index"], 1);
}

#[tokio::test]
async fn an_item_that_is_no_document_fails_alone() {
    let wrong = Item {
        id: "x".into(),
        source: String::new(),
        value: json!({"text": 1}),
    };
    let items = vec![wrong, document("a.txt", "text/plain", "One.")];
    let part = split(items, json!({}), Path::new("unused")).await.unwrap();
    assert_eq!(texts(&part), ["One."]);
    assert_eq!(part.failed.len(), 1);
    assert_eq!(
        (part.failed[0].id.as_str(), part.failed[0].stage.as_str()),
        ("x", "it")
    );
    assert!(
        part.failed[0]
            .error
            .starts_with("text.split takes documents: ")
    );
}

/// A vocabulary of whole words, in the format of the `tokenizers` library.
fn tokenizer() -> Value {
    json!({
        "version": "1.0",
        // Files of models cut and fill up: neither may change what is counted.
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[UNK]"},
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    })
}

#[tokio::test]
async fn tokens_are_counted_by_a_tokenizer_or_estimated() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("models/words");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::write(model.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let text = "incomprehensibility is long. It is. So it is.";
    for (with, expected) in [
        // Words and full stops: 4, 3 and 4.
        (
            json!({"size": 4, "tokenizer": "words"}),
            vec!["incomprehensibility is long.", "It is.", "So it is."],
        ),
        (json!({"size": 11, "tokenizer": "words"}), vec![text]),
        // The long word is 4 pieces.
        (
            json!({"size": 7, "method": "token"}),
            vec!["incomprehensibility is long.", "It is. So it is."],
        ),
    ] {
        let items = vec![document("a.txt", "text/plain", text)];
        let part = split(items, with.clone(), folder.path()).await.unwrap();
        assert_eq!(texts(&part), expected, "{with}");
    }
}

#[tokio::test]
async fn a_tokenizer_has_a_part_in_the_chunks_and_so_in_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.json");
    let (cx, _) = context(folder.path());
    let split = Split::default();
    let with = json!({"size": 4, "tokenizer": file});
    let revision = async |with: &Value| split.revision(with, &cx).await.unwrap();
    std::fs::write(&file, tokenizer().to_string()).unwrap();
    let before = revision(&with).await;
    assert!(before.is_some());
    assert_eq!(revision(&json!({"size": 4})).await, None);

    // Another file of that name is another tokenizer, also for a process that has read the first.
    let chunk = || Part {
        items: vec![document("a.txt", "text/plain", "One two. Three four.")],
        failed: Vec::new(),
    };
    let part = split.items(chunk(), with.clone(), &cx).await.unwrap();
    assert_eq!(texts(&part), ["One two.", "Three four."]);
    let mut whole = tokenizer();
    whole["pre_tokenizer"] = Value::Null;
    std::fs::write(&file, whole.to_string()).unwrap();
    assert_ne!(revision(&with).await, before);
    let part = split.items(chunk(), with, &cx).await.unwrap();
    assert_eq!(texts(&part), ["One two. Three four."]);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let cases = [
        (
            json!({"size": 0}),
            "text.split: with.size: 0 leaves no room",
        ),
        (
            json!({"size": 10, "overlap": 10}),
            "text.split: with.overlap: 10 is not less than size, 10",
        ),
        (
            json!({"method": "words"}),
            "text.split: with.method: unknown variant `words`",
        ),
        (
            json!({"method": "token", "unit": "characters"}),
            "text.split: with.unit: characters do not go",
        ),
        (
            json!({"tokenizer": "none"}),
            "text.split: with.tokenizer: there is no tokenizer.json at none",
        ),
    ];
    for (with, expected) in cases {
        let error = split(Vec::new(), with, Path::new("unused"))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn values_are_set_and_items_filtered() {
    let (cx, _) = context(Path::new("unused"));
    let with = json!({"a": [1], "b": "x"});
    assert_eq!(
        Set.call(Value::Null, with.clone(), &cx).await.unwrap(),
        with
    );
    for (keep, count) in [(true, 1), (false, 0)] {
        let chunk = Part {
            items: vec![document("a", "text/plain", "x")],
            failed: Vec::new(),
        };
        let part = Filter
            .items(chunk, json!({ "keep": keep }), &cx)
            .await
            .unwrap();
        assert_eq!(part.items.len(), count);
    }
    let error = Filter
        .items(Part::default(), json!({"keep": "yes"}), &cx)
        .await
        .unwrap_err();
    assert!(
        error.message.starts_with("data.filter: with.keep: "),
        "{error}"
    );
}
