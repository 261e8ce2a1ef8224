//! Tables for people: columns padded to their widest cell.

/// Writes rows under a header, two spaces between columns.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = line(header.iter().copied(), &widths);
    for row in rows {
        out += &line(row.iter().map(String::as_str), &widths);
    }
    out
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let padded: Vec<String> = cells
        .zip(widths)
        .map(|(cell, &width)| format!("{cell:width$}"))
        .collect();
    padded.join("  ").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["bcd".into(), "x".into()],
        ];
        assert_eq!(
            render(&["ID", "NAME"], &rows),
            "ID   NAME\na    long cell\nbcd  x\n"
        );
    }
}
