//! A plan as text: a box for each node, rows from top to bottom.

use super::{Shape, areas, rows};
use crate::plan::{Plan, Work};

/// Draws a plan with box characters. Where an order is not plain from the rows, the box says what
/// its node needs.
pub fn text(plan: &Plan) -> String {
    let mut drawing = format!("{}\n", plan.name);
    for (heading, nodes) in areas(plan) {
        if !heading.is_empty() {
            drawing.push_str(&format!("\n{heading}\n"));
        }
        let rows = rows(nodes);
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                drawing.push_str(&arrows(row));
            }
            let boxes: Vec<Vec<String>> = row
                .iter()
                .map(|shape| boxed(shape, needs(shape, index, &rows)))
                .collect();
            drawing.push_str(&beside(&boxes));
        }
    }
    drawing
}

/// What a node needs, if that is not just the whole row above.
fn needs(shape: &Shape<'_>, row: usize, rows: &[Vec<Shape<'_>>]) -> Option<String> {
    let above: Vec<&str> = match row {
        0 => Vec::new(),
        _ => rows[row - 1]
            .iter()
            .map(|shape| shape.node.id.as_str())
            .collect(),
    };
    let needs: Vec<&str> = shape.node.needs.iter().map(String::as_str).collect();
    let plain = needs.len() == above.len() && needs.iter().all(|need| above.contains(need));
    (!plain).then(|| format!("after {}", needs.join(", ")))
}

fn boxed(shape: &Shape<'_>, needs: Option<String>) -> Vec<String> {
    let id = &shape.node.id;
    let mut lines = Vec::new();
    match &shape.node.work {
        Work::FanOut(_) => {
            lines.push(shape.title.clone());
            lines.extend(shape.lines.iter().map(|line| format!("  {line}")));
        }
        _ => {
            lines.push(shape.title.clone());
            lines.extend(shape.lines.iter().cloned());
        }
    }
    lines.extend(needs);
    // The corner says what kind of node it is, for those who do not know the words yet.
    let double = matches!(shape.node.work, Work::FanOut(_));
    let (tl, tr, bl, br, h, v) = match double {
        true => ('╔', '╗', '╚', '╝', '═', '║'),
        false => ('┌', '┐', '└', '┘', '─', '│'),
    };
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .chain([id.chars().count() + 1])
        .max()
        .unwrap_or(0);
    let fill = |count: usize, c: char| c.to_string().repeat(count);
    let mut drawn = vec![format!(
        "{tl}{h} {id} {}{tr}",
        fill(width.saturating_sub(id.chars().count() + 1), h)
    )];
    for line in &lines {
        let pad = fill(width - line.chars().count(), ' ');
        drawn.push(format!("{v} {line}{pad} {v}"));
    }
    drawn.push(format!("{bl}{}{br}", fill(width + 2, h)));
    drawn
}

/// Boxes side by side.
fn beside(boxes: &[Vec<String>]) -> String {
    let height = boxes.iter().map(Vec::len).max().unwrap_or(0);
    let mut text = String::new();
    for line in 0..height {
        let mut whole = String::new();
        for lines in boxes {
            let width = lines.first().map_or(0, |line| line.chars().count());
            let part = lines
                .get(line)
                .cloned()
                .unwrap_or_else(|| " ".repeat(width));
            whole.push_str(&part);
            whole.push_str("  ");
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    }
    text
}

fn arrows(row: &[Shape<'_>]) -> String {
    if row.iter().all(|shape| shape.node.needs.is_empty()) {
        return "\n".to_owned();
    }
    "    │\n    ▼\n".to_owned()
}
