//! Which lanes wait for their owner to come back after a failure.

use std::collections::HashMap;
use std::sync::Arc;

use super::NO_LANE;
use crate::Error;

/// Per lane, the last generation that failed and why. A map, not a list: whatever number a caller
/// chooses must not take the writer's thread down.
#[derive(Default)]
pub(super) struct FailedLanes(HashMap<usize, (u64, Arc<Error>)>);

impl FailedLanes {
    /// The error that a submission of this generation fails with, if any.
    pub(super) fn error(&self, lane: usize, generation: u64) -> Option<&Arc<Error>> {
        self.0
            .get(&lane)
            .filter(|(failed, _)| generation <= *failed)
            .map(|(_, error)| error)
    }

    pub(super) fn fail(&mut self, lane: usize, generation: u64, error: &Arc<Error>) {
        if lane != NO_LANE && self.error(lane, generation).is_none() {
            self.0.insert(lane, (generation, error.clone()));
        }
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
        for (lane, generation, expected) in [
            (3, 0, true),
            (3, 5, true),
            (3, 6, false),
            (2, 5, false),
            (4, 5, false),
        ] {
            assert_eq!(
                lanes.error(lane, generation).is_some(),
                expected,
                "lane {lane} generation {generation}"
            );
        }
        assert_eq!(lanes.error(3, 5).unwrap().to_string(), "store: first");
        lanes.fail(3, 7, &error("second"));
        assert_eq!(lanes.error(3, 6).unwrap().to_string(), "store: second");
    }
    #[test]
    fn without_a_lane_a_failure_is_nobody_elses() {
        let mut lanes = FailedLanes::default();
        lanes.fail(NO_LANE, 0, &Arc::new(Error::Io("down".into())));
        assert!(lanes.error(NO_LANE, 0).is_none());
        lanes.fail(NO_LANE - 1, 0, &Arc::new(Error::Io("down".into())));
        assert!(lanes.error(NO_LANE - 1, 0).is_some());
    }
}
