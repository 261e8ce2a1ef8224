//! A plan as SVG that needs no fonts, scripts or styles from elsewhere.

use std::collections::BTreeMap;

use super::{Shape, areas, rows};
use crate::plan::{Plan, Work};

const MARGIN: usize = 24;
const GAP_X: usize = 32;
const GAP_Y: usize = 48;
const LINE: usize = 18;
/// Width of a character of the 13-pixel monospaced font.
const CHARACTER: usize = 8;

struct Place {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

/// Draws a plan: nodes as boxes, needs as arrows, fan-outs with their steps, approvals rounded.
pub fn svg(plan: &Plan) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    let mut widest = 0;
    body.push_str(&words(MARGIN, y + 12, "t", &plan.name));
    y += 2 * LINE;
    for (heading, nodes) in areas(plan) {
        if !heading.is_empty() {
            body.push_str(&words(MARGIN, y + 12, "t", heading));
            y += 2 * LINE;
        }
        let rows = rows(nodes);
        let mut places: BTreeMap<&str, Place> = BTreeMap::new();
        for row in &rows {
            let mut x = MARGIN;
            let mut tallest = 0;
            for shape in row {
                let (width, height) = size(shape);
                places.insert(
                    &shape.node.id,
                    Place {
                        x,
                        y,
                        width,
                        height,
                    },
                );
                x += width + GAP_X;
                tallest = tallest.max(height);
            }
            widest = widest.max(x);
            y += tallest + GAP_Y;
        }
        for shape in rows.iter().flatten() {
            let Some(to) = places.get(shape.node.id.as_str()) else {
                continue;
            };
            for need in &shape.node.needs {
                if let Some(from) = places.get(need.as_str()) {
                    body.push_str(&arrow(from, to));
                }
            }
        }
        for shape in rows.iter().flatten() {
            if let Some(place) = places.get(shape.node.id.as_str()) {
                body.push_str(&drawn(shape, place));
            }
        }
    }
    let width = widest.max(MARGIN * 2 + plan.name.chars().count() * CHARACTER);
    format!(
        concat!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" ",
            "width=\"{width}\" height=\"{height}\" role=\"img\">\n",
            "<title>{title}</title>\n",
            "<style>text{{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#1f2933}}",
            ".t{{font-weight:bold}}.d{{fill:#52606d}}",
            "rect{{fill:#fff;stroke:#52606d;stroke-width:1.5}}.f{{fill:#eaf4f4;stroke:#2c7a7b}}",
            ".a{{fill:#fdf6e3;stroke:#b7791f}}.c{{fill:#f0edfa;stroke:#6b46c1}}",
            ".j{{fill:#f5f7fa;stroke-dasharray:4 3}}",
            "path{{fill:none;stroke:#52606d;stroke-width:1.5;marker-end:url(#e)}}</style>\n",
            "<defs><marker id=\"e\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" ",
            "markerHeight=\"8\" orient=\"auto\"><polygon points=\"0 0 8 4 0 8\" fill=\"#52606d\"/>",
            "</marker></defs>\n",
            "<rect width=\"100%\" height=\"100%\" style=\"fill:#fff;stroke:none\"/>\n",
            "{body}</svg>\n",
        ),
        width = width,
        height = y,
        title = escape(&plan.name),
        body = body,
    )
}

fn size(shape: &Shape<'_>) -> (usize, usize) {
    let longest = shape
        .lines
        .iter()
        .chain([&shape.title, &shape.node.id])
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let lines = 2 + shape.lines.len();
    (longest * CHARACTER + 2 * LINE, lines * LINE + LINE)
}

fn drawn(shape: &Shape<'_>, place: &Place) -> String {
    let (class, round) = match shape.node.work {
        Work::Task(_) => ("n", 4),
        Work::FanOut(_) => ("f", 4),
        Work::Approve(_) => ("a", 16),
        Work::Call(_) => ("c", 4),
        Work::Join(_) => ("j", 4),
    };
    let Place {
        x,
        y,
        width,
        height,
    } = *place;
    let mut drawn = String::new();
    if matches!(shape.node.work, Work::FanOut(_)) {
        // A second sheet behind: many of the same.
        drawn.push_str(&sheet(x + 5, y + 5, width, height, class, round));
    }
    drawn.push_str(&sheet(x, y, width, height, class, round));
    let x = x + LINE;
    let mut y = y + LINE + 4;
    drawn.push_str(&words(x, y, "t", &shape.node.id));
    y += LINE;
    drawn.push_str(&words(x, y, "n", &shape.title));
    for line in &shape.lines {
        y += LINE;
        drawn.push_str(&words(x, y, "d", line));
    }
    drawn
}

fn sheet(x: usize, y: usize, width: usize, height: usize, class: &str, round: usize) -> String {
    format!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{round}\"/>\n"
    )
}

fn words(x: usize, y: usize, class: &str, text: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>\n",
        escape(text)
    )
}

/// From the lower edge of a box to the upper edge of another.
fn arrow(from: &Place, to: &Place) -> String {
    let (x1, y1) = (from.x + from.width / 2, from.y + from.height);
    let (x2, y2) = (to.x + to.width / 2, to.y);
    let bend = y1 + y2.saturating_sub(y1) / 2;
    format!("<path d=\"M{x1} {y1}C{x1} {bend} {x2} {bend} {x2} {y2}\"/>\n")
}

fn escape(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            other => other.to_string(),
        })
        .collect()
}
