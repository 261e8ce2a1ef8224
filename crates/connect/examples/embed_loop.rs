//! A bare loop over an embedding model, for what surrounds a model to be measured against:
//! `embed_loop MODEL_FOLDER FILE`, the file with a JSON object with a `text` on each line. Prints
//! the seconds that the loop took, without loading.

use std::path::Path;
use std::time::Instant;

use tidemill_connect::embed::{self, Call, Spec};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(file)) = (arguments.next(), arguments.next()) else {
        panic!("usage: embed_loop MODEL_FOLDER FILE");
    };
    let lines = std::fs::read_to_string(&file).expect("the file is readable");
    let texts: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .map(|row: serde_json::Value| row["text"].as_str().expect("it has a text").to_owned())
        .collect();
    let model = embed::open(&Spec::Name(model), Path::new("."))
        .await
        .expect("the model can be loaded");
    let begun = Instant::now();
    let vectors = model.embed(texts, &Call::default()).await;
    let vectors = vectors.expect("the texts can be embedded");
    assert!(vectors.iter().all(Result::is_ok));
    println!("{:.3}", begun.elapsed().as_secs_f64());
}
