//! Typed arrays as inference servers take and give them, in JSON and as bytes.
//!
//! The bytes are those of the Open Inference Protocol: little-endian numbers in row-major order; an
//! element of `BYTES` has its length, four bytes, before it.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod element;

/// The type of a tensor's elements, by its name in the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes of an element; `None` where they differ.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// The type that holds a JSON value, where nobody says another: that of its first element.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Array(values) => values.first().map_or(Self::Fp32, Self::of),
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.is_i64() => Self::Int64,
            Value::Number(_) => Self::Fp32,
            _ => Self::Bytes,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Datatype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        // Triton's configuration has the type before its name.
        let plain = name.strip_prefix("TYPE_").unwrap_or(name);
        let plain = if plain == "STRING" { "BYTES" } else { plain };
        let found = Self::ALL.into_iter().find(|one| one.name() == plain);
        found.ok_or_else(|| format!("unknown datatype {name:?}"))
    }
}

/// An array of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    datatype: Datatype,
    shape: Vec<usize>,
    elements: Elements,
}

#[derive(Clone, Debug, PartialEq)]
enum Elements {
    /// Of one size each.
    Fixed(Vec<u8>),
    Bytes(Vec<Vec<u8>>),
}

impl Elements {
    fn new(datatype: Datatype) -> Self {
        match datatype.size() {
            Some(_) => Elements::Fixed(Vec::new()),
            None => Elements::Bytes(Vec::new()),
        }
    }
}

impl Tensor {
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Length of the first dimension; 1 for a tensor that has none.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// From nested arrays, which say the shape; or from a flat one when `shape` is given.
    ///
    /// # Errors
    /// Say which element is wrong and why.
    pub fn from_json(
        name: impl Into<String>,
        datatype: Datatype,
        shape: Option<&[usize]>,
        value: &Value,
    ) -> Result<Self, String> {
        let mut elements = Elements::new(datatype);
        let mut found = Vec::new();
        let mut path = Vec::new();
        read_nested(value, datatype, &mut elements, &mut found, &mut path)?;
        let mut tensor = Self {
            name: name.into(),
            datatype,
            shape: found,
            elements,
        };
        if let Some(shape) = shape {
            tensor.reshape(shape)?;
        }
        Ok(tensor)
    }

    /// From the protocol's bytes.
    pub fn from_raw(
        name: impl Into<String>,
        datatype: Datatype,
        shape: &[usize],
        raw: &[u8],
    ) -> Result<Self, String> {
        let elements = match datatype.size() {
            Some(size) if raw.len().is_multiple_of(size) => Elements::Fixed(raw.to_vec()),
            Some(size) => {
                return Err(format!(
                    "{} bytes are no whole number of {datatype} elements, which have {size} each",
                    raw.len()
                ));
            }
            None => Elements::Bytes(element::length_prefixed(raw)?),
        };
        Self::checked(name.into(), datatype, shape, elements)
    }

    /// From elements that are bytes already.
    pub fn from_bytes(
        name: impl Into<String>,
        shape: &[usize],
        elements: Vec<Vec<u8>>,
    ) -> Result<Self, String> {
        let elements = Elements::Bytes(elements);
        Self::checked(name.into(), Datatype::Bytes, shape, elements)
    }

    /// Texts, one to a row, each row of the rest of a shape that has `rank` dimensions.
    pub fn of_texts(name: impl Into<String>, texts: &[String], rank: usize) -> Self {
        let mut shape = vec![1; rank.max(1)];
        shape[0] = texts.len();
        let elements = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        Self {
            name: name.into(),
            datatype: Datatype::Bytes,
            shape,
            elements: Elements::Bytes(elements),
        }
    }

    /// Vectors of one length, one to a row.
    pub fn of_vectors(name: impl Into<String>, vectors: &[Vec<f32>]) -> Self {
        let width = vectors.first().map_or(0, Vec::len);
        let bytes = vectors.iter().flatten().flat_map(|n| n.to_le_bytes());
        Self {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: vec![vectors.len(), width],
            elements: Elements::Fixed(bytes.collect()),
        }
    }

    fn checked(
        name: String,
        datatype: Datatype,
        shape: &[usize],
        elements: Elements,
    ) -> Result<Self, String> {
        let mut tensor = Self {
            name,
            datatype,
            shape: Vec::new(),
            elements,
        };
        tensor.reshape(shape)?;
        Ok(tensor)
    }

    /// How many elements it has.
    pub fn count(&self) -> usize {
        match (&self.elements, self.datatype.size()) {
            (Elements::Fixed(bytes), Some(size)) => bytes.len() / size,
            (Elements::Fixed(bytes), None) => bytes.len(),
            (Elements::Bytes(elements), _) => elements.len(),
        }
    }

    /// The same elements in another shape.
    pub fn reshape(&mut self, shape: &[usize]) -> Result<(), String> {
        let wanted = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
        if wanted != Some(self.count()) {
            return Err(format!(
                "{} elements do not make the shape {shape:?}",
                self.count()
            ));
        }
        self.shape = shape.to_vec();
        Ok(())
    }

    /// Nested arrays in the tensor's shape. Bytes that are no UTF-8 become `{"base64": …}`, numbers
    /// that JSON does not know become null.
    pub fn to_json(&self) -> Value {
        let mut flat = self.to_flat_json().into_iter();
        nested(&self.shape, &mut flat)
    }

    /// The elements in row-major order.
    pub fn to_flat_json(&self) -> Vec<Value> {
        match (&self.elements, self.datatype.size()) {
            (Elements::Fixed(bytes), Some(size)) => bytes
                .chunks_exact(size)
                .map(|bytes| element::to_json(self.datatype, bytes))
                .collect(),
            (Elements::Fixed(_), None) => Vec::new(),
            (Elements::Bytes(elements), _) => {
                elements.iter().map(|one| element::text(one)).collect()
            }
        }
    }

    /// The protocol's bytes.
    pub fn to_raw(&self) -> Vec<u8> {
        match &self.elements {
            Elements::Fixed(bytes) => bytes.clone(),
            Elements::Bytes(elements) => {
                let mut raw = Vec::new();
                for one in elements {
                    // A text of 4 GiB is refused by every server for other reasons.
                    raw.extend_from_slice(&(one.len() as u32).to_le_bytes());
                    raw.extend_from_slice(one);
                }
                raw
            }
        }
    }

    /// The elements of a tensor of `BYTES`.
    pub fn bytes(&self) -> Option<&[Vec<u8>]> {
        match &self.elements {
            Elements::Bytes(elements) => Some(elements),
            Elements::Fixed(_) => None,
        }
    }

    /// Its rows as vectors, whatever its numbers are; `None` for texts and truth values.
    pub fn vectors(&self) -> Option<Vec<Vec<f32>>> {
        let (Elements::Fixed(bytes), Some(size)) = (&self.elements, self.datatype.size()) else {
            return None;
        };
        if self.datatype == Datatype::Bool {
            return None;
        }
        let numbers: Vec<f32> = bytes
            .chunks_exact(size)
            .map(|bytes| match self.datatype {
                Datatype::Fp32 => f32::from_le_bytes(element::array(bytes)),
                Datatype::Fp16 => f16::from_le_bytes(element::array(bytes)).to_f32(),
                Datatype::Bf16 => bf16::from_le_bytes(element::array(bytes)).to_f32(),
                other => element::to_json(other, bytes).as_f64().unwrap_or(f64::NAN) as f32,
            })
            .collect();
        let rows = self.rows();
        let width = numbers.len().checked_div(rows).unwrap_or(0);
        match width {
            0 => Some(vec![Vec::new(); rows]),
            width => Some(numbers.chunks(width).map(<[f32]>::to_vec).collect()),
        }
    }

    /// One tensor of all rows. They have to be of one datatype and, but for the first dimension, of
    /// one shape.
    pub fn concat(parts: &[Tensor]) -> Result<Tensor, String> {
        let Some((first, rest)) = parts.split_first() else {
            return Err("no tensors to join".to_owned());
        };
        let mut joined = first.clone();
        if joined.shape.is_empty() {
            joined.shape = vec![1];
        }
        for part in rest {
            let like = part.datatype == joined.datatype
                && part.shape.get(1..).unwrap_or_default() == &joined.shape[1..];
            if !like {
                return Err(format!(
                    "{} of {:?} and {} of {:?} are not rows of one tensor",
                    joined.datatype, joined.shape, part.datatype, part.shape
                ));
            }
            match (&mut joined.elements, &part.elements) {
                (Elements::Fixed(all), Elements::Fixed(more)) => all.extend_from_slice(more),
                (Elements::Bytes(all), Elements::Bytes(more)) => all.extend_from_slice(more),
                _ => return Err("the elements are of two kinds".to_owned()),
            }
            joined.shape[0] += part.rows();
        }
        Ok(joined)
    }

    /// Its rows, each a tensor without the first dimension.
    ///
    /// # Errors
    /// The first dimension is not `rows`.
    pub fn split(&self, rows: usize) -> Result<Vec<Tensor>, String> {
        if self.shape.first() != Some(&rows) {
            return Err(format!(
                "output {:?} has the shape {:?} for {rows} items: its first dimension must be theirs",
                self.name, self.shape
            ));
        }
        let shape = self.shape[1..].to_vec();
        let each = self.count().checked_div(rows).unwrap_or(0);
        let row = |index: usize| {
            let elements = match (&self.elements, self.datatype.size()) {
                (Elements::Fixed(bytes), size) => {
                    let width = each * size.unwrap_or(1);
                    Elements::Fixed(bytes[index * width..(index + 1) * width].to_vec())
                }
                (Elements::Bytes(all), _) => {
                    Elements::Bytes(all[index * each..(index + 1) * each].to_vec())
                }
            };
            Tensor {
                name: self.name.clone(),
                datatype: self.datatype,
                shape: shape.clone(),
                elements,
            }
        };
        Ok((0..rows).map(row).collect())
    }
}

fn nested(shape: &[usize], flat: &mut impl Iterator<Item = Value>) -> Value {
    match shape.split_first() {
        None => flat.next().unwrap_or(Value::Null),
        Some((length, rest)) => (0..*length).map(|_| nested(rest, flat)).collect(),
    }
}

fn read_nested(
    value: &Value,
    datatype: Datatype,
    elements: &mut Elements,
    shape: &mut Vec<usize>,
    path: &mut Vec<usize>,
) -> Result<(), String> {
    let place = |path: &[usize]| -> String { path.iter().map(|i| format!("[{i}]")).collect() };
    let depth = path.len();
    let Value::Array(values) = value else {
        // All leaves are as deep as the first.
        if depth != shape.len() {
            return Err(format!("{}: expected an array", place(path)));
        }
        let pushed = match elements {
            Elements::Fixed(bytes) => element::push(bytes, datatype, value),
            Elements::Bytes(all) => element::bytes(value).map(|one| all.push(one)),
        };
        return pushed.map_err(|cause| match path.is_empty() {
            true => cause,
            false => format!("{}: {cause}", place(path)),
        });
    };
    match shape.get(depth) {
        // Only on the way to the first leaf.
        None if path.iter().all(|index| *index == 0) => shape.push(values.len()),
        None => return Err(format!("{}: expected no array", place(path))),
        Some(length) if *length == values.len() => {}
        Some(length) => {
            return Err(format!(
                "{}: {} elements where its neighbours have {length}",
                place(path),
                values.len()
            ));
        }
    }
    for (index, value) in values.iter().enumerate() {
        path.push(index);
        read_nested(value, datatype, elements, shape, path)?;
        path.pop();
    }
    Ok(())
}

/// What is said of a tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMetadata {
    pub name: String,
    pub datatype: String,
    /// -1 where a dimension may have any length.
    pub shape: Vec<i64>,
}

impl TensorMetadata {
    /// Whether its first dimension counts items.
    pub fn is_batched(&self) -> bool {
        self.shape.first() == Some(&-1)
    }
}

impl From<&Tensor> for Value {
    /// As the protocol's JSON has it.
    fn from(tensor: &Tensor) -> Value {
        json!({
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
            "data": tensor.to_flat_json(),
        })
    }
}

#[cfg(test)]
mod tests;
