//! Drawings of a plan: [`text`] for terminals, [`svg`] for all else.
//!
//! Both show the nodes in rows: a node stands in the row below the lowest of those it needs. So
//! what stands in one row can run at the same time.

mod svg;
mod text;

use std::collections::BTreeMap;

use crate::plan::{Node, Plan, Step, Work};

pub use svg::svg;
pub use text::text;

/// A node as it is drawn.
struct Shape<'p> {
    node: &'p Node,
    /// What it does, such as `embed.text`.
    title: String,
    /// The lines within: steps of a fan-out, the condition, and so on.
    lines: Vec<String>,
}

/// The nodes in rows, first those that need nothing.
fn rows<'p>(nodes: &'p [Node]) -> Vec<Vec<Shape<'p>>> {
    let mut row_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows: Vec<Vec<Shape<'p>>> = Vec::new();
    // Nodes come after all that they need.
    for node in nodes {
        let row = node
            .needs
            .iter()
            .filter_map(|need| row_of.get(need.as_str()))
            .map(|row| row + 1)
            .max()
            .unwrap_or(0);
        row_of.insert(&node.id, row);
        if rows.len() <= row {
            rows.resize_with(row + 1, Vec::new);
        }
        rows[row].push(shape(node));
    }
    rows
}

fn shape(node: &Node) -> Shape<'_> {
    let mut lines = Vec::new();
    let title = match &node.work {
        Work::Task(step) => {
            lines.push(format!("on {}", step.resource));
            step.uses.clone()
        }
        Work::FanOut(fan_out) => {
            for step in &fan_out.steps {
                lines.push(step_line(step));
            }
            let size = match fan_out.chunk {
                0 => "parts".to_owned(),
                chunk => format!("chunks of {chunk}"),
            };
            format!("for each item, {size}, {} at a time", fan_out.window)
        }
        Work::Approve(approve) => {
            lines.push(shorten(&approve.message));
            format!("approve: {}", approve.choices.join(" | "))
        }
        Work::Call(call) => {
            lines.push(format!("{} stages", call.plan.nodes.len()));
            format!("call {}", call.plan.name)
        }
        Work::Join(join) => {
            let names: Vec<&str> = join.outputs.keys().map(String::as_str).collect();
            format!("join {}", names.join(", "))
        }
    };
    if let Some(when) = &node.when {
        lines.push(format!("when {}", shorten(when)));
    }
    if node.allow_failure {
        lines.push("may fail".to_owned());
    }
    Shape { node, title, lines }
}

fn step_line(step: &Step) -> String {
    format!("{}: {} on {}", step.id, step.uses, step.resource)
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 48;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// The parts of a plan that are drawn apart, with their headings.
fn areas(plan: &Plan) -> Vec<(&'static str, &[Node])> {
    let mut areas = vec![("", &plan.nodes[..])];
    if !plan.finally.is_empty() {
        areas.push(("finally", &plan.finally[..]));
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{NoFiles, check};

    fn plan() -> Plan {
        let text = "name: graph\nstages:\n\
            - { uses: documents.load, with: { path: docs } }\n\
            - { uses: text.split }\n\
            - { uses: embed.text, window: 4 }\n\
            - { id: ask, approve: 'Publish <{{ load.count }}> documents & more?' }\n\
            - id: route\n  parallel:\n    a: { uses: http.request, with: { url: u }, when: ask.choice == 'approve' }\n    \
            b: { uses: llm.generate, with: { prompt: p }, allow_failure: true }\n\
            finally:\n- { id: tell, uses: http.request, with: { url: u } }\n";
        check(text, "x", &crate::testing::catalog(), &NoFiles).expect("a plan")
    }

    #[test]
    fn a_drawing_for_terminals() {
        insta::assert_snapshot!("text", text(&plan()));
    }

    #[test]
    fn a_drawing_as_svg() {
        let drawing = svg(&plan());
        assert!(drawing.contains("Publish &lt;{{ load.count }}&gt; documents &amp; more?"));
        assert_eq!(drawing.matches("<path ").count(), 6);
        assert_eq!(
            drawing.matches("<svg").count(),
            drawing.matches("</svg>").count()
        );
        insta::assert_snapshot!("svg", drawing);
    }
}
