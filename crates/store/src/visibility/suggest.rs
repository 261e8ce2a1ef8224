//! "Did you mean": the known name that is nearest to a mistyped one.

/// The candidate nearest to `name`, if it is near enough to be a likely slip.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // A hostile name must not buy quadratic work.
    if name.len() > 100 {
        return None;
    }
    let wanted = name.to_lowercase();
    let limit = (wanted.chars().count() / 4).max(1);
    candidates
        .filter(|candidate| candidate.len() <= 100)
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replace = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let names = ["WorkflowType", "WorkflowId", "StartTime", "Env"];
        let rows = [
            ("workflowtype", Some("WorkflowType")),
            ("WorklowType", Some("WorkflowType")),
            ("WorkflowID", Some("WorkflowId")),
            ("Envy", Some("Env")),
            ("Colour", None),
            ("", None),
        ];
        for (name, expected) in rows {
            assert_eq!(nearest(name, names.into_iter()), expected, "{name}");
        }
    }
}
