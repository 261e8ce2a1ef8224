//! Following a run to its end: live lines on a terminal, changes elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde_json::{Value, json};
use tidemill_pipeline::run::{RunState, Status};
use tidemill_runtime::client::{Ended, Pipelines};

use super::view::View;
use super::{Target, now_ms};
use crate::exit::Failure;
use crate::output;

/// Says which run was started, and follows it unless that is not wanted.
pub(super) async fn started(
    target: &Target,
    pipelines: &Pipelines,
    run: &str,
    detach: bool,
) -> Result<(), Failure> {
    match (detach, target.json) {
        (true, true) => output::line(json!({ "run": run })),
        (true, false) => output::line(run),
        (false, true) => {}
        (false, false) => eprintln!("run {run}"),
    }
    if detach {
        return Ok(());
    }
    follow(target, pipelines, run).await
}

/// Shows the run until it ends, then its outputs. Ctrl-C ends the showing, not the run.
async fn follow(target: &Target, pipelines: &Pipelines, run: &str) -> Result<(), Failure> {
    let mut screen = Screen::new(run);
    let ended = tokio::select! {
        ended = pipelines.follow(run, |state| screen.show(state)) => ended?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\nThe run goes on. Look again: tidemill show {run}; end it: tidemill cancel {run}");
            return Ok(());
        }
    };
    end(target, run, ended)
}

/// Prints how a run ended.
pub(super) fn end(target: &Target, run: &str, ended: Ended) -> Result<(), Failure> {
    let (status, outputs, error) = match &ended {
        Ended::Done(result) => ("done", result.outputs.clone(), None),
        Ended::Failed { error, .. } => ("failed", Value::Null, Some(error.clone())),
        Ended::Canceled { .. } => (
            "cancelled",
            Value::Null,
            Some("it was cancelled".to_owned()),
        ),
        Ended::Terminated => (
            "terminated",
            Value::Null,
            Some("it was terminated".to_owned()),
        ),
        Ended::TimedOut => ("timed out", Value::Null, Some("it timed out".to_owned())),
    };
    if target.json {
        output::line(json!({
            "run": run, "status": status, "outputs": outputs, "error": error,
            "state": ended.state(),
        }));
    } else if let Ended::Done(_) = ended {
        output::line(format_args!("{outputs:#}"));
    }
    match error {
        None => Ok(()),
        Some(error) => Err(Failure::RunFailed(format!(
            "run {run}: {error}\nLook at it: tidemill show {run}. Run what failed again: tidemill \
             retry {run}"
        ))),
    }
}

/// Where progress is shown: the standard error stream.
struct Screen {
    run: String,
    view: View,
    terminal: bool,
    /// Lines that the next picture replaces.
    drawn: usize,
    said: BTreeMap<String, Status>,
}

impl Screen {
    fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            view: View::default(),
            terminal: std::io::stderr().is_terminal(),
            drawn: 0,
            said: BTreeMap::new(),
        }
    }

    fn show(&mut self, state: &RunState) {
        let lines = self.view.lines(&self.run, state, now_ms());
        if self.terminal {
            let mut text = String::new();
            if self.drawn > 0 {
                text += &format!("\x1b[{}A\x1b[J", self.drawn);
            }
            // A line that wraps would be counted as one: cut it instead.
            for line in &lines {
                text += "\x1b[?7l";
                text += line;
                text += "\x1b[?7h\n";
            }
            self.drawn = lines.len();
            let _ = std::io::stderr().write_all(text.as_bytes());
            return;
        }
        // In a log, a line when something begins or ends.
        let mut at = 0;
        for node in &state.nodes {
            let line = &lines[at];
            at += 1 + node.steps.len();
            let changed = self.said.insert(node.id.clone(), node.status) != Some(node.status);
            if changed && node.status != Status::Waiting {
                eprintln!("{line}");
            }
        }
    }
}
