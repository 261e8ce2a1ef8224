//! Conditions on chunks: `{"field": value}`, `{"field": {"in": [...]}}`, `{"field": {">=": value}}`.
//!
//! Fields are those of the metadata, and `id`, `document` and `uri`. A field with a list meets a
//! condition when one of its elements does; for `!=`, when none is equal. Stores that translate
//! conditions mean the same.

use serde_json::{Map, Value};

use super::Error;

/// Conditions that all have to be met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) field: String,
    pub(super) test: Test,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    In(Vec<Value>),
    Compare(&'static str, Value),
}

const COMPARISONS: [&str; 5] = ["<=", ">=", "<", ">", "!="];

impl Filter {
    /// Reads a filter; null is one that everything meets.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the part that is not understood.
    pub fn from_json(filter: &Value) -> Result<Self, Error> {
        let invalid = |what: String| Err(Error::Invalid(format!("filter: {what}")));
        let fields = match filter {
            Value::Null => return Ok(Self::default()),
            Value::Object(fields) => fields,
            other => return invalid(format!("`{other}` is no object of fields and values")),
        };
        let mut conditions = Vec::new();
        for (field, wanted) in fields {
            if field.is_empty() || field.contains(['"', '\\']) {
                return invalid(format!("`{field}` is no name of a field"));
            }
            let mut add = |test| {
                conditions.push(Condition {
                    field: field.clone(),
                    test,
                });
            };
            match wanted {
                Value::Object(tests) if tests.is_empty() => {
                    return invalid(format!("`{field}` has no condition"));
                }
                Value::Object(tests) => {
                    for (operator, value) in tests {
                        match (operator.as_str(), value) {
                            ("in", Value::Array(values)) if values.iter().all(is_scalar) => {
                                add(Test::In(values.clone()));
                            }
                            ("in", _) => {
                                return invalid(format!(
                                    "`{field}`: `in` needs a list of texts, numbers or booleans"
                                ));
                            }
                            (name, value) => {
                                let Some(known) = COMPARISONS.iter().find(|c| **c == name) else {
                                    return invalid(format!(
                                        "`{field}` has `{name}`; there are in, {}",
                                        COMPARISONS.join(", ")
                                    ));
                                };
                                let ordered = value.is_string() || value.is_number();
                                if ordered || (value.is_boolean() && *known == "!=") {
                                    add(Test::Compare(known, value.clone()));
                                    continue;
                                }
                                return invalid(format!(
                                    "`{field}`: `{operator}` needs a text or a number"
                                ));
                            }
                        }
                    }
                }
                value if is_scalar(value) => add(Test::In(vec![value.clone()])),
                _ => return invalid(format!("`{field}` is compared with a list: use \"in\"")),
            }
        }
        Ok(Self { conditions })
    }

    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether a chunk with these fields meets it. A missing field meets nothing.
    pub(super) fn meets(&self, fields: &Map<String, Value>) -> bool {
        self.conditions.iter().all(|condition| {
            let values = match fields.get(&condition.field) {
                None | Some(Value::Null) => return false,
                Some(Value::Array(values)) => values.as_slice(),
                Some(value) => std::slice::from_ref(value),
            };
            match &condition.test {
                Test::In(wanted) => values.iter().any(|v| wanted.iter().any(|w| same(v, w))),
                Test::Compare("!=", wanted) => !values.iter().any(|v| same(v, wanted)),
                Test::Compare(operator, wanted) => {
                    values.iter().any(|v| compare(v, operator, wanted))
                }
            }
        })
    }
}

fn is_scalar(value: &Value) -> bool {
    value.is_string() || value.is_number() || value.is_boolean()
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn compare(a: &Value, operator: &str, b: &Value) -> bool {
    let order = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => None,
        },
    };
    match (operator, order) {
        ("<", Some(order)) => order.is_lt(),
        ("<=", Some(order)) => order.is_le(),
        (">", Some(order)) => order.is_gt(),
        (">=", Some(order)) => order.is_ge(),
        _ => false,
    }
}
