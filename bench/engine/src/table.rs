//! The table of all parts, for people.

/// One figure beside what is to be reached.
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) wanted: Wanted,
}

#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    Nothing,
}

impl Figure {
    pub(crate) fn new(
        what: impl Into<String>,
        value: Option<f64>,
        unit: &'static str,
        wanted: Wanted,
    ) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            wanted,
        }
    }
}

pub(crate) fn render(figures: &[Figure]) -> String {
    let header = ["figure", "measured", "to reach", "reached"].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(header)
        .chain(figures.iter().map(row))
        .collect();
    let widths: [usize; 4] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned() + "\n"
        })
        .collect()
}

fn row(figure: &Figure) -> [String; 4] {
    let unit = figure.unit;
    let (wanted, reached) = match (figure.wanted, figure.value) {
        (Wanted::Nothing, _) => (String::new(), None),
        (Wanted::AtLeast(least), value) => (
            format!(">= {least} {unit}"),
            value.map(|value| value >= least),
        ),
        (Wanted::AtMost(most), value) => (
            format!("<= {most} {unit}"),
            value.map(|value| value <= most),
        ),
    };
    let reached = reached.map_or("", |reached| if reached { "yes" } else { "no" });
    [
        figure.what.clone(),
        figure.value.map_or_else(
            || "not measured".to_owned(),
            |value| format!("{value} {unit}"),
        ),
        wanted.trim_end().to_owned(),
        reached.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_line_up_and_say_whether_they_are_reached() {
        let figures = [
            Figure::new("throughput", Some(7.0), "/s", Wanted::AtLeast(5.0)),
            Figure::new("p99", Some(7.0), "ms", Wanted::AtMost(5.0)),
            Figure::new("copies", Some(3.0), "", Wanted::Nothing),
            Figure::new("restart", None, "ms", Wanted::AtMost(2000.0)),
        ];
        assert_eq!(
            render(&figures),
            "\
figure      measured      to reach    reached
throughput  7 /s          >= 5 /s     yes
p99         7 ms          <= 5 ms     no
copies      3
restart     not measured  <= 2000 ms
"
        );
    }
}
