//! Steering runs: answers to what they ask, and cancellation.

use serde_json::{Value, json};
use tidemill_pipeline::run::Answer;
use tidemill_runtime::client::Question;

use super::{Target, follow};
use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Approve {
    /// The run's id.
    #[arg(value_name = "RUN")]
    run: String,
    /// The stage that asks, CALL/STAGE in a pipeline that stage CALL calls; may be left out when
    /// one asks.
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
    let Question { run, node } = match &arguments.stage {
        Some(stage) => named(&arguments.run, stage),
        None => the_only(&arguments.run, pipelines.questions(&arguments.run).await?)?,
    };
    let choice = match arguments.reject {
        true => "reject".to_owned(),
        false => arguments.choice,
    };
    let said = match arguments.target.json {
        true => json!({ "run": run, "stage": node, "choice": choice }).to_string(),
        false => format!("{node}: {choice}"),
    };
    let answer = Answer {
        node,
        choice,
        form,
        by: arguments.by,
        comment: arguments.comment,
    };
    pipelines.answer(&run, answer).await?;
    output::line(said);
    Ok(())
}

/// The question of a stage, perhaps in a called pipeline.
fn named(run: &str, stage: &str) -> Question {
    let (run, node) = match stage.rsplit_once('/') {
        Some((calls, node)) => (format!("{run}/{calls}"), node),
        None => (run.to_owned(), stage),
    };
    let node = node.to_owned();
    Question { run, node }
}

fn the_only(run: &str, mut questions: Vec<Question>) -> Result<Question, Failure> {
    match questions.len() {
        0 => Err(Failure::general(format!(
            "run {run} asks nothing at the moment"
        ))),
        1 => Ok(questions.remove(0)),
        _ => {
            let stage = |question: &Question| {
                let path = format!("{}/{}", question.run, question.node);
                path[run.len() + 1..].to_owned()
            };
            let stages: Vec<_> = questions.iter().map(stage).collect();
            Err(Failure::usage(format!(
                "run {run} asks more than one thing: name the stage, one of {}",
                stages.join(", ")
            )))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn question(run: &str, node: &str) -> Question {
        Question {
            run: run.to_owned(),
            node: node.to_owned(),
        }
    }

    #[test]
    fn questions_of_called_pipelines_are_named_by_their_path() {
        assert_eq!(named("r", "ok"), question("r", "ok"));
        assert_eq!(
            named("r", "legal/check/ok"),
            question("r/legal/check", "ok")
        );
        let one = vec![question("r/legal", "ok")];
        assert_eq!(the_only("r", one.clone()).ok(), one.into_iter().next());
        assert!(the_only("r", Vec::new()).is_err());
        let two = vec![question("r/legal", "ok"), question("r", "end")];
        let said = the_only("r", two).unwrap_err().to_string();
        assert!(said.contains("one of legal/ok, end"), "{said}");
    }
}
