//! Which lanes wait for their owner to come back after a failure.

use std::sync::Arc;

use crate::Error;

/// Per lane, the last generation that failed and why.
#[derive(Default)]
pub(super) struct FailedLanes(Vec<Option<(u64, Arc<Error>)>>);

impl FailedLanes {
    /// The error that a submission of this generation fails with, if any.
    pub(super) fn error(&self, lane: usize, generation: u64) -> Option<&Arc<Error>> {
        match self.0.get(lane) {
            Some(Some((failed, error))) if generation <= *failed => Some(error),
            _ => None,
        }
    }

    pub(super) fn fail(&mut self, lane: usize, generation: u64, error: &Arc<Error>) {
        if self.error(lane, generation).is_some() {
            return;
        }
        if self.0.len() <= lane {
            self.0.resize(lane + 1, None);
        }
        self.0[lane] = Some((generation, error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_fails_up_to_the_generation_that_failed() {
        let mut lanes = FailedLanes::default();
        let error = |text: &str| Arc::new(Error::Io(text.into()));
        assert!(lanes.error(3, 0).is_none());
        lanes.fail(3, 5, &error("first"));
        lanes.fail(3, 4, &error("of an older generation"));
        for (lane, generation, expected) in [(3, 0, true), (3, 5, true), (3, 6, false), (2, 5, false), (4, 5, false)] {
            assert_eq!(lanes.error(lane, generation).is_some(), expected, "lane {lane} generation {generation}");
        }
        assert_eq!(lanes.error(3, 5).unwrap().to_string(), "store: first");
        lanes.fail(3, 7, &error("second"));
        assert_eq!(lanes.error(3, 6).unwrap().to_string(), "store: second");
    }
}
