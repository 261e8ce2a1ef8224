//! Priorities: what is valid, and how an activity's or a child's overrides its workflow's.

use tidemill_proto::api::common::v1::Priority;

const FAIRNESS_KEY_SIZE: usize = 64;

/// Checks a priority; the error says what is wrong.
pub fn validate(priority: &Option<Priority>) -> Result<(), String> {
    let Some(p) = priority else { return Ok(()) };
    if p.priority_key < 0 {
        return Err("priority: key is negative".into());
    }
    if p.fairness_key.len() > FAIRNESS_KEY_SIZE {
        return Err(format!(
            "priority: fairness key is longer than {FAIRNESS_KEY_SIZE} bytes"
        ));
    }
    if p.fairness_weight.is_nan() || p.fairness_weight < 0.0 {
        return Err("priority: fairness weight is not a positive number".into());
    }
    Ok(())
}

/// `over` field by field over `base`.
pub fn merge(base: Option<Priority>, over: Option<Priority>) -> Option<Priority> {
    match (base, over) {
        (Some(base), Some(mut over)) => {
            if over.priority_key == 0 {
                over.priority_key = base.priority_key;
            }
            if over.fairness_key.is_empty() {
                over.fairness_key = base.fairness_key;
            }
            if over.fairness_weight == 0.0 {
                over.fairness_weight = base.fairness_weight;
            }
            Some(over)
        }
        (base, over) => over.or(base),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(key: i32, fairness: &str, weight: f32) -> Option<Priority> {
        Some(Priority {
            priority_key: key,
            fairness_key: fairness.into(),
            fairness_weight: weight,
        })
    }

    #[test]
    fn merged_field_by_field() {
        let rows = [
            (None, None, None),
            (p(2, "a", 1.0), None, p(2, "a", 1.0)),
            (None, p(2, "a", 1.0), p(2, "a", 1.0)),
            (p(2, "a", 1.0), p(0, "", 0.0), p(2, "a", 1.0)),
            (p(2, "a", 1.0), p(4, "", 3.0), p(4, "a", 3.0)),
            (p(2, "a", 1.0), p(0, "b", 0.0), p(2, "b", 1.0)),
        ];
        for (base, over, expected) in rows {
            assert_eq!(merge(base, over), expected);
        }
    }

    #[test]
    fn bad_priorities_are_refused() {
        let rows = [
            (None, true),
            (p(0, "", 0.0), true),
            (p(9, &"k".repeat(64), 5.0), true),
            (p(-1, "", 0.0), false),
            (p(1, &"k".repeat(65), 0.0), false),
            (p(1, "", -0.5), false),
            (p(1, "", f32::NAN), false),
        ];
        for (priority, ok) in rows {
            assert_eq!(validate(&priority).is_ok(), ok, "{priority:?}");
        }
    }
}
