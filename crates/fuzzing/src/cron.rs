//! Cron schedules.

use tidemill_engine::Time;
use tidemill_engine::cron as schedule;

use crate::input::Input;

/// Eight bytes of time, then the schedule.
pub fn cron(data: &[u8]) {
    let mut input = Input(data);
    let after = Time(input.i64());
    let Ok(spec) = std::str::from_utf8(input.0) else {
        return;
    };
    let valid = schedule::validate(spec, after);
    let next = match schedule::parse(spec) {
        Ok(schedule) => schedule.next(after),
        Err(_) => {
            assert_eq!(valid.is_ok(), spec.is_empty(), "{spec:?}: {valid:?}");
            None
        }
    };
    if let Some(next) = next {
        assert!(next > after, "{spec:?}: {next:?} is not after {after:?}");
        assert!(valid.is_ok(), "{spec:?}: {valid:?}");
        // From the match on there is another time, or none: never the same.
        let again = schedule::parse(spec).ok().and_then(|s| s.next(next));
        assert!(
            again.is_none_or(|again| again > next),
            "{spec:?} stays at {next:?}"
        );
    }
    for now in [after, next.unwrap_or(after), Time(0)] {
        let _ = schedule::next_backoff(spec, after, now);
    }
}
