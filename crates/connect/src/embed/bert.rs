//! BERT's encoder with pooling, on candle. Shapes in comments: `b` texts, `n` tokens, `h` hidden
//! size, `a` attention heads.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, ops};
use serde::Deserialize;

/// What `config.json` says of a model.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    model_type: String,
    vocab_size: usize,
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    layer_norm_eps: f64,
    hidden_act: Activation,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    pub(super) pad_token_id: u32,
}

fn two() -> usize {
    2
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    Gelu,
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    Relu,
}

impl Config {
    /// Refuses what this file does not compute.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        const ELSEWHERE: &str =
            "serve this model with an inference server and name it as {openai: {url, model}}";
        if self.model_type != "bert" {
            return Err(format!(
                "model_type is {:?}, and only bert is computed here; {ELSEWHERE}",
                self.model_type
            ));
        }
        if let Some(kind) = &self.position_embedding_type
            && kind != "absolute"
        {
            return Err(format!(
                "position_embedding_type is {kind:?}, and only absolute is computed here; {ELSEWHERE}"
            ));
        }
        if self.num_attention_heads == 0
            || !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            return Err(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        Ok(())
    }
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    Mean,
    /// The first token's.
    Cls,
}

pub(super) struct Bert {
    words: Tensor,
    /// The positions' embeddings with that of token type 0 added: there is one segment only.
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    pooling: Pooling,
    pad_token: u32,
}

impl Bert {
    pub(super) fn new(config: &Config, pooling: Pooling, weights: &[u8]) -> Result<Self> {
        let vb = VarBuilder::from_slice_safetensors(weights, DType::F32, &Device::Cpu)?;
        // Exports of the bare encoder have no prefix, those of models with a head do.
        let vb = if vb.contains_tensor("embeddings.word_embeddings.weight") {
            vb
        } else {
            vb.pp("bert")
        };
        let embeddings = vb.pp("embeddings");
        let h = config.hidden_size;
        let table = |name: &str, rows: usize| embeddings.pp(name).get((rows, h), "weight");
        let types = table("token_type_embeddings", config.type_vocab_size)?;
        let positions = table("position_embeddings", config.max_position_embeddings)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::new(config, vb.pp("encoder.layer").pp(index)))
            .collect::<Result<_>>()?;
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions: positions.broadcast_add(&types.narrow(0, 0, 1)?)?,
            norm: layer_norm(config, embeddings.pp("LayerNorm"))?,
            layers,
            pooling,
            pad_token: config.pad_token_id,
        })
    }

    /// The vectors of texts, given as tokens, of length 1. Texts shorter than the longest cost as
    /// much as that one.
    pub(super) fn embed(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let b = texts.len();
        let n = texts.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        if n == 0 {
            candle_core::bail!("texts without tokens");
        }
        let mut tokens = Vec::with_capacity(b * n);
        let mut mask = Vec::with_capacity(b * n);
        for text in texts {
            tokens.extend_from_slice(text);
            tokens.resize(tokens.len() + n - text.len(), self.pad_token);
            mask.extend((0..n).map(|position| f32::from(u8::from(position < text.len()))));
        }
        let padded = mask.contains(&0.0);
        let tokens = Tensor::from_vec(tokens, b * n, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, (b, n), &Device::Cpu)?;

        let words = self.words.index_select(&tokens, 0)?.reshape((b, n, ()))?;
        let mut x = words.broadcast_add(&self.positions.narrow(0, 0, n)?)?;
        x = self.norm.forward(&x)?;
        // Added to attention scores: nothing for a token, very little weight for padding.
        let bias = match padded {
            true => Some(mask.affine(1e9, -1e9)?.reshape((b, 1, 1, n))?),
            false => None,
        };
        for layer in &self.layers {
            x = layer.forward(&x, bias.as_ref())?;
        }
        let pooled = match self.pooling {
            Pooling::Cls => x.narrow(1, 0, 1)?.squeeze(1)?,
            Pooling::Mean => {
                let sum = x.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
                sum.broadcast_div(&mask.sum_keepdim(1)?)?
            }
        };
        let length = pooled.sqr()?.sum_keepdim(1)?.sqrt()?;
        pooled.broadcast_div(&length)?.to_vec2()
    }
}

struct Layer {
    /// Query, key and value in one multiplication; the query's part is scaled for attention.
    qkv: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    activation: Activation,
    out: Linear,
    norm: LayerNorm,
    heads: usize,
}

impl Layer {
    fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let (h, wide) = (config.hidden_size, config.intermediate_size);
        let attention = vb.pp("attention");
        let part = |name: &str, scale: f64| -> Result<(Tensor, Tensor)> {
            let vb = attention.pp("self").pp(name);
            let weight = vb.get((h, h), "weight")?.affine(scale, 0.0)?;
            Ok((weight, vb.get(h, "bias")?.affine(scale, 0.0)?))
        };
        let scale = 1.0 / ((h / config.num_attention_heads) as f64).sqrt();
        let (query, key, value) = (
            part("query", scale)?,
            part("key", 1.0)?,
            part("value", 1.0)?,
        );
        Ok(Self {
            qkv: Linear::new(
                Tensor::cat(&[query.0, key.0, value.0], 0)?,
                Some(Tensor::cat(&[query.1, key.1, value.1], 0)?),
            ),
            attention_out: candle_nn::linear(h, h, attention.pp("output.dense"))?,
            attention_norm: layer_norm(config, attention.pp("output.LayerNorm"))?,
            intermediate: candle_nn::linear(h, wide, vb.pp("intermediate.dense"))?,
            activation: config.hidden_act,
            out: candle_nn::linear(wide, h, vb.pp("output.dense"))?,
            norm: layer_norm(config, vb.pp("output.LayerNorm"))?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let attended = self.attention_out.forward(&self.attend(x, bias)?)?;
        let x = self.attention_norm.forward(&(attended + x)?)?;
        let wide = self.intermediate.forward(&x)?;
        let wide = match self.activation {
            Activation::Gelu => wide.gelu_erf()?,
            Activation::GeluNew => wide.gelu()?,
            Activation::Relu => wide.relu()?,
        };
        self.norm.forward(&(self.out.forward(&wide)? + x)?)
    }

    fn attend(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (b, n, h) = x.dims3()?;
        let qkv = self.qkv.forward(x)?;
        // (b, n, h) -> (b, a, n, h / a)
        let split = |index: usize| -> Result<Tensor> {
            qkv.narrow(2, index * h, h)?
                .reshape((b, n, self.heads, h / self.heads))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (query, key, value) = (split(0)?, split(1)?, split(2)?);
        let mut scores = query.matmul(&key.t()?)?;
        if let Some(bias) = bias {
            scores = scores.broadcast_add(bias)?;
        }
        let weights = ops::softmax_last_dim(&scores)?;
        weights.matmul(&value)?.transpose(1, 2)?.reshape((b, n, h))
    }
}

fn layer_norm(config: &Config, vb: VarBuilder) -> Result<LayerNorm> {
    candle_nn::layer_norm(config.hidden_size, config.layer_norm_eps, vb)
}
