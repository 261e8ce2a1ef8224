//! The stage `embed.text`.

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tidemill_connect::embed::{self, Call, Embedder, Identity, Spec};
use tidemill_pipeline::data::{FailedItem, Item, Part};
use tidemill_pipeline::stage::{self, Kind, StageType, Type};

use crate::{Batched, Context, Error, Stage, params};

pub(super) const NAME: &str = "embed.text";

/// Adds to each item with a `text` the vector of that text, with the model that made it.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbedText;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct With {
    /// The model: the name of a folder in `models` of the data folder, a path to a folder with
    /// `model.safetensors`, `tokenizer.json` and `config.json`, `{openai: {url, model}}`, or
    /// `{v2: {url, model}}` for a server that speaks the Open Inference Protocol.
    /// `fake` or `fake:384` costs nothing and is for tests.
    pub(super) model: Spec,
    /// Texts computed at once or sent in one request; 32 unless given.
    pub(super) batch: Option<NonZeroUsize>,
}

#[async_trait]
impl Stage for EmbedText {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Computes the vectors of texts with a local model or a server's.".to_owned(),
            kind: Kind::Items,
            input: Type::record("chunk"),
            output: Type::record("vector"),
            resource: "accelerator".to_owned(),
            with: params::schema::<With>(),
            pure: true,
            batched: Some(stage::Batched {
                model: Some("model".to_owned()),
            }),
        }
    }

    fn batched(&self) -> Option<&dyn Batched> {
        Some(self)
    }

    async fn items(&self, chunk: Part, with: Value, cx: &Context) -> Result<Part, Error> {
        let with: With = params::parse(NAME, with)?;
        let mut out = Part::default();
        let mut items = Vec::with_capacity(chunk.items.len());
        let mut texts = Vec::with_capacity(chunk.items.len());
        for item in chunk.items {
            match text_of(&item.value) {
                Ok(text) => {
                    texts.push(text.to_owned());
                    items.push(item);
                }
                Err(reason) => out.failed.push(failed(item, cx, reason)),
            }
        }
        if items.is_empty() {
            return Ok(out);
        }
        let embedder = tokio::select! {
            opened = embed::open(&with.model, &cx.data) => opened?,
            () = cx.cancelled.cancelled() => return Err(Error::cancelled()),
        };
        let maker = Maker::new(&with.model, embedder.as_ref());
        let progress = cx.progress.clone();
        let call = Call {
            batch: with.batch.map(NonZeroUsize::get),
            cancelled: cx.cancelled.clone(),
            progress: Arc::new(move |done, of| progress(format!("{done} of {of} embedded"))),
            limiter: cx.limit.clone(),
            ..Call::default()
        };
        let results = embedder.embed(texts, &call).await?;
        for (mut item, result) in items.into_iter().zip(results) {
            match result {
                Ok(vector) => {
                    maker.sign(&mut item.value, &vector);
                    out.items.push(item);
                }
                Err(reason) => out
                    .failed
                    .push(failed(item, cx, format!("{NAME}: {reason}"))),
            }
        }
        Ok(out)
    }

    async fn revision(&self, with: &Value, cx: &Context) -> Result<Option<String>, Error> {
        let model = model_of(with, cx).await?;
        Ok(Some(format!("{} {}", model.name, model.revision)))
    }
}

/// What computes the vectors of this stage, as its parameters name it.
pub(crate) async fn model_of(with: &Value, cx: &Context) -> Result<Identity, Error> {
    let With { model, .. } = params::parse(NAME, with.clone())?;
    Ok(embed::identify(&model, &cx.data).await?)
}

/// What is embedded of an item.
pub(super) fn text_of(item: &Value) -> Result<&str, String> {
    let text = item.get("text").and_then(Value::as_str);
    text.ok_or_else(|| format!("{NAME}: the item has no `text` to embed"))
}

/// The model as it is written beside its vectors.
pub(super) struct Maker {
    name: String,
    revision: String,
    /// How to open it again, where its name does not say so by itself.
    spec: Option<Value>,
}

impl Maker {
    pub(super) fn new(spec: &Spec, embedder: &dyn Embedder) -> Self {
        Self {
            name: embedder.name().to_owned(),
            revision: embedder.revision().to_owned(),
            spec: match spec {
                Spec::Name(name) if name == embedder.name() => None,
                spec => serde_json::to_value(spec.without_credentials()).ok(),
            },
        }
    }

    pub(super) fn sign(&self, item: &mut Value, vector: &[f32]) {
        let mut bytes = Vec::with_capacity(size_of_val(vector));
        for number in vector {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        if let Value::Object(record) = item {
            record.insert("vector".to_owned(), STANDARD.encode(bytes).into());
            record.insert("dimension".to_owned(), vector.len().into());
            record.insert("model".to_owned(), self.name.as_str().into());
            record.insert("revision".to_owned(), self.revision.as_str().into());
            if let Some(spec) = &self.spec {
                record.insert("embedder".to_owned(), spec.clone());
            }
        }
    }
}

fn failed(item: Item, cx: &Context, error: String) -> FailedItem {
    FailedItem {
        id: item.id,
        source: item.source,
        stage: cx.stage.clone(),
        error,
    }
}
