//! Steering runs: answers to what they ask, and cancellation.

use serde_json::Value;
use tidemill_pipeline::run::{Answer, Status};

use super::{Target, follow};
use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Approve {
    /// The run's id.
    #[arg(value_name = "RUN")]
    run: String,
    /// The stage that asks; may be left out when there is one.
    #[arg(value_name = "STAGE")]
    stage: Option<String>,
    /// The answer.
    #[arg(long, default_value = "approve")]
    choice: String,
    /// Short for --choice reject.
    #[arg(long, conflicts_with = "choice")]
    reject: bool,
    /// The form that goes with the answer, as JSON.
    #[arg(long, value_name = "JSON")]
    form: Option<String>,
    /// Why, for those who look later.
    #[arg(long, default_value = "")]
    comment: String,
    /// Who answers [default: the user of this shell]
    #[arg(long, env = "USER", default_value = "", hide_env = true)]
    by: String,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct Cancel {
    /// The run's id.
    #[arg(value_name = "RUN")]
    run: String,
    #[arg(long, default_value = "cancelled from the command line")]
    reason: String,
    /// Wait until the run has ended.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn approve(arguments: Approve) -> Result<(), Failure> {
    let form = match &arguments.form {
        None => Value::Null,
        Some(text) => serde_json::from_str(text)
            .map_err(|error| Failure::usage(format!("--form {text}: not JSON: {error}")))?,
    };
    let pipelines = arguments.target.connect().await?;
    let node = match arguments.stage {
        Some(stage) => stage,
        None => {
            let state = pipelines.state(&arguments.run).await?;
            let mut asking = state.nodes.iter().filter(|n| n.status == Status::Asking);
            match (asking.next(), asking.next()) {
                (Some(node), None) => node.id.clone(),
                (None, _) => {
                    return Err(Failure::general(format!(
                        "run {} asks nothing at the moment",
                        arguments.run
                    )));
                }
                (Some(a), Some(b)) => {
                    return Err(Failure::usage(format!(
                        "run {} asks more than one thing ({}, {}, ...): name the stage",
                        arguments.run, a.id, b.id
                    )));
                }
            }
        }
    };
    let choice = match arguments.reject {
        true => "reject".to_owned(),
        false => arguments.choice,
    };
    let said = format!("{}: {choice}", node);
    let answer = Answer {
        node,
        choice,
        form,
        by: arguments.by,
        comment: arguments.comment,
    };
    pipelines.answer(&arguments.run, answer).await?;
    output::line(said);
    Ok(())
}

pub(super) async fn cancel(arguments: Cancel) -> Result<(), Failure> {
    let pipelines = arguments.target.connect().await?;
    pipelines.cancel(&arguments.run, &arguments.reason).await?;
    if arguments.wait {
        let ended = pipelines.result(&arguments.run).await?;
        return match ended {
            tidemill_runtime::client::Ended::Canceled { .. } => Ok(()),
            ended => follow::end(&arguments.target, &arguments.run, ended),
        };
    }
    Ok(())
}
