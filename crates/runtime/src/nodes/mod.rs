//! What a node of each kind does when its turn has come.

mod approve;
mod call;
mod fan_out;
mod join;
mod single;

pub(crate) use approve::check as check_answer;
use serde_json::Value;
use tidemill_pipeline::data::Collection;
use tidemill_pipeline::plan::Work;
use tidemill_pipeline::run::FanOutResult;

use crate::carry::Progress;
use crate::context::Context;
use crate::task::Fault;

/// How a node ended, or why it stopped.
pub(crate) enum Outcome {
    Done {
        output: Value,
        /// It was not run: an earlier result was used.
        kept: bool,
        fan_out: Option<FanOutResult>,
    },
    Failed {
        error: String,
        fan_out: Option<FanOutResult>,
    },
    Canceled,
    /// The run continues as new; this is where the node goes on.
    Paused(Paused),
}

pub(crate) enum Paused {
    /// At its beginning.
    Begin,
    FanOut(Box<Progress>),
    /// Still asking, until then at the latest.
    Approve(Option<i64>),
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Canceled => Outcome::Canceled,
            Fault::Paused => Outcome::Paused(Paused::Begin),
            Fault::Failed(failure) => Outcome::failed(failure.message),
        }
    }
}

impl Outcome {
    fn done(output: Value) -> Self {
        Outcome::Done {
            output,
            kept: false,
            fan_out: None,
        }
    }

    pub(crate) fn failed(error: impl Into<String>) -> Self {
        Outcome::Failed {
            error: error.into(),
            fan_out: None,
        }
    }
}

/// What an earlier run left for a node.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) progress: Option<Progress>,
    /// When an approval that asks already times out.
    pub(crate) deadline: Option<i64>,
    /// The approval asks already.
    pub(crate) asks: bool,
    /// Only the items that failed there are to be run.
    pub(crate) failed_items: Option<FanOutResult>,
}

/// Does a node's work.
pub(crate) async fn run(cx: Context, left: Left) -> Outcome {
    let node = cx.node.clone();
    match &node.work {
        Work::Task(step) => single::run(&cx, step).await,
        Work::FanOut(fan_out) => fan_out::run(&cx, fan_out, left).await,
        Work::Approve(approve) => approve::run(&cx, approve, left).await,
        Work::Call(call) => call::run(&cx, call).await,
        Work::Join(join) => join::run(&cx, join).await,
    }
}

/// The collection that a value is, if it is one.
fn as_collection(value: &Value) -> Option<Collection> {
    value.get("$collection")?;
    serde_json::from_value(value.clone()).ok()
}
