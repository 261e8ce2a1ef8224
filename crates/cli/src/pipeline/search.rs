//! `tidemill search`: asks a vector index, without an engine.

use std::path::PathBuf;

use serde_json::{Value, json};
use tidemill_pipeline::task::RunRef;
use tidemill_stages::{Context, builtin};

use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to look for.
    #[arg(value_name = "TEXT")]
    text: String,
    /// The index: a name in the data folder, or JSON such as '{"qdrant": {"url": ..., ...}}'.
    #[arg(long, default_value = "documents")]
    index: String,
    /// The model that the index was made with, if it was not a local one.
    #[arg(long)]
    model: Option<String>,
    /// Matches to show.
    #[arg(long, short = 'k', default_value_t = 5)]
    limit: usize,
    /// Only what meets this, such as '{"uri": "a.md"}'.
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Folder of vector indexes and models.
    #[arg(
        long,
        value_name = "PATH",
        default_value = ".tidemill",
        env = "TIDEMILL_DATA"
    )]
    data: PathBuf,
    /// Print JSON for programs instead of text for people.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let json_or_text =
        |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| Value::from(text));
    let mut with = json!({
        "query": arguments.text,
        "index": json_or_text(&arguments.index),
        "k": arguments.limit,
    });
    if let Some(model) = &arguments.model {
        with["model"] = json_or_text(model);
    }
    if let Some(filter) = &arguments.filter {
        with["filter"] = serde_json::from_str(filter)
            .map_err(|error| Failure::usage(format!("--filter {filter}: not JSON: {error}")))?;
    }
    let stage = builtin()
        .into_iter()
        .find(|stage| stage.describe().name == "vector.search")
        .ok_or_else(|| Failure::general("this binary has no vector.search"))?;
    let data = arguments.data;
    let cx = Context {
        run: RunRef {
            id: "search".to_owned(),
            pipeline: String::new(),
            plan: String::new(),
        },
        stage: "search".to_owned(),
        artifacts: tidemill_connect::artifacts::Artifacts::memory(),
        data: data.clone(),
        cancelled: Default::default(),
        progress: std::sync::Arc::new(|_| {}),
        devices: Vec::new(),
        item: String::new(),
        streams: Default::default(),
        limit: None,
    };
    let found = stage
        .call(Value::Null, with, &cx)
        .await
        .map_err(Failure::general)?;
    if arguments.json {
        output::line(found);
        return Ok(());
    }
    let matches = found["matches"].as_array().cloned().unwrap_or_default();
    if matches.is_empty() {
        output::line(format_args!(
            "nothing found: index {} in {} is empty, or not there",
            arguments.index,
            data.display()
        ));
    }
    for (i, found) in matches.iter().enumerate() {
        let text = found["text"].as_str().unwrap_or_default();
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = text.chars().take(240).collect();
        let more = if short.len() < text.len() { " ..." } else { "" };
        output::line(format_args!(
            "{}. {:.3}  {}\n   {short}{more}\n",
            i + 1,
            found["score"].as_f64().unwrap_or_default(),
            found["uri"].as_str().unwrap_or("?"),
        ));
    }
    Ok(())
}
