//! Items as rows of tensors, and back.

use serde_json::{Map, Value};
use tidemill_connect::inference::oip::ModelMetadata;
use tidemill_connect::inference::tensor::{Datatype, Tensor, TensorMetadata};

use super::{Input, With};

/// What the model is given for one item, or for several of one shape: for each input the items'
/// tensors.
pub(super) struct Row(Vec<Vec<Tensor>>);

impl Row {
    /// The tensors of one item. Where items are rows, each begins with a dimension of length 1.
    pub(super) fn of(
        item: &Value,
        with: &With,
        metadata: &ModelMetadata,
        is_batched: bool,
    ) -> Result<Self, String> {
        let inputs = with.inputs.iter().map(|(name, input)| {
            let known = metadata.input(name);
            let tensor = tensor(item, name, input, known, is_batched);
            let tensor = tensor.map_err(|cause| format!("input {name:?}: {cause}"))?;
            Ok(vec![tensor])
        });
        Ok(Self(inputs.collect::<Result<_, String>>()?))
    }

    /// Whether the other's tensors can be further rows of these.
    pub(super) fn is_like(&self, other: &Row) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs.into_iter().all(|(one, other)| {
            let of = |tensors: &[Tensor]| {
                let first = tensors.first();
                first.map(|one| (one.datatype(), one.shape().to_vec()))
            };
            of(one) == of(other)
        })
    }

    pub(super) fn join(&mut self, other: Row) {
        for (all, more) in self.0.iter_mut().zip(other.0) {
            all.extend(more);
        }
    }

    /// One tensor for each input.
    pub(super) fn tensors(&self) -> Result<Vec<Tensor>, String> {
        let joined = |tensors: &Vec<Tensor>| match tensors.as_slice() {
            [one] => Ok(one.clone()),
            many => Tensor::concat(many),
        };
        self.0.iter().map(joined).collect()
    }
}

fn tensor(
    item: &Value,
    name: &str,
    input: &Input,
    known: Option<&TensorMetadata>,
    is_batched: bool,
) -> Result<Tensor, String> {
    let from = input.from();
    let value = match from {
        "." => Some(item),
        pointer if pointer.starts_with('/') => item.pointer(pointer),
        field => item.get(field),
    };
    let value = value.ok_or_else(|| format!("the item has no {from:?}"))?;
    let (datatype, shape) = match input {
        Input::From(_) => (None, None),
        Input::Typed(typed) => (typed.datatype, typed.shape.as_deref()),
    };
    let datatype = match (datatype, known) {
        (Some(datatype), _) => datatype,
        (None, Some(known)) => known.datatype.parse()?,
        (None, None) => Datatype::of(value),
    };
    let mut tensor = Tensor::from_json(name, datatype, None, value)?;
    let shape = match (shape, known) {
        (Some(shape), _) => shape.to_vec(),
        (None, Some(known)) => fitted(tensor.shape(), known, is_batched)?,
        (None, None) => tensor.shape().to_vec(),
    };
    match is_batched {
        true => tensor.reshape(&[&[1], shape.as_slice()].concat())?,
        false => tensor.reshape(&shape)?,
    }
    Ok(tensor)
}

/// The shape of one item's tensor as the model wants it. A number is good for `[1]`, and dimensions of
/// length 1 at the front may be left out or be too many.
fn fitted(found: &[usize], known: &TensorMetadata, is_batched: bool) -> Result<Vec<usize>, String> {
    let wanted = match is_batched {
        true => known.shape.get(1..).unwrap_or_default(),
        false => &known.shape,
    };
    let mut shape = found.to_vec();
    while shape.len() > wanted.len() && shape.first() == Some(&1) {
        shape.remove(0);
    }
    while shape.len() < wanted.len() {
        shape.insert(0, 1);
    }
    let fits = shape.len() == wanted.len()
        && shape
            .iter()
            .zip(wanted)
            .all(|(length, wanted)| *wanted < 0 || usize::try_from(*wanted) == Ok(*length));
    match fits {
        true => Ok(shape),
        false => Err(format!(
            "the item's is of the shape {found:?}, the model takes {wanted:?} (-1 is any length)"
        )),
    }
}

/// The fields that each of so many items gets; of a request for one item alone where `rows` is absent.
pub(super) fn joined(
    outputs: Vec<Tensor>,
    with: &With,
    rows: Option<usize>,
) -> Result<Vec<Map<String, Value>>, String> {
    let mut fields = vec![Map::new(); rows.unwrap_or(1)];
    for name in with.outputs.keys() {
        if !outputs.iter().any(|output| output.name == *name) {
            let gave: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
            return Err(format!(
                "the model gave no output {name:?} but {}",
                gave.join(", ")
            ));
        }
    }
    for output in outputs {
        let field = match with.outputs.get(&output.name) {
            Some(field) => field.clone(),
            None if with.outputs.is_empty() => output.name.clone(),
            None => continue,
        };
        match rows {
            None => {
                fields[0].insert(field, output.to_json());
            }
            Some(rows) => {
                for (fields, row) in fields.iter_mut().zip(output.split(rows)?) {
                    fields.insert(field.clone(), row.to_json());
                }
            }
        }
    }
    Ok(fields)
}
