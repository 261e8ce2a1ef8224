//! The stage `simulate.infer`.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_device::batch::{self, Kind as ErrorKind};
use tidemill_device::model;
use tidemill_device::simulated::{Fault, Simulated};
use tidemill_pipeline::size;
use tidemill_pipeline::stage::{self, Kind, StageType, Type};

use crate::batched::{Batched, Loaded, Model, Place, Plan, limits};
use crate::params::Span;
use crate::{Context, Error, Stage, params};

const NAME: &str = "simulate.infer";

/// `simulate.infer`: occupies a device as a model would, in batches across runs.
///
/// On a simulated device it takes what that was told to take; on any other it waits. An item is
/// given back with what became of it: `batch` (items of its call), `device`, and when the call began
/// and ended in microseconds since 1970. An object with `poison: true` breaks its call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Infer;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// Name of the model.
    model: String,
    /// Device memory that the model takes, such as `2GiB`.
    model_memory: Option<String>,
    /// How long a call takes beyond what the device takes for it.
    latency: Option<Span>,
    /// How long each item of a call takes.
    per_item: Option<Span>,
    /// Calls of more items than this run out of memory.
    most_items: Option<usize>,
    /// So many calls run out of memory for a reason that passes, counted by the model's name.
    short_calls: Option<u32>,
}

impl With {
    fn bytes(&self) -> Result<u64, Error> {
        let size = self.model_memory.as_deref().map(size::parse).transpose();
        let size = size.map_err(|why| params::wrong(NAME, "model_memory", why))?;
        Ok(size.unwrap_or(0))
    }
}

/// By model, calls that have run short of memory.
static SHORT: LazyLock<Mutex<BTreeMap<String, u32>>> = LazyLock::new(Mutex::default);

#[async_trait]
impl Stage for Infer {
    fn describe(&self) -> StageType {
        StageType {
            input: Type::Any,
            output: Type::Any,
            resource: "accelerator".to_owned(),
            with: params::schema::<With>(),
            batched: Some(stage::Batched {
                model: Some("model".to_owned()),
            }),
            ..StageType::new(
                NAME,
                Kind::Call,
                "Occupies a device as a model would, in batches across runs.",
            )
        }
    }

    fn batched(&self) -> Option<&dyn Batched> {
        Some(self)
    }

    async fn call(&self, _: Value, _: Value, _: &Context) -> Result<Value, Error> {
        Err(Error::failed(format!("{NAME} is run in batches")))
    }
}

#[async_trait]
impl Batched for Infer {
    async fn plan(&self, with: &Value, _cx: &Context) -> Result<Plan, Error> {
        let parsed: With = params::parse(NAME, with.clone())?;
        let bytes = parsed.bytes()?;
        Ok(Plan {
            key: format!("{NAME} {with}"),
            model: Some(Model {
                key: model::Key {
                    name: parsed.model,
                    revision: "simulated".to_owned(),
                },
                bytes,
            }),
            device: true,
            limits: limits(),
            memory: (0, 0),
        })
    }

    async fn load(&self, with: &Value, on: &Place) -> Result<Loaded, batch::Error> {
        let with = read(with)?;
        let bytes = with.bytes().map_err(invalid)?;
        let Some(device) = simulated(on) else {
            return Ok(Loaded {
                model: Arc::new(()),
                bytes: Some(bytes),
            });
        };
        let model = device.load(bytes).await.map_err(fault)?;
        Ok(Loaded {
            model: Arc::new(model),
            bytes: Some(bytes),
        })
    }

    async fn run(
        &self,
        items: Vec<Value>,
        with: &Value,
        on: &Place,
    ) -> Result<Vec<Result<Value, batch::Error>>, batch::Error> {
        let with = read(with)?;
        let count = items.len();
        let start = now_us();
        if let Some(calls) = with.short_calls {
            let mut short = SHORT.lock();
            let had = short.entry(with.model.clone()).or_default();
            if *had < calls {
                *had += 1;
                return Err(error(
                    ErrorKind::OutOfMemory,
                    format!("memory is short for model {} for the moment", with.model),
                ));
            }
        }
        if let Some(most) = with.most_items.filter(|most| count > *most) {
            return Err(error(
                ErrorKind::BatchTooLarge,
                format!("a call of {count} items does not fit, {most} do"),
            ));
        }
        if items.iter().any(|item| item["poison"] == true) {
            return Err(error(
                ErrorKind::Failed,
                "a poisoned item broke the call".to_owned(),
            ));
        }
        if let Some(device) = simulated(on) {
            device.execute(count).await.map_err(fault)?;
        }
        let latency = with.latency.map_or_else(Default::default, |span| span.0);
        let per_item = with.per_item.map_or_else(Default::default, |span| span.0);
        let count_u32 = u32::try_from(count).unwrap_or(u32::MAX);
        let time = latency + per_item * count_u32;
        if !time.is_zero() {
            // A thread's sleep is exact to some microseconds, a timer's to milliseconds.
            let slept = tokio::task::spawn_blocking(move || std::thread::sleep(time)).await;
            slept.map_err(|e| error(ErrorKind::Failed, e.to_string()))?;
        }
        let device = on.devices.first().map(|device| device.name().to_owned());
        let about = json!({
            "batch": count,
            "device": device,
            "model": with.model,
            "started_us": start,
            "ended_us": now_us(),
        });
        Ok(items
            .into_iter()
            .map(|item| Ok(told(item, &about)))
            .collect())
    }
}

/// The item with what became of it.
fn told(item: Value, about: &Value) -> Value {
    let mut told = about.clone();
    match item {
        Value::Object(fields) => {
            for (name, value) in fields {
                told[name] = value;
            }
        }
        other => told["input"] = other,
    }
    told
}

fn simulated(on: &Place) -> Option<&Simulated> {
    on.devices.first()?.as_any().downcast_ref()
}

fn read(with: &Value) -> Result<With, batch::Error> {
    params::parse(NAME, with.clone()).map_err(invalid)
}

fn invalid(wrong: Error) -> batch::Error {
    error(ErrorKind::Invalid, wrong.message)
}

fn fault(fault: Fault) -> batch::Error {
    let (kind, message) = match fault {
        Fault::OutOfMemory(message) => (ErrorKind::OutOfMemory, message),
        Fault::BatchTooLarge(message) => (ErrorKind::BatchTooLarge, message),
        Fault::ModelTooLarge(message) => (ErrorKind::ModelTooLarge, message),
        Fault::Failed(message) => (ErrorKind::Failed, message),
    };
    error(kind, message)
}

fn error(kind: ErrorKind, message: String) -> batch::Error {
    batch::Error {
        kind,
        message,
        retry_after: None,
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}
