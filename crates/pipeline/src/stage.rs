//! What is known of a stage type without running it: enough to check a pipeline.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Stage types by name, such as `text.split`.
pub type Catalog = BTreeMap<String, StageType>;

/// A kind of stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageType {
    /// As `uses:` names it; the activity type too.
    pub name: String,
    /// One sentence.
    pub summary: String,
    pub kind: Kind,
    /// What it takes from the stage before it; `Any` when it takes nothing.
    pub input: Type,
    pub output: Type,
    /// The resource class it runs on unless the pipeline says otherwise: a task queue.
    pub resource: String,
    /// JSON Schema of `with`.
    pub with: Value,
    /// Whether equal input gives equal output, so that results may be cached.
    pub pure: bool,
    /// Its items can be put into one call with those of other runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batched: Option<Batched>,
}

/// A stage whose worker batches items across runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batched {
    /// The parameter that names the model, when there is one: its tasks prefer workers that have
    /// that model loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl StageType {
    /// A stage type that takes and gives anything, has no parameters, runs on `cpu` and is not
    /// cached. What differs is said around it: `StageType { pure: true, ..StageType::new(…) }`.
    pub fn new(name: &str, kind: Kind, summary: &str) -> Self {
        Self {
            name: name.to_owned(),
            summary: summary.to_owned(),
            kind,
            input: Type::Any,
            output: Type::Any,
            resource: "cpu".to_owned(),
            with: serde_json::json!({ "type": "object", "additionalProperties": false }),
            pure: false,
            batched: None,
        }
    }
}

/// The stage type that stands for any activity of a Python worker; a catalog need not have it. Its
/// parameter `function` becomes the activity type, and is not among the task's parameters.
pub const PYTHON_CALL: &str = "python.call";

/// What is known of [`PYTHON_CALL`].
pub fn python_call() -> StageType {
    StageType {
        name: PYTHON_CALL.to_owned(),
        summary: "Calls a function that a Python worker serves.".to_owned(),
        kind: Kind::Call,
        input: Type::Any,
        output: Type::Any,
        resource: "python".to_owned(),
        with: serde_json::json!({
            "type": "object",
            "properties": {
                "function": {
                    "type": "string",
                    "description": "Name of the function: the activity type.",
                    "pattern": "^[A-Za-z_][A-Za-z0-9_.:-]*$",
                },
            },
            "required": ["function"],
        }),
        // A function that may be cached says so where it is written; its worker refuses others.
        pure: true,
        batched: None,
    }
}

/// How a stage meets its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One call: JSON in, JSON out. A collection is passed to it whole, by reference.
    Call,
    /// Makes a collection.
    Source,
    /// Items in, items out. Applied to a collection, it is a step of a fan-out: it gets one chunk
    /// at a time, and consecutive such stages pass chunks on without waiting for each other.
    Items,
}

/// The type of a value between stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    Any,
    Boolean,
    Integer,
    Number,
    String,
    Object,
    List(Box<Type>),
    /// A record that stages agree on: `document`, `chunk`, `vector`, `match`, `text`.
    Record(String),
    Collection(Box<Type>),
}

impl Type {
    pub fn record(name: &str) -> Self {
        Type::Record(name.to_owned())
    }

    pub fn collection(item: Type) -> Self {
        Type::Collection(Box::new(item))
    }

    /// Whether a value of type `other` can be used where one of this type is wanted.
    pub fn accepts(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Any, _) | (_, Type::Any) => true,
            (Type::Number, Type::Integer) => true,
            (Type::Object, Type::Record(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Collection(a), Type::Collection(b)) => {
                a.accepts(b)
            }
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Any => f.write_str("any"),
            Type::Boolean => f.write_str("boolean"),
            Type::Integer => f.write_str("integer"),
            Type::Number => f.write_str("number"),
            Type::String => f.write_str("string"),
            Type::Object => f.write_str("object"),
            Type::List(item) => write!(f, "list of {item}"),
            Type::Record(name) => f.write_str(name),
            Type::Collection(item) => write!(f, "collection of {item}"),
        }
    }
}
