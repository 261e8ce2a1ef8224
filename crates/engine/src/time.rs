//! Points in time and spans, in nanoseconds. The engine has no clock: `now` is an input.

use std::time::Duration;

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

/// Spans longer than this are cut to it (contract 0.10).
pub const MAX_SPAN: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Time {
    /// Stands for "not set" in stored records.
    pub const ZERO: Time = Time(0);

    pub fn is_set(self) -> bool {
        self.0 != 0
    }

    /// `None` when not set.
    pub fn get(self) -> Option<Time> {
        self.is_set().then_some(self)
    }

    pub fn plus(self, span: Duration) -> Time {
        Time(self.0.saturating_add(nanos(span)))
    }

    /// The span from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    pub fn proto(self) -> tidemill_proto::wkt::Timestamp {
        tidemill_proto::wkt::Timestamp {
            seconds: self.0.div_euclid(1_000_000_000),
            nanos: self.0.rem_euclid(1_000_000_000) as i32,
        }
    }

    pub fn proto_opt(self) -> Option<tidemill_proto::wkt::Timestamp> {
        self.get().map(Time::proto)
    }

    /// An RFC 3339 time. What nanoseconds in 64 bits cannot hold becomes the first or last time that
    /// they can: people write the year 9999 for "ever" and the year 1 for "never".
    pub fn parse(text: &str) -> Option<Time> {
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            let nanos = at.as_nanosecond();
            let nearest = if nanos < 0 { i64::MIN } else { i64::MAX };
            return Some(Time(i64::try_from(nanos).unwrap_or(nearest)));
        }
        // jiff's timestamps end a day before the year 9999 does.
        let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
        let complete = pieces.time().is_some() && pieces.to_numeric_offset().is_some();
        (complete && pieces.date().year() == 9999).then_some(Time(i64::MAX))
    }

    pub fn from_proto(t: &tidemill_proto::wkt::Timestamp) -> Time {
        Time(
            t.seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(t.nanos)),
        )
    }
}

/// A span in nanoseconds, saturating.
pub fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// A protocol duration as a span: unset and negative are zero, too long is cut to [`MAX_SPAN`].
pub fn span(d: &Option<tidemill_proto::wkt::Duration>) -> Duration {
    match d {
        Some(d) if d.seconds > 0 || (d.seconds == 0 && d.nanos > 0) => {
            Duration::new(d.seconds as u64, d.nanos.max(0) as u32).min(MAX_SPAN)
        }
        _ => Duration::ZERO,
    }
}

/// A protocol duration as a span; `None` when unset or zero.
pub fn span_opt(d: &Option<tidemill_proto::wkt::Duration>) -> Option<Duration> {
    let s = span(d);
    (!s.is_zero()).then_some(s)
}

/// Whether a protocol duration is negative.
pub fn is_negative(d: &Option<tidemill_proto::wkt::Duration>) -> bool {
    d.as_ref().is_some_and(|d| d.seconds < 0 || d.nanos < 0)
}

/// A span as a protocol duration, always set.
pub fn proto_span(d: Duration) -> Option<tidemill_proto::wkt::Duration> {
    Some(tidemill_proto::wkt::Duration {
        seconds: d.as_secs() as i64,
        nanos: d.subsec_nanos() as i32,
    })
}

/// A span as a protocol duration, unset for zero.
pub fn proto_span_opt(d: Duration) -> Option<tidemill_proto::wkt::Duration> {
    (!d.is_zero()).then(|| proto_span(d)).flatten()
}
