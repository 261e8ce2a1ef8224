//! The protocol's messages over gRPC, as far as they are used: package `inference`, service
//! `GRPCInferenceService`.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::Value;

use super::{ModelMetadata, Outputs, ServerMetadata};
use crate::inference::TensorRequest;
use crate::inference::tensor::{Datatype, Tensor, TensorMetadata};

/// Of `ServerReady` and `ServerMetadata`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Empty {}

/// Of `ServerReady` and `ModelReady`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Ready {
    #[prost(bool, tag = "1")]
    pub(super) ready: bool,
}

/// Of `ModelReady` and `ModelMetadata`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Named {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerIs {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) extensions: Vec<String>,
}

impl From<ServerIs> for ServerMetadata {
    fn from(is: ServerIs) -> Self {
        Self {
            name: is.name,
            version: is.version,
            extensions: is.extensions,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelIs {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) platform: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) inputs: Vec<TensorIs>,
    #[prost(message, repeated, tag = "5")]
    pub(super) outputs: Vec<TensorIs>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorIs {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(super) shape: Vec<i64>,
}

impl From<TensorIs> for TensorMetadata {
    fn from(is: TensorIs) -> Self {
        Self {
            name: is.name,
            datatype: is.datatype,
            shape: is.shape,
        }
    }
}

impl From<ModelIs> for ModelMetadata {
    fn from(is: ModelIs) -> Self {
        Self {
            name: is.name,
            versions: is.versions,
            platform: is.platform,
            inputs: is.inputs.into_iter().map(Into::into).collect(),
            outputs: is.outputs.into_iter().map(Into::into).collect(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Infer {
    #[prost(string, tag = "1")]
    pub(super) model_name: String,
    #[prost(string, tag = "2")]
    pub(super) model_version: String,
    #[prost(string, tag = "3")]
    pub(super) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) parameters: BTreeMap<String, Parameter>,
    #[prost(message, repeated, tag = "5")]
    pub(super) inputs: Vec<TensorOf>,
    #[prost(message, repeated, tag = "6")]
    pub(super) outputs: Vec<Wanted>,
    /// One for each input, which then has no contents of its own.
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub(super) raw: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Wanted {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Parameter {
    #[prost(oneof = "Choice", tags = "1, 2, 3, 4")]
    pub(super) choice: Option<Choice>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Choice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int(i64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(double, tag = "4")]
    Double(f64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorOf {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(super) shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    pub(super) contents: Option<Contents>,
}

/// Elements by their type. There is no form for floating point numbers of two bytes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Contents {
    #[prost(bool, repeated, tag = "1")]
    pub(super) bools: Vec<bool>,
    #[prost(int32, repeated, tag = "2")]
    pub(super) ints: Vec<i32>,
    #[prost(int64, repeated, tag = "3")]
    pub(super) longs: Vec<i64>,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) uints: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    pub(super) ulongs: Vec<u64>,
    #[prost(float, repeated, tag = "6")]
    pub(super) floats: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    pub(super) doubles: Vec<f64>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub(super) bytes: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Inferred {
    #[prost(string, tag = "1")]
    pub(super) model_name: String,
    #[prost(string, tag = "2")]
    pub(super) model_version: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) outputs: Vec<TensorOf>,
    /// One for each output, or none at all.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub(super) raw: Vec<Vec<u8>>,
}

impl Infer {
    pub(super) fn of(request: &TensorRequest) -> Result<Self, String> {
        let input = |tensor: &Tensor| TensorOf {
            name: tensor.name.clone(),
            datatype: tensor.datatype().name().to_owned(),
            shape: tensor.shape().iter().map(|length| *length as i64).collect(),
            contents: None,
        };
        let mut parameters = BTreeMap::new();
        for (name, value) in &request.parameters {
            let choice = match value {
                Value::Bool(one) => Choice::Bool(*one),
                Value::String(text) => Choice::Text(text.clone()),
                Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                    (Some(whole), _) => Choice::Int(whole),
                    (None, double) => Choice::Double(double.unwrap_or_default()),
                },
                other => {
                    return Err(format!(
                        "parameter {name:?}: {other} is no truth value, number or text"
                    ));
                }
            };
            let choice = Some(choice);
            parameters.insert(name.clone(), Parameter { choice });
        }
        Ok(Self {
            model_name: request.model.clone(),
            model_version: request.version.clone().unwrap_or_default(),
            id: request.idempotency_key.clone().unwrap_or_default(),
            parameters,
            inputs: request.inputs.iter().map(input).collect(),
            outputs: request
                .outputs
                .iter()
                .map(|name| Wanted { name: name.clone() })
                .collect(),
            raw: request.inputs.iter().map(Tensor::to_raw).collect(),
        })
    }
}

impl TryFrom<Inferred> for Outputs {
    type Error = String;

    fn try_from(answer: Inferred) -> Result<Self, String> {
        let is_raw = !answer.raw.is_empty();
        let mut raw = answer.raw.into_iter();
        let mut outputs = Vec::with_capacity(answer.outputs.len());
        for output in answer.outputs {
            let raw = if is_raw { raw.next() } else { None };
            let name = output.name.clone();
            let tensor = output.read(raw.filter(|_| is_raw));
            outputs.push(tensor.map_err(|cause| format!("output {name:?}: {cause}"))?);
        }
        Ok(Self {
            model: answer.model_name,
            version: answer.model_version,
            outputs,
        })
    }
}

impl TensorOf {
    fn read(self, raw: Option<Vec<u8>>) -> Result<Tensor, String> {
        let datatype: Datatype = self.datatype.parse()?;
        let shape: Result<Vec<usize>, _> = self.shape.iter().map(|n| usize::try_from(*n)).collect();
        let shape = shape.map_err(|_| format!("the shape {:?}", self.shape))?;
        let contents = match (raw, self.contents) {
            (Some(raw), None) => return Tensor::from_raw(self.name, datatype, &shape, &raw),
            // A server that sends some raw and others not leaves empty places.
            (Some(raw), Some(_)) if !raw.is_empty() => {
                return Tensor::from_raw(self.name, datatype, &shape, &raw);
            }
            (_, contents) => contents.unwrap_or_default(),
        };
        if datatype == Datatype::Bytes {
            return Tensor::from_bytes(self.name, &shape, contents.bytes);
        }
        Tensor::from_raw(self.name, datatype, &shape, &contents.raw(datatype)?)
    }
}

impl Contents {
    fn raw(&self, datatype: Datatype) -> Result<Vec<u8>, String> {
        fn narrow<T, S: Copy + std::fmt::Display, const N: usize>(
            numbers: &[S],
            bytes: impl Fn(T) -> [u8; N],
        ) -> Result<Vec<u8>, String>
        where
            T: TryFrom<S>,
        {
            let mut raw = Vec::with_capacity(numbers.len() * N);
            for number in numbers {
                let narrow = T::try_from(*number);
                let narrow = narrow.map_err(|_| format!("{number} is out of its range"))?;
                raw.extend(bytes(narrow));
            }
            Ok(raw)
        }
        match datatype {
            Datatype::Bool => Ok(self.bools.iter().map(|one| u8::from(*one)).collect()),
            Datatype::Int8 => narrow(&self.ints, i8::to_le_bytes),
            Datatype::Int16 => narrow(&self.ints, i16::to_le_bytes),
            Datatype::Int32 => narrow(&self.ints, i32::to_le_bytes),
            Datatype::Int64 => narrow(&self.longs, i64::to_le_bytes),
            Datatype::Uint8 => narrow(&self.uints, u8::to_le_bytes),
            Datatype::Uint16 => narrow(&self.uints, u16::to_le_bytes),
            Datatype::Uint32 => narrow(&self.uints, u32::to_le_bytes),
            Datatype::Uint64 => narrow(&self.ulongs, u64::to_le_bytes),
            Datatype::Fp32 => narrow(&self.floats, f32::to_le_bytes),
            Datatype::Fp64 => narrow(&self.doubles, f64::to_le_bytes),
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
                Err(format!("{datatype} comes as bytes only"))
            }
        }
    }
}

/// What a status carries beside its code: `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusDetails {
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(super) delay: Option<Span>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Span {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}
