//! How a pipeline names an embedding model.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::inference::oip::Protocol;

/// An embedding model: the name of a folder in `models` of the data folder, a path to such a folder,
/// `fake` or `fake:DIMENSION`, `{openai: {...}}` or `{v2: {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Spec {
    #[serde(rename = "openai")]
    OpenAi(OpenAiModel),
    #[serde(rename = "v2")]
    V2(V2Model),
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

/// A model of a server that speaks the Open Inference Protocol, version 2: texts in, vectors out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct V2Model {
    /// The address of the server, such as `http://127.0.0.1:8000`.
    pub url: String,
    /// The model as the server names it.
    pub model: String,
    /// `http` unless given; gRPC mostly has a port of its own.
    #[serde(default)]
    pub protocol: Protocol,
    /// The server's choice unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The input that takes the texts: the first of type BYTES unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The output that has the vectors: the first of numbers unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The environment variable of the worker that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
}

impl Spec {
    /// As it may be kept where others read it: an address without the credentials that someone may
    /// have put into it. The key itself is never in a spec.
    pub fn without_credentials(&self) -> Self {
        let mut spec = self.clone();
        let address = match &mut spec {
            Spec::OpenAi(model) => &mut model.url,
            Spec::V2(model) => &mut model.url,
            Spec::Name(_) => return spec,
        };
        if let Ok(mut url) = reqwest::Url::parse(address)
            && (!url.username().is_empty() || url.password().is_some())
        {
            // Fails for addresses without a host, which hold no credentials.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            *address = url.into();
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
        f.write_str("the name of a model, {openai: {url, model}} or {v2: {url, model}}")
    }

    fn visit_str<E>(self, name: &str) -> Result<Spec, E> {
        Ok(Spec::Name(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spec, A::Error> {
        let Some(kind) = map.next_key::<String>()? else {
            return Err(A::Error::invalid_length(0, &self));
        };
        let spec = match kind.as_str() {
            "openai" => Spec::OpenAi(map.next_value()?),
            "v2" => Spec::V2(map.next_value()?),
            _ => return Err(A::Error::unknown_field(&kind, &["openai", "v2"])),
        };
        if let Some(more) = map.next_key::<String>()? {
            return Err(A::Error::custom(format!(
                "a model is one thing: {more:?} beside {kind}"
            )));
        }
        Ok(spec)
    }
}
