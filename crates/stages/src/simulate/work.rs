//! The stage `simulate.work`.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tidemill_pipeline::stage::{Kind, StageType, Type};

use crate::params::Span;
use crate::{Context, Error, Stage, params};

const NAME: &str = "simulate.work";
/// Computing looks at whether it was cancelled so often.
const LOOK: Duration = Duration::from_millis(5);

/// `simulate.work`: waits, computes, and gives its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// How long to wait, as for a disk or a server.
    wait: Option<Span>,
    /// How long to keep a core busy.
    compute: Option<Span>,
}

#[async_trait]
impl Stage for Work {
    fn describe(&self) -> StageType {
        StageType {
            input: Type::Any,
            output: Type::Any,
            with: params::schema::<With>(),
            ..StageType::new(
                NAME,
                Kind::Call,
                "Waits or keeps a core busy, and gives its input.",
            )
        }
    }

    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let with: With = params::parse(NAME, with)?;
        if let Some(wait) = with.wait {
            tokio::select! {
                () = tokio::time::sleep(wait.0) => {}
                () = cx.cancelled.cancelled() => return Err(Error::cancelled()),
            }
        }
        if let Some(compute) = with.compute {
            let end = Instant::now() + compute.0;
            while Instant::now() < end {
                let slice = (Instant::now() + LOOK).min(end);
                while Instant::now() < slice {
                    std::hint::spin_loop();
                }
                if cx.cancelled.is_cancelled() {
                    return Err(Error::cancelled());
                }
            }
        }
        Ok(input)
    }
}
