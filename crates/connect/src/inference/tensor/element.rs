//! One element of a tensor.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::{bf16, f16};
use serde_json::{Value, json};

use super::Datatype;

/// Appends the bytes of a JSON number or truth value.
pub(super) fn push(out: &mut Vec<u8>, datatype: Datatype, value: &Value) -> Result<(), String> {
    fn whole<T: TryFrom<i128>>(value: &Value, datatype: Datatype) -> Result<T, String> {
        let number = value
            .as_i64()
            .map(i128::from)
            .or_else(|| value.as_u64().map(i128::from))
            // 3.0 is a whole number that someone's JSON library wrote.
            .or_else(|| {
                let number = value.as_f64().filter(|n| n.fract() == 0.0)?;
                Some(number as i128)
            });
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("expected {datatype}, found {}", shown(value)))
    }
    let real = |value: &Value| {
        let found = value.as_f64();
        found.ok_or_else(|| format!("expected {datatype}, found {}", shown(value)))
    };
    match datatype {
        Datatype::Bool => match value {
            Value::Bool(one) => out.push(u8::from(*one)),
            other => return Err(format!("expected BOOL, found {}", shown(other))),
        },
        Datatype::Uint8 => out.extend(whole::<u8>(value, datatype)?.to_le_bytes()),
        Datatype::Uint16 => out.extend(whole::<u16>(value, datatype)?.to_le_bytes()),
        Datatype::Uint32 => out.extend(whole::<u32>(value, datatype)?.to_le_bytes()),
        Datatype::Uint64 => out.extend(whole::<u64>(value, datatype)?.to_le_bytes()),
        Datatype::Int8 => out.extend(whole::<i8>(value, datatype)?.to_le_bytes()),
        Datatype::Int16 => out.extend(whole::<i16>(value, datatype)?.to_le_bytes()),
        Datatype::Int32 => out.extend(whole::<i32>(value, datatype)?.to_le_bytes()),
        Datatype::Int64 => out.extend(whole::<i64>(value, datatype)?.to_le_bytes()),
        Datatype::Fp16 => out.extend(f16::from_f64(real(value)?).to_le_bytes()),
        Datatype::Bf16 => out.extend(bf16::from_f64(real(value)?).to_le_bytes()),
        Datatype::Fp32 => out.extend((real(value)? as f32).to_le_bytes()),
        Datatype::Fp64 => out.extend(real(value)?.to_le_bytes()),
        Datatype::Bytes => out.extend(bytes(value)?),
    }
    Ok(())
}

/// An element of so many bytes as its datatype has, as JSON.
pub(super) fn to_json(datatype: Datatype, bytes: &[u8]) -> Value {
    // The shortest number that is this one, rather than all its digits in double precision.
    let short = |number: f32| {
        let text = number.to_string();
        text.parse::<f64>().map_or(Value::Null, Value::from)
    };
    match datatype {
        Datatype::Bool => json!(bytes[0] != 0),
        Datatype::Uint8 => json!(bytes[0]),
        Datatype::Uint16 => json!(u16::from_le_bytes(array(bytes))),
        Datatype::Uint32 => json!(u32::from_le_bytes(array(bytes))),
        Datatype::Uint64 => json!(u64::from_le_bytes(array(bytes))),
        Datatype::Int8 => json!(i8::from_le_bytes(array(bytes))),
        Datatype::Int16 => json!(i16::from_le_bytes(array(bytes))),
        Datatype::Int32 => json!(i32::from_le_bytes(array(bytes))),
        Datatype::Int64 => json!(i64::from_le_bytes(array(bytes))),
        Datatype::Fp16 => short(f16::from_le_bytes(array(bytes)).to_f32()),
        Datatype::Bf16 => short(bf16::from_le_bytes(array(bytes)).to_f32()),
        Datatype::Fp32 => short(f32::from_le_bytes(array(bytes))),
        Datatype::Fp64 => json!(f64::from_le_bytes(array(bytes))),
        Datatype::Bytes => text(bytes),
    }
}

/// Bytes as JSON: a text, or `{"base64": …}` where they are none.
pub(super) fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// The bytes of an element of `BYTES`.
pub(super) fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Object(object) if object.len() == 1 => {
            let text = object.get("base64").and_then(Value::as_str);
            let decoded = text.map(|text| STANDARD.decode(text));
            match decoded {
                Some(Ok(bytes)) => Ok(bytes),
                Some(Err(error)) => Err(format!("base64: {error}")),
                None => Err(format!("expected BYTES, found {}", shown(value))),
            }
        }
        other => Err(format!("expected BYTES, found {}", shown(other))),
    }
}

/// Elements that have their length before them.
pub(super) fn length_prefixed(raw: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut elements = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return Err(format!("{} bytes are left over", rest.len()));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((element, after)) = after.split_at_checked(length) else {
            return Err(format!(
                "an element of {length} bytes is said to be in {} bytes",
                after.len()
            ));
        };
        elements.push(element.to_vec());
        rest = after;
    }
    Ok(elements)
}

/// The caller has cut them to the element's size.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
