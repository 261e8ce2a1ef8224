//! `embed.text` in batches across runs.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tidemill_connect::embed::{self, BATCH, BATCH_TOKENS, Call, Embedder};
use tidemill_connect::inference;
use tidemill_device::{batch, model};

use super::embed_text::{EmbedText, Maker, NAME, With, text_of};
use super::{failed_batch, wrong_item};
use crate::batched::{Batched, Loaded, Model, Place, Plan, limits};
use crate::records::sha256;
use crate::{Context, Error, params};

/// Requests to one server at a time, from one worker.
const REQUESTS: usize = 4;

/// Characters of a token, about, in the languages that models know best.
const TOKEN_CHARS: usize = 4;

/// Tokens that a tokenizer puts around a text.
const AROUND: usize = 2;

/// A model that was loaded for batches: its memory is free when it is dropped.
struct Resident(Arc<dyn Embedder>);

#[async_trait]
impl Batched for EmbedText {
    async fn plan(&self, with: &Value, cx: &Context) -> Result<Plan, Error> {
        let with: With = params::parse(NAME, with.clone())?;
        let identity = embed::identify(&with.model, &cx.data).await?;
        let weights = embed::weights(&with.model, &cx.data)?;
        // By its hash: an address may have credentials in it, and keys are shown.
        let spec = serde_json::to_vec(&with.model).unwrap_or_default();
        let key = format!(
            "{NAME} {}@{} {}",
            identity.name,
            identity.revision,
            &sha256(&spec)[..12]
        );
        Ok(Plan {
            key,
            device: weights.is_some(),
            limits: batch::Limits {
                items: with.batch.map_or(BATCH, std::num::NonZeroUsize::get),
                cost: weights.map(|_| BATCH_TOKENS as u64),
                padded: true,
                // A server behind an address takes several requests at a time.
                lanes: if weights.is_some() { 1 } else { REQUESTS },
                ..limits()
            },
            model: weights.map(|bytes| Model {
                key: model::Key {
                    name: identity.name,
                    revision: identity.revision,
                },
                bytes,
            }),
            memory: (0, 0),
        })
    }

    fn cost(&self, item: &Value, _with: &Value) -> Result<u64, String> {
        let tokens = text_of(item)?.chars().count().div_ceil(TOKEN_CHARS) + AROUND;
        // A longer text is cut by the model, at a length that is not known here.
        Ok(tokens.min(BATCH_TOKENS) as u64)
    }

    async fn load(&self, with: &Value, on: &Place) -> Result<Loaded, batch::Error> {
        let with = parse(with)?;
        let embedder = embed::open_owned(&with.model, &on.data).await;
        let embedder = embedder.map_err(not_loaded)?;
        let bytes = embed::weights(&with.model, &on.data).map_err(not_loaded)?;
        Ok(Loaded {
            model: Arc::new(Resident(embedder)),
            bytes,
        })
    }

    async fn run(
        &self,
        items: Vec<Value>,
        with: &Value,
        on: &Place,
    ) -> Result<Vec<Result<Value, batch::Error>>, batch::Error> {
        let with = parse(with)?;
        let embedder = match on.model.downcast_ref::<Resident>() {
            Some(resident) => resident.0.clone(),
            // Behind an address, or where no device keeps models.
            None => match embed::open(&with.model, &on.data).await {
                Ok(embedder) => embedder,
                Err(error) => return failed_batch(error, items.len()),
            },
        };
        let texts: Vec<Result<String, String>> = items
            .iter()
            .map(|item| text_of(item).map(str::to_owned))
            .collect();
        let wanted: Vec<String> = texts.iter().filter_map(|text| text.clone().ok()).collect();
        let call = Call {
            batch: Some(wanted.len().max(1)),
            // The batcher halves, and remembers what fitted.
            halve: false,
            cancelled: on.cancelled.clone(),
            limiter: on.limit.clone(),
            ..Call::default()
        };
        let vectors = match embedder.embed(wanted, &call).await {
            Ok(vectors) => vectors,
            Err(error) => return failed_batch(error, items.len()),
        };
        let maker = Maker::new(&with.model, embedder.as_ref());
        let mut vectors = vectors.into_iter();
        let result = |(mut item, text): (Value, Result<String, String>)| {
            text.map_err(wrong_item)?;
            let vector = vectors.next().unwrap_or(Err("no vector".to_owned()));
            let vector = vector.map_err(|reason| wrong_item(format!("{NAME}: {reason}")))?;
            maker.sign(&mut item, &vector);
            Ok(item)
        };
        Ok(items.into_iter().zip(texts).map(result).collect())
    }
}

fn parse(with: &Value) -> Result<With, batch::Error> {
    params::parse(NAME, with.clone()).map_err(|error| wrong_item(error.message))
}

fn not_loaded(error: inference::Error) -> batch::Error {
    match failed_batch(error, 1) {
        Err(error) => error,
        Ok(each) => {
            let first = each.into_iter().find_map(Result::err);
            first.unwrap_or_else(|| wrong_item("the model cannot be loaded".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::Stage;

    #[test]
    fn a_text_costs_its_tokens_about() {
        let cost = |item| EmbedText.cost(&item, &Value::Null);
        assert_eq!(cost(json!({"text": "12345678"})), Ok(4));
        assert_eq!(cost(json!({"text": ""})), Ok(2));
        let long = "x".repeat(10 * TOKEN_CHARS * BATCH_TOKENS);
        assert_eq!(cost(json!({ "text": long })), Ok(BATCH_TOKENS as u64));
        assert!(
            cost(json!({"title": "x"}))
                .expect_err("no text")
                .contains("no `text`")
        );
        assert!(EmbedText.batched().is_some());
    }

    #[tokio::test]
    async fn a_batch_gives_each_item_its_own_result() {
        let place = Place {
            devices: Vec::new(),
            model: Arc::new(()),
            cancelled: CancellationToken::new(),
            data: "/nowhere".into(),
            limit: None,
        };
        let items = vec![
            json!({"text": "one", "n": 1}),
            json!({"n": 2}),
            json!({"text": " "}),
            json!({"text": "four"}),
        ];
        let with = json!({"model": "fake:8"});
        let results = EmbedText.run(items, &with, &place).await.expect("a batch");
        let of = |n: usize| results[n].as_ref().expect("a vector");
        assert_eq!((&of(0)["n"], &of(0)["dimension"]), (&json!(1), &json!(8)));
        assert_eq!(of(3)["model"], "fake:8");
        for (n, expected) in [(1, "no `text`"), (2, "the text is empty")] {
            let error = results[n].as_ref().expect_err("no vector");
            assert_eq!(error.kind, batch::Kind::Invalid);
            assert!(error.message.contains(expected), "{error}");
        }
    }
}
