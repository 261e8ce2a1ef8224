//! The stage `vector.search`.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_connect::embed::{self, Spec};
use tidemill_connect::vector::{Filter, Model};
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::{Context, Error, Stage, params};

const NAME: &str = "vector.search";

/// Finds the chunks nearest to a query.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The index: its name, or `{qdrant: {...}}`, `{pgvector: {...}}`.
    index: Value,
    /// What to look for; the input by default.
    query: Option<String>,
    /// The vector to look for, in place of a query.
    vector: Option<Vec<f32>>,
    /// The model that embeds the query: by default the one that the index names as its own.
    model: Option<Spec>,
    /// How many chunks at most; 5 by default.
    #[serde(default = "k")]
    #[schemars(range(min = 1, max = 1000))]
    k: usize,
    /// Only chunks that meet it, such as `{language: fr}` or `{year: {">=": 1990}}`.
    #[serde(default)]
    filter: Value,
}

fn k() -> usize {
    5
}

#[async_trait]
impl Stage for Search {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Finds the chunks of a vector index that are nearest to a query.".to_owned(),
            kind: Kind::Call,
            input: Type::Any,
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            // The index changes.
            pure: false,
            batched: None,
        }
    }

    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let with: With = params::parse(NAME, with)?;
        if !(1..=1000).contains(&with.k) {
            return Err(params::wrong(NAME, "k", "it is from 1 to 1000"));
        }
        let failed = |e| super::error(NAME, e);
        let filter = Filter::from_json(&with.filter).map_err(failed)?;
        let index = super::open(NAME, &with.index, cx).await?;
        let vector = match (with.vector, with.query) {
            (Some(_), Some(_)) => {
                return Err(params::wrong(
                    NAME,
                    "vector",
                    "give it or `query`, not both",
                ));
            }
            (Some(vector), None) => vector,
            (None, query) => {
                let query = query
                    .or_else(|| input.as_str().map(str::to_owned))
                    .ok_or_else(|| params::wrong(NAME, "query", "there is nothing to look for"))?;
                let made = index.model().await.map_err(failed)?;
                // An empty index: nothing is near to anything.
                let Some(made) = made else {
                    return Ok(json!({ "matches": [] }));
                };
                if with.model.is_none() {
                    trusted(&with.index, &made.spec())?;
                }
                embedded(&query, with.model.as_ref(), &made, cx).await?
            }
        };
        let matches = index
            .search(vector, with.k, &filter)
            .await
            .map_err(failed)?;
        Ok(json!({ "matches": matches }))
    }
}

/// Whether an index may say where queries and a key are sent: only one in the data folder may. Into
/// others more people can write than those who search.
fn trusted(index: &Value, spec: &Spec) -> Result<(), Error> {
    match spec {
        Spec::OpenAi(model) if !index.is_string() => {
            let why = format!(
                "the index says that its model {} is at {}; others can write to this index, so say \
                 yourself where queries are to be sent: {{openai: {{url, model, api_key_env}}}}",
                model.model, model.url
            );
            Err(params::wrong(NAME, "model", why))
        }
        _ => Ok(()),
    }
}

/// The query's vector, if `model`, or else the index's own, is the one that the index was made with.
async fn embedded(
    query: &str,
    model: Option<&Spec>,
    made: &Model,
    cx: &Context,
) -> Result<Vec<f32>, Error> {
    let failed = |error: embed::Error| {
        // What is wrong with the query's text is not the model's fault.
        let of_model = model.is_none() && error.kind != embed::ErrorKind::Invalid;
        let mut error = Error::from(error);
        if of_model {
            error.message = format!(
                "{NAME}: a query is embedded by the model that the index was made with: {}; or \
                 name the model in another way, as `model`",
                error.message
            );
        }
        error
    };
    let spec = model.cloned().unwrap_or_else(|| made.spec());
    let embedder = embed::open(&spec, &cx.data).await.map_err(failed)?;
    if made.model != embedder.name() || made.revision != embedder.revision() {
        let why = format!(
            "the index was made with {made}; {} (revision {}) embeds the query differently",
            embedder.name(),
            embedder.revision()
        );
        return Err(params::wrong(NAME, "model", why));
    }
    tokio::select! {
        vector = embed::embed_one(embedder.as_ref(), query, cx.limit.clone()) => vector.map_err(failed),
        () = cx.cancelled.cancelled() => Err(Error::cancelled()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_index_does_not_say_where_queries_go() {
        let endpoint: Spec = serde_json::from_value(
            json!({"openai": {"url": "http://else.where/v1", "model": "m"}}),
        )
        .unwrap();
        let local = Spec::Name("all-MiniLM-L6-v2".to_owned());
        let (own, shared) = (
            json!("documents"),
            json!({"pgvector": {"url": "postgres://db"}}),
        );
        assert!(trusted(&own, &endpoint).is_ok());
        assert!(trusted(&shared, &local).is_ok());
        let error = trusted(&shared, &endpoint).unwrap_err();
        assert!(error.message.contains("http://else.where/v1"), "{error}");
    }
}
