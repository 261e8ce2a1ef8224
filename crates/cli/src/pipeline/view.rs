//! How a run looks to people: a line for each node, its fan-out's steps below it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;
use tidemill_pipeline::run::{NodeState, RunState, Status, StepState};

const BAR: usize = 20;

/// Turns states into lines; remembers what it saw, for rates.
#[derive(Default)]
pub(super) struct View {
    /// When a step was first seen, and the items that it had then.
    first_seen: BTreeMap<String, (Instant, u64, u32)>,
}

impl View {
    /// The lines of a state at `now`, milliseconds since 1970.
    pub(super) fn lines(&mut self, run: &str, state: &RunState, now: i64) -> Vec<String> {
        let width = |cell: fn(&NodeState) -> usize, least| {
            state.nodes.iter().map(cell).max().unwrap_or(0).max(least)
        };
        let ids = width(|n| n.id.len() + 2 * usize::from(n.steps.len() > 1), 4);
        let uses = width(|n| n.uses.len(), 4);
        let mut lines = Vec::new();
        for node in &state.nodes {
            let what = what(node, run);
            let time = time(node, now);
            lines.push(
                format!(
                    "{} {:ids$}  {:uses$}  {time:>7}  {what}",
                    sign(node.status),
                    node.id,
                    node.uses
                )
                .trim_end()
                .to_owned(),
            );
            for step in &node.steps {
                let rate = self.rate(&node.id, step, node.status == Status::Running);
                lines.push(format!("    {:ids$}{}", step.id, progress(step, rate)));
            }
        }
        lines
    }

    /// Items per second and seconds left, while the step is under way.
    fn rate(&mut self, node: &str, step: &StepState, running: bool) -> Option<(f64, f64)> {
        let key = format!("{node}/{}", step.id);
        let now = Instant::now();
        let (since, items, chunks) =
            *self
                .first_seen
                .entry(key)
                .or_insert((now, step.items, step.chunks_done));
        let seconds = now.duration_since(since).as_secs_f64();
        let done = f64::from(step.chunks_done.saturating_sub(chunks));
        if !running || seconds < 1.0 || done < 1.0 {
            return None;
        }
        let left = f64::from(step.chunks.saturating_sub(step.chunks_done));
        Some((
            step.items.saturating_sub(items) as f64 / seconds,
            left * seconds / done,
        ))
    }
}

fn sign(status: Status) -> char {
    match status {
        Status::Waiting => '·',
        Status::Running => '▶',
        Status::Asking => '?',
        Status::Done => '✓',
        Status::Kept => '=',
        Status::Skipped => '-',
        Status::Failed => '✗',
        Status::FailedAllowed => '!',
        Status::Canceled => '×',
    }
}

fn what(node: &NodeState, run: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    match node.status {
        Status::Asking => parts.push(format!(
            "tidemill approve {run} {} --choice {}",
            node.id,
            node.choices.join("|")
        )),
        Status::Kept => parts.push("kept".to_owned()),
        Status::Skipped => parts.push("skipped".to_owned()),
        Status::Canceled => parts.push("cancelled".to_owned()),
        _ => {}
    }
    if let (Status::Running | Status::Failed, Some(child)) = (node.status, &node.child) {
        parts.push(format!("look there: tidemill show {child}"));
    }
    parts.extend(node.message.clone());
    parts.extend(node.error.clone());
    if node.status == Status::Done {
        parts.extend(summary(&node.output));
    }
    parts.join("  ").replace('\n', " ")
}

/// What came out, in a few words.
fn summary(output: &Value) -> Option<String> {
    if let (Some(count), Some(item)) = (
        output.get("count").and_then(Value::as_u64),
        output.get("item").and_then(Value::as_str),
    ) {
        // Types that say nothing about what it is.
        let item = match item {
            "object" | "any" => "item",
            item => item,
        };
        let plural = if count == 1 { "" } else { "s" };
        return Some(format!("{} {item}{plural}", thousands(count)));
    }
    if output.get("$artifact").is_some() {
        let bytes = output.get("bytes").and_then(Value::as_u64)?;
        return Some(format!("{} bytes, kept as an artifact", thousands(bytes)));
    }
    match output {
        Value::Null => None,
        Value::Object(fields) => {
            let shown = fields
                .iter()
                .filter(|(_, value)| value.is_number() || value.is_boolean() || short(value))
                .map(|(name, value)| format!("{name} {value}"));
            Some(shown.take(4).collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
        }
        other => Some(other.to_string().chars().take(60).collect()),
    }
}

fn short(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() <= 40)
}

fn progress(step: &StepState, rate: Option<(f64, f64)>) -> String {
    let share = match step.chunks {
        0 => 0.0,
        chunks => f64::from(step.chunks_done) / f64::from(chunks),
    };
    let full = (share * BAR as f64).floor() as usize;
    let mut text = format!(
        "  {}{}  {}/{} chunks  {} items",
        "█".repeat(full),
        "░".repeat(BAR - full),
        step.chunks_done,
        step.chunks,
        thousands(step.items)
    );
    if step.failed > 0 {
        text += &format!("  {} failed", thousands(step.failed));
    }
    if let Some((per_second, seconds)) = rate {
        text += &format!("  {per_second:.0}/s  ETA {}", span(seconds as i64 * 1000));
    }
    text
}

fn time(node: &NodeState, now: i64) -> String {
    match (node.started_ms, node.ended_ms) {
        (0, _) => String::new(),
        (started, 0) => span(now - started),
        (started, ended) => span(ended - started),
    }
}

/// A span of milliseconds in at most seven characters.
pub(crate) fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..10 => format!("{:.1}s", ms.max(0) as f64 / 1000.0),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(id: &str, status: Status, fields: Value) -> NodeState {
        let mut node = json!({
            "id": id, "status": status, "started_ms": 1_000, "ended_ms": 0, "uses": "x.y"
        });
        for (name, value) in fields.as_object().unwrap() {
            node[name] = value.clone();
        }
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_run_is_a_line_for_each_node_and_step() {
        let state = RunState {
            nodes: vec![
                node(
                    "load",
                    Status::Done,
                    json!({"ended_ms": 2_500, "output": {"item": "document", "count": 1234}}),
                ),
                node(
                    "store",
                    Status::Running,
                    json!({"steps": [{
                        "id": "split", "uses": "text.split", "chunks_done": 3, "chunks": 4,
                        "items": 30, "failed": 1
                    }]}),
                ),
                node(
                    "ask",
                    Status::Asking,
                    json!({"message": "Publish?", "choices": ["yes", "no"]}),
                ),
                node("last", Status::Waiting, json!({"started_ms": 0})),
            ],
            ..Default::default()
        };
        let lines = View::default().lines("run-1", &state, 62_000);
        assert_eq!(
            lines,
            [
                "✓ load   x.y      1.5s  1,234 documents",
                "▶ store  x.y     1m01s",
                "    split  ███████████████░░░░░  3/4 chunks  30 items  1 failed",
                "? ask    x.y     1m01s  tidemill approve run-1 ask --choice yes|no  Publish?",
                "· last   x.y",
            ]
        );
    }

    #[test]
    fn spans_are_short() {
        for (ms, text) in [
            (-5, "0.0s"),
            (9_900, "9.9s"),
            (59_999, "59s"),
            (61_000, "1m01s"),
            (3_661_000, "1h01m"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }
}
