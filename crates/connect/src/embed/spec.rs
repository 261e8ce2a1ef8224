//! How a pipeline names an embedding model.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// An embedding model: the name of a folder in `models` of the data folder, a path to such a folder,
/// `fake` or `fake:DIMENSION`, or `{openai: {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Spec {
    #[serde(rename = "openai")]
    OpenAi(OpenAiModel),
    #[serde(untagged)]
    Name(String),
}

/// A model behind an address that speaks OpenAI's embeddings API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenAiModel {
    /// The address up to its version, such as `https://api.openai.com/v1`.
    pub url: String,
    /// The model as the server names it.
    pub model: String,
    /// The environment variable of the worker that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Numbers of a vector, for models that can shorten theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
}

impl Spec {
    /// As it may be kept where others read it: an address without the credentials that someone may
    /// have put into it. The key itself is never in a spec.
    pub fn without_credentials(&self) -> Self {
        let mut spec = self.clone();
        if let Spec::OpenAi(model) = &mut spec
            && let Ok(mut url) = reqwest::Url::parse(&model.url)
            && (!url.username().is_empty() || url.password().is_some())
        {
            // Fails for addresses without a host, which hold no credentials.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            model.url = url.into();
        }
        spec
    }
}

// By hand: an untagged enum would say "did not match any variant" where a field is misspelt.
impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpecVisitor)
    }
}

struct SpecVisitor;

impl<'de> Visitor<'de> for SpecVisitor {
    type Value = Spec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a model, or {openai: {url, model}}")
    }

    fn visit_str<E>(self, name: &str) -> Result<Spec, E> {
        Ok(Spec::Name(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spec, A::Error> {
        let Some(kind) = map.next_key::<String>()? else {
            return Err(A::Error::invalid_length(0, &self));
        };
        if kind != "openai" {
            return Err(A::Error::unknown_field(&kind, &["openai"]));
        }
        let model = map.next_value()?;
        if let Some(more) = map.next_key::<String>()? {
            return Err(A::Error::custom(format!(
                "a model is one thing: {more:?} beside openai"
            )));
        }
        Ok(Spec::OpenAi(model))
    }
}
