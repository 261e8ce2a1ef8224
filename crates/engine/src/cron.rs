//! The `cron_schedule` of workflows: which times it names, and how long the next run waits.
//!
//! The dialect is that of `ParseStandard` of robfig/cron v3, which Temporal uses: five fields with
//! ranges, steps and names, the `@` descriptors, and a leading `CRON_TZ=` (or `TZ=`). It is not the
//! dialect of schedules (contract section 9), which has years, seconds and an *and* between days.
//! Zones come from the database compiled into the binary, so that the answer does not depend on
//! the machine.

use std::sync::OnceLock;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::time::Time;

/// A parsed schedule.
#[derive(Clone, Debug)]
pub struct Schedule(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Fields(Fields),
    /// `@every`: a fixed number of seconds, at least one.
    Every(i64),
}

/// Bit `n` of a field stands for the value `n`.
#[derive(Clone, Debug)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    zone: TimeZone,
}

/// Marks a field that was written with a star: days then combine with *and* instead of *or*.
const STAR: u64 = 1 << 63;

/// No match within so many years means that there is none.
const YEARS_MAX: i16 = 5;

const SECOND: i64 = 1_000_000_000;

struct Bounds {
    min: u64,
    max: u64,
    /// Names of the values, beginning with that of `min`.
    names: &'static [&'static str],
}

const MINUTE: Bounds = Bounds {
    min: 0,
    max: 59,
    names: &[],
};
const HOUR: Bounds = Bounds {
    min: 0,
    max: 23,
    names: &[],
};
const DAY: Bounds = Bounds {
    min: 1,
    max: 31,
    names: &[],
};
const MONTH: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const WEEKDAY: Bounds = Bounds {
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// Reads a schedule. The error says what is wrong with which part.
pub fn parse(spec: &str) -> Result<Schedule, String> {
    if spec.is_empty() {
        return Err("empty spec string".into());
    }
    let (zone, rest) = match spec
        .strip_prefix("CRON_TZ=")
        .or_else(|| spec.strip_prefix("TZ="))
    {
        Some(text) => {
            let (name, rest) = text
                .split_once(' ')
                .ok_or_else(|| format!("no schedule after the time zone: {spec}"))?;
            (zone(name)?, rest.trim())
        }
        None => (TimeZone::UTC, spec),
    };
    if rest.starts_with('@') {
        return descriptor(rest, zone);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let &[minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(format!(
            "expected exactly 5 fields, found {}: {rest}",
            fields.len()
        ));
    };
    Ok(Schedule(Kind::Fields(Fields {
        minute: field(minute, &MINUTE)?,
        hour: field(hour, &HOUR)?,
        day: field(day, &DAY)?,
        month: field(month, &MONTH)?,
        weekday: field(weekday, &WEEKDAY)?,
        zone,
    })))
}

/// Checks a schedule as it is checked when a workflow starts: it must be well-formed and name a
/// time in the future. The empty schedule is valid and means none.
pub fn validate(spec: &str, now: Time) -> Result<(), String> {
    if spec.is_empty() {
        return Ok(());
    }
    match parse(spec)?.next(now) {
        Some(_) => Ok(()),
        None => Err("no time can be found to satisfy the schedule".into()),
    }
}

/// How long the next run waits: from `now` to the first match after `scheduled` (when the run that
/// ended was to execute) that is not before `now`, in whole seconds rounded up. `None` for an
/// empty or invalid schedule and one without a match.
pub fn next_backoff(spec: &str, scheduled: Time, now: Time) -> Option<Duration> {
    let schedule = parse(spec).ok()?;
    let next = if now < scheduled {
        scheduled
    } else {
        match schedule.next(scheduled)? {
            // Matches were missed meanwhile: they are skipped.
            next if next < now => schedule.at_or_after(next, now)?,
            next => next,
        }
    };
    let wait = next.since(now);
    Some(Duration::from_secs(
        wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
    ))
}

impl Schedule {
    /// The first match after `after`, in whole seconds; `None` when there is none within five
    /// years.
    pub fn next(&self, after: Time) -> Option<Time> {
        let second = after.0.div_euclid(SECOND);
        match &self.0 {
            Kind::Every(seconds) => time(second.checked_add(*seconds)?),
            Kind::Fields(fields) => time(fields.first_at_or_after(second.checked_add(1)?)?),
        }
    }

    /// The first match at or after `now`, given an earlier match.
    fn at_or_after(&self, earlier: Time, now: Time) -> Option<Time> {
        let now = now.0.div_euclid(SECOND) + i64::from(now.0.rem_euclid(SECOND) > 0);
        match &self.0 {
            Kind::Every(seconds) => {
                let earlier = earlier.0.div_euclid(SECOND);
                let behind = (now - earlier).rem_euclid(*seconds);
                time(if behind == 0 {
                    now
                } else {
                    now.checked_add(seconds - behind)?
                })
            }
            Kind::Fields(fields) => time(fields.first_at_or_after(now)?),
        }
    }
}

fn time(seconds: i64) -> Option<Time> {
    seconds.checked_mul(SECOND).map(Time)
}

// ---- reading ----

fn zone(name: &str) -> Result<TimeZone, String> {
    static ZONES: OnceLock<TimeZoneDatabase> = OnceLock::new();
    // Both of these are the server's own zone, which is UTC.
    if matches!(name, "" | "Local") {
        return Ok(TimeZone::UTC);
    }
    let zones = ZONES.get_or_init(TimeZoneDatabase::bundled);
    zones
        .get(name)
        .map_err(|e| format!("bad time zone {name}: {e}"))
}

fn descriptor(text: &str, zone: TimeZone) -> Result<Schedule, String> {
    if let Some(span) = text.strip_prefix("@every ") {
        let nanos = go_duration(span).ok_or_else(|| format!("failed to parse duration {text}"))?;
        return Ok(Schedule(Kind::Every((nanos / SECOND).max(1))));
    }
    let any = |b: &Bounds| bits(b.min, b.max, 1) | STAR;
    let mut fields = Fields {
        minute: 1,
        hour: 1,
        day: any(&DAY),
        month: any(&MONTH),
        weekday: any(&WEEKDAY),
        zone,
    };
    match text {
        "@yearly" | "@annually" => (fields.day, fields.month) = (1 << 1, 1 << 1),
        "@monthly" => fields.day = 1 << 1,
        "@weekly" => fields.weekday = 1,
        "@daily" | "@midnight" => {}
        "@hourly" => fields.hour = any(&HOUR),
        _ => return Err(format!("unrecognized descriptor: {text}")),
    }
    Ok(Schedule(Kind::Fields(fields)))
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',')
        .filter(|r| !r.is_empty())
        .try_fold(0, |all, r| Ok(all | range(r, bounds)?))
}

/// `*`, `n`, `n-m`, each with an optional `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let mut parts = text.split('/');
    let span = parts.next().unwrap_or_default();
    let step = parts.next();
    if parts.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let ends: Vec<&str> = span.split('-').collect();
    let (start, mut end, mut star) = match ends.as_slice() {
        ["*" | "?", ..] => (bounds.min, bounds.max, STAR),
        [one] => (value(one, bounds)?, value(one, bounds)?, 0),
        [low, high] => (value(low, bounds)?, value(high, bounds)?, 0),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            let step = number(step)?;
            // "n/step" means "from n on".
            if ends.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
    };
    if start < bounds.min {
        return Err(format!(
            "beginning of range ({start}) below minimum ({}): {text}",
            bounds.min
        ));
    }
    if end > bounds.max {
        return Err(format!(
            "end of range ({end}) above maximum ({}): {text}",
            bounds.max
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {text}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(bits(start, end, step) | star)
}

fn value(text: &str, bounds: &Bounds) -> Result<u64, String> {
    match bounds
        .names
        .iter()
        .position(|n| n.eq_ignore_ascii_case(text))
    {
        Some(at) => Ok(bounds.min + at as u64),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let n: i64 = text
        .parse()
        .map_err(|e| format!("failed to parse int from {text}: {e}"))?;
    u64::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}"))
}

fn bits(start: u64, end: u64, step: u64) -> u64 {
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    (start..=end).step_by(step).fold(0, |all, n| all | 1 << n)
}

/// A span as Go writes it (`1h30m`, `1.5s`, `300ms`), in nanoseconds; `None` if it is not one.
fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(f) => {
                f.split_at(f.len() - f.trim_start_matches(|c: char| c.is_ascii_digit()).len())
            }
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_length = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let unit: i64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let whole: i64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total = total.checked_add(i64::from(digit - b'0') * scale)?;
        }
        rest = after;
    }
    Some(if negative { -total } else { total })
}

// ---- searching ----

impl Fields {
    /// The first matching second at or after `second` (since the epoch).
    ///
    /// Field by field from the largest, an unmatched one is stepped until it matches; when a step
    /// wraps into the next larger unit, that one is looked at again. The steps, those around clock
    /// changes included, are robfig/cron's: a time that a clock change skips does not fire, one
    /// that it repeats fires twice.
    fn first_at_or_after(&self, second: i64) -> Option<i64> {
        const VALUES: u64 = !STAR;
        if [self.minute, self.hour, self.day, self.month, self.weekday]
            .iter()
            .any(|f| f & VALUES == 0)
        {
            return None;
        }
        let mut t = second;
        // Whether smaller units still stand where the caller's time was.
        let mut exact = true;
        let last_year = self.local(t)?.year().checked_add(YEARS_MAX)?;
        'wrap: loop {
            if self.local(t)?.year() > last_year {
                return None;
            }
            loop {
                let at = self.local(t)?;
                if self.month & (1 << at.month()) != 0 {
                    break;
                }
                if std::mem::take(&mut exact) {
                    t = self.instant(
                        at.date()
                            .first_of_month()
                            .to_datetime(jiff::civil::Time::midnight()),
                    )?;
                }
                t = self.next_month(t)?;
                if self.local(t)?.month() == 1 {
                    continue 'wrap;
                }
            }
            loop {
                let at = self.local(t)?;
                if self.day_matches(at) {
                    break;
                }
                if std::mem::take(&mut exact) {
                    t = self.instant(at.date().to_datetime(jiff::civil::Time::midnight()))?;
                }
                let day = t;
                t = self.instant(
                    self.local(t)?
                        .checked_add(SignedDuration::from_hours(24))
                        .ok()?,
                )?;
                // Midnight does not exist on some days.
                t += match i64::from(self.local(t)?.hour()) {
                    hour @ 13.. => (24 - hour) * 3600,
                    hour => -hour * 3600,
                };
                // Nor do some days (Samoa's 30 December 2011): robfig/cron never gets past them.
                if t <= day {
                    t = day + 24 * 3600;
                }
                if self.local(t)?.day() == 1 {
                    continue 'wrap;
                }
            }
            loop {
                let at = self.local(t)?;
                if self.hour & (1 << at.hour()) != 0 {
                    break;
                }
                if std::mem::take(&mut exact) {
                    t = self.instant(at.date().at(at.hour(), 0, 0, 0))?;
                }
                t += 3600;
                if self.local(t)?.hour() == 0 {
                    continue 'wrap;
                }
            }
            loop {
                let at = self.local(t)?;
                if self.minute & (1 << at.minute()) != 0 {
                    break;
                }
                if std::mem::take(&mut exact) {
                    t -= t.rem_euclid(60);
                }
                t += 60;
                if self.local(t)?.minute() == 0 {
                    continue 'wrap;
                }
            }
            let seconds = i64::from(self.local(t)?.second());
            if seconds == 0 {
                return Some(t);
            }
            exact = false;
            t += 60 - seconds;
        }
    }

    /// The clock on the wall; `None` outside the supported years.
    fn local(&self, second: i64) -> Option<DateTime> {
        let at = Timestamp::from_second(second).ok()?;
        Some(self.zone.to_offset(at).to_datetime(at))
    }

    /// The second at which the clock shows `local`. In a gap or an overlap, the choice is that of
    /// Go's `time.Date`.
    fn instant(&self, local: DateTime) -> Option<i64> {
        let naive = Offset::UTC.to_timestamp(local).ok()?.as_second();
        let offset = |second| -> Option<i64> {
            let at = Timestamp::from_second(second).ok()?;
            Some(i64::from(self.zone.to_offset(at).seconds()))
        };
        Some(naive - offset(naive - offset(naive)?)?)
    }

    /// The same local time a month later; days beyond the month's end run into the one after.
    fn next_month(&self, second: i64) -> Option<i64> {
        let at = self.local(second)?;
        let days = i64::from(at.day()) - 1;
        let first = at
            .date()
            .first_of_month()
            .checked_add(jiff::Span::new().months(1))
            .ok()?;
        let day = first.checked_add(jiff::Span::new().days(days)).ok()?;
        self.instant(day.to_datetime(at.time()))
    }

    fn day_matches(&self, at: DateTime) -> bool {
        let day = self.day & (1 << at.day()) != 0;
        let weekday = self.weekday & (1 << at.weekday().to_sunday_zero_offset()) != 0;
        if (self.day | self.weekday) & STAR != 0 {
            day && weekday
        } else {
            day || weekday
        }
    }
}

#[cfg(test)]
mod tests;
