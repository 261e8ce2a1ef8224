//! Local models, with the real all-MiniLM-L6-v2: `make .models/all-MiniLM-L6-v2/.ready` fetches it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tidemill_connect::embed::{self, Call, Embedder, ErrorKind, Spec};
use tokio_util::sync::CancellationToken;

fn model_folder() -> PathBuf {
    let folder = std::env::var_os("TIDEMILL_TEST_MODEL").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-MiniLM-L6-v2"),
        PathBuf::from,
    );
    assert!(
        folder.join("model.safetensors").is_file(),
        "the test model is not in {}: run `make .models/all-MiniLM-L6-v2/.ready`, or set \
         TIDEMILL_TEST_MODEL to its folder",
        folder.display()
    );
    folder
}

/// Puts one of the test model's files into another folder, without a copy of its 90 MB.
fn link(file: &str, folder: &Path) {
    let original = model_folder().canonicalize().expect("a folder").join(file);
    std::os::unix::fs::symlink(original, folder.join(file)).expect("linked");
}

async fn model() -> Arc<dyn Embedder> {
    let spec = Spec::Name(model_folder().display().to_string());
    embed::open(&spec, Path::new("/nowhere"))
        .await
        .expect("the model loads")
}

async fn vectors(texts: &[&str]) -> Vec<Vec<f32>> {
    let texts = texts.iter().map(|&text| text.to_owned()).collect();
    let results = model()
        .await
        .embed(texts, &Call::default())
        .await
        .expect("embedded");
    results
        .into_iter()
        .map(|result| result.expect("a vector"))
        .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn assert_close(found: f32, expected: f32, what: &str) {
    assert!(
        (found - expected).abs() < 2e-5,
        "{what}: {found}, expected {expected}"
    );
}

/// The numbers come from an own implementation of the model in numpy, in double precision, with the
/// weights of the same file, tokens of the Python package `tokenizers` cut at 256, mean pooling and
/// division by the length.
#[tokio::test]
async fn vectors_are_those_of_an_independent_implementation() {
    let long = "The tide mill stores what the tide brings. ".repeat(60);
    let texts = [
        "The cat sat on the mat.",
        "A feline rested on a rug.",
        "Quarterly revenue rose by nine percent.",
        &long,
    ];
    let begin = [
        [0.130237, -0.015773, -0.036717, 0.057986],
        [0.075187, 0.035609, 0.052022, 0.130971],
        [0.021272, -0.047288, -0.000036, -0.04928],
        [-0.035756, -0.002405, 0.06208, -0.051199],
    ];
    let cosines = [
        [1.0, 0.552951, 0.002789, -0.020568],
        [0.552951, 1.0, 0.028606, 0.006414],
        [0.002789, 0.028606, 1.0, 0.015557],
        [-0.020568, 0.006414, 0.015557, 1.0],
    ];
    let found = vectors(&texts).await;
    for (row, vector) in found.iter().enumerate() {
        assert_eq!(vector.len(), 384);
        for (place, expected) in begin[row].iter().enumerate() {
            assert_close(
                vector[place],
                *expected,
                &format!("number {place} of text {row}"),
            );
        }
        for (other, expected) in cosines[row].iter().enumerate() {
            let cosine = dot(vector, &found[other]);
            assert_close(
                cosine,
                *expected,
                &format!("cosine of texts {row} and {other}"),
            );
        }
    }
}

#[tokio::test]
async fn results_come_in_input_order_and_do_not_depend_on_neighbours() {
    let texts: Vec<String> = (0..70)
        .map(|index| {
            format!(
                "text {index}{}",
                " and some more words".repeat(index * 7 % 20)
            )
        })
        .collect();
    let progress = Arc::new(Mutex::new(Vec::new()));
    let seen = progress.clone();
    let call = Call {
        progress: Arc::new(move |done, of| seen.lock().expect("progress").push((done, of))),
        ..Call::default()
    };
    let model = model().await;
    let together = model.embed(texts.clone(), &call).await.expect("embedded");
    assert_eq!(together.len(), texts.len());
    for index in [0, 1, 33, 69] {
        let alone = embed::embed_one(model.as_ref(), &texts[index], None)
            .await
            .expect("embedded");
        let cosine = dot(&alone, together[index].as_ref().expect("a vector"));
        assert_close(cosine, 1.0, &texts[index]);
    }
    let progress = progress.lock().expect("progress");
    assert!(progress.is_sorted(), "{progress:?}");
    assert!(progress.len() > 1, "more than one batch: {progress:?}");
    assert_eq!(progress.last(), Some(&(70, 70)));
}

#[tokio::test]
async fn a_model_is_loaded_once_and_says_what_it_is() {
    let (a, b, c) = tokio::join!(model(), model(), model());
    let address = |model: &Arc<dyn Embedder>| Arc::as_ptr(model).cast::<()>();
    assert_eq!(address(&a), address(&b));
    assert_eq!(address(&a), address(&c));
    assert_eq!(a.dimension(), Some(384));
    assert_eq!(a.max_tokens(), Some(256));
    let hash = a.revision().strip_prefix("sha256:").expect("a hash");
    assert_eq!(hash.len(), 64);
}

#[tokio::test]
async fn a_name_is_looked_for_in_the_data_folder() {
    let data = tempfile::tempdir().expect("a folder");
    let place = data.path().join("models/team/mini");
    fs::create_dir_all(&place).expect("made");
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        link(file, &place);
    }
    let spec = Spec::Name("team/mini".to_owned());
    let model = embed::open(&spec, data.path()).await.expect("found");
    assert_eq!(model.name(), "mini");
    assert_ne!(
        model.revision(),
        self::model().await.revision(),
        "fewer files, another revision"
    );
}

#[tokio::test]
async fn a_cancelled_call_stops_between_batches() {
    let cancelled = CancellationToken::new();
    let batches = Arc::new(Mutex::new(0));
    let (stop, count) = (cancelled.clone(), batches.clone());
    let call = Call {
        batch: Some(2),
        cancelled,
        progress: Arc::new(move |_, _| {
            *count.lock().expect("count") += 1;
            stop.cancel();
        }),
        ..Call::default()
    };
    let texts = (0..10).map(|index| format!("text {index}")).collect();
    let error = model()
        .await
        .embed(texts, &call)
        .await
        .expect_err("cancelled");
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert_eq!(*batches.lock().expect("count"), 1);
}

#[tokio::test]
async fn an_empty_text_has_a_reason_in_place_of_a_vector() {
    let texts = vec!["  ".to_owned(), "words".to_owned()];
    let results = model()
        .await
        .embed(texts, &Call::default())
        .await
        .expect("embedded");
    assert_eq!(results[0], Err("the text is empty".to_owned()));
    assert!(results[1].is_ok());
    let nothing = model().await.embed(Vec::new(), &Call::default()).await;
    assert_eq!(nothing, Ok(Vec::new()));
}

/// Name, `config.json`, weights (the model's own when absent), pooling, a part of the error.
type Row<'a> = (&'a str, &'a str, Option<&'a [u8]>, Option<&'a str>, &'a str);

#[tokio::test]
async fn a_folder_that_is_no_usable_model_is_refused_with_the_reason() {
    let config = fs::read_to_string(model_folder().join("config.json")).expect("config.json");
    let roberta = config.replace("\"model_type\": \"bert\"", "\"model_type\": \"roberta\"");
    let relative = config.replace("\"absolute\"", "\"relative_key\"");
    let wide = config.replace("\"hidden_size\": 384", "\"hidden_size\": 768");
    let uneven = config.replace("\"hidden_size\": 384", "\"hidden_size\": 385");
    let weights = fs::read(model_folder().join("model.safetensors")).expect("weights");
    let begin = Some(&weights[..100_000]);
    let max = r#"{"pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": true}"#;
    let rows: [Row; 8] = [
        (
            "roberta",
            &roberta,
            None,
            None,
            "config.json: model_type is \"roberta\"",
        ),
        (
            "relative",
            &relative,
            None,
            None,
            "position_embedding_type is \"relative_key\"",
        ),
        (
            "wide",
            &wide,
            None,
            None,
            "model.safetensors: shape mismatch",
        ),
        (
            "uneven",
            &uneven,
            None,
            None,
            "hidden_size 385 is not a multiple",
        ),
        ("syntax", "{", None, None, "config.json: EOF while parsing"),
        ("begin", &config, begin, None, "model.safetensors: "),
        ("nothing", &config, Some(b""), None, "model.safetensors: "),
        (
            "max",
            &config,
            None,
            Some(max),
            "1_Pooling/config.json: only pooling by mean",
        ),
    ];
    let data = tempfile::tempdir().expect("a folder");
    for (name, config, weights, pooling, expected) in rows {
        let place = data.path().join("models").join(name);
        fs::create_dir_all(place.join("1_Pooling")).expect("made");
        fs::write(place.join("config.json"), config).expect("written");
        link("tokenizer.json", &place);
        match weights {
            Some(bytes) => fs::write(place.join("model.safetensors"), bytes).expect("written"),
            None => link("model.safetensors", &place),
        }
        if let Some(pooling) = pooling {
            fs::write(place.join("1_Pooling/config.json"), pooling).expect("written");
        }
        let spec = Spec::Name(name.to_owned());
        let error = embed::open(&spec, data.path()).await.err().expect(name);
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{name}");
        assert!(
            error.message.contains(expected),
            "{name}: {}",
            error.message
        );
    }

    let missing = Spec::Name("no-such-model".to_owned());
    let error = embed::open(&missing, data.path())
        .await
        .err()
        .expect("missing");
    let place = data.path().join("models/no-such-model");
    for part in [
        "model \"no-such-model\" is not here",
        &place.display().to_string(),
    ] {
        assert!(error.message.contains(part), "{}", error.message);
    }
}
