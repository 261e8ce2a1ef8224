//! Literals with a notation of their own: times, durations, execution statuses.

use crate::Nanos;

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// The statuses by number, as `temporal.api.enums.v1.WorkflowExecutionStatus` has them.
const STATUSES: &[&str] = &[
    "Unspecified",
    "Running",
    "Completed",
    "Failed",
    "Canceled",
    "Terminated",
    "ContinuedAsNew",
    "TimedOut",
    "Paused",
];

/// The name of a status, as filters and groups write it.
pub(super) fn status_name(status: i64) -> &'static str {
    let known = usize::try_from(status).ok().and_then(|at| STATUSES.get(at));
    known.copied().unwrap_or("Unspecified")
}

/// The number of a status, by its name (`TimedOut`) or its protocol name
/// (`WORKFLOW_EXECUTION_STATUS_TIMED_OUT`).
pub(super) fn status_number(name: &str) -> Option<i64> {
    let short = name.strip_prefix("WORKFLOW_EXECUTION_STATUS_");
    let number = STATUSES.iter().position(|status| match short {
        Some(short) => screaming(status) == short,
        None => *status == name,
    });
    number.and_then(|number| i64::try_from(number).ok())
}

/// True for the number of a status.
pub(super) fn is_status(number: i64) -> bool {
    usize::try_from(number).is_ok_and(|number| number < STATUSES.len())
}

/// All status names that make sense in a filter.
pub(super) fn status_names() -> impl Iterator<Item = &'static str> {
    STATUSES[1..].iter().copied()
}

/// `TimedOut` as `TIMED_OUT`.
fn screaming(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// An RFC 3339 time with up to nanoseconds. Times that nanoseconds in 64 bits cannot hold become
/// the first or last that they can, so that `CloseTime < '9999-12-31T00:00:00Z'` works.
pub(super) fn datetime(text: &str) -> Option<Nanos> {
    let (date, rest) = text.split_at_checked(10)?;
    let (year, month, day) = match date.as_bytes() {
        [_, _, _, _, b'-', _, _, b'-', _, _] => (
            digits(&date[..4])?,
            digits(&date[5..7])?,
            digits(&date[8..])?,
        ),
        _ => return None,
    };
    let rest = rest.strip_prefix(['T', 't'])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let (hour, minute, second) = match time.as_bytes() {
        [_, _, b':', _, _, b':', _, _] => (
            digits(&time[..2])?,
            digits(&time[3..5])?,
            digits(&time[6..])?,
        ),
        _ => return None,
    };
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, zone) = fraction(rest)?;
    let seconds = days_from_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let nanos =
        i128::from(seconds - offset_seconds(zone)?) * NANOS_PER_SECOND + i128::from(fraction);
    Some(clamp(nanos))
}

/// The fraction after the seconds, in nanoseconds, and what follows it.
fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(after) = rest.strip_prefix(['.', ',']) else {
        return Some((0, rest));
    };
    let end = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    // Digits beyond nanoseconds are cut off.
    let kept = &after[..end.min(9)];
    let scale = 10_i64.pow(u32::try_from(9 - kept.len()).ok()?);
    Some((digits(kept)? * scale, &after[end..]))
}

/// `Z` or `+hh:mm`, in seconds east of UTC.
fn offset_seconds(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes() {
        [b'+', _, _, b':', _, _] => 1,
        [b'-', _, _, b':', _, _] => -1,
        _ => return None,
    };
    let (hours, minutes) = (digits(zone.get(1..3)?)?, digits(zone.get(4..)?)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// A duration in nanoseconds: a whole number of them, `1h30m` with the units d, h, m, s, ms, us,
/// ns, or `HH:MM:SS`.
pub(super) fn duration(text: &str) -> Option<i64> {
    if let Ok(nanos) = text.parse() {
        return Some(nanos);
    }
    match text.contains(':') {
        true => clock(text),
        false => units(text),
    }
}

fn clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':').map(digits);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || minutes > 59 || seconds > 59 {
        return None;
    }
    let seconds = hours
        .checked_mul(3_600)?
        .checked_add(minutes * 60 + seconds)?;
    seconds.checked_mul(1_000_000_000)
}

fn units(text: &str) -> Option<i64> {
    const UNITS: &[(&str, i128)] = &[
        ("d", 86_400 * NANOS_PER_SECOND),
        ("h", 3_600 * NANOS_PER_SECOND),
        ("ms", 1_000_000),
        ("m", 60 * NANOS_PER_SECOND),
        ("s", NANOS_PER_SECOND),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ns", 1),
    ];
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (whole, after) = rest.split_at(end);
        let after_point = after.strip_prefix('.');
        let fraction_end =
            after_point.map_or(Some(0), |after| after.find(|c: char| !c.is_ascii_digit()))?;
        let (fraction, after) = after_point.unwrap_or(after).split_at(fraction_end);
        // Eighteen digits are more than nanoseconds need and less than overflows.
        if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 18 {
            return None;
        }
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        let number = |digits: &str| digits.parse::<i128>().unwrap_or(0);
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        total += number(whole) * nanos + number(fraction) * nanos / scale;
        rest = &after[unit.len()..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn digits(text: &str) -> Option<i64> {
    let all_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| text.parse().ok()).flatten()
}

fn clamp(nanos: i128) -> Nanos {
    let clamped = nanos.clamp(i128::from(Nanos::MIN), i128::from(Nanos::MAX));
    Nanos::try_from(clamped).unwrap_or_default()
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the
/// leap day is the last of its year.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + leaps + (since_march * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let rows = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:00.000000001Z", Some(1)),
            ("1970-01-01T00:00:00,5Z", Some(500_000_000)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1969-12-31T19:30:00-04:30", Some(0)),
            ("1969-12-31T23:59:59Z", Some(-1_000_000_000)),
            ("2000-02-29T12:34:56Z", Some(951_827_696_000_000_000)),
            ("2024-03-01T00:00:00Z", Some(1_709_251_200_000_000_000)),
            (
                "2026-08-21t07:08:09.123456789987z",
                Some(1_787_296_089_123_456_789),
            ),
            ("9999-12-31T23:59:59Z", Some(i64::MAX)),
            ("0001-01-01T00:00:00Z", Some(i64::MIN)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-00-01T00:00:00Z", None),
            ("2024-01-32T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T00:00:60Z", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01 00:00:00Z", None),
            ("2024-01-01", None),
            ("2024-01-01T00:00:00.Z", None),
            ("2024-01-01T00:00:00+1:00", None),
            ("2024-01-01T00:00:00+01:0é", None),
            ("2024-1-01T00:00:00Z", None),
            ("+024-01-01T00:00:00Z", None),
            ("２０２４-01-01T00:00:00Z", None),
            ("", None),
            ("x", None),
        ];
        for (text, expected) in rows {
            assert_eq!(datetime(text), expected, "{text}");
        }
    }

    #[test]
    fn days_are_counted_without_gaps() {
        let mut expected = days_from_epoch(1896, 1, 1);
        for year in 1896..2105 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    assert_eq!(days_from_epoch(year, month, day), expected);
                    expected += 1;
                }
            }
        }
        assert_eq!(days_from_epoch(1970, 1, 1), 0);
    }

    #[test]
    fn durations_are_read() {
        const SECOND: i64 = 1_000_000_000;
        let rows = [
            ("0", Some(0)),
            ("1500", Some(1_500)),
            ("-7", Some(-7)),
            ("1s", Some(SECOND)),
            ("1.5s", Some(SECOND * 3 / 2)),
            (".5s", Some(SECOND / 2)),
            ("1h30m", Some(SECOND * 5_400)),
            ("1m2s3ms4us5ns", Some(SECOND * 62 + 3_004_005)),
            ("2µs", Some(2_000)),
            ("1.5d", Some(SECOND * 129_600)),
            ("-1.5h", Some(-SECOND * 5_400)),
            ("00:01:30", Some(SECOND * 90)),
            ("100:00:00", Some(SECOND * 360_000)),
            ("00:60:00", None),
            ("00:00:61", None),
            ("1:2", None),
            ("1:2:3:4", None),
            ("-1:00:00", None),
            ("1", Some(1)),
            ("1.5", None),
            ("s", None),
            (".s", None),
            ("1x", None),
            ("1 s", None),
            ("", None),
            ("-", None),
            ("999999999999999999d", None),
            ("9999999999999999999999s", None),
            ("1s1", None),
            ("1é", None),
        ];
        for (text, expected) in rows {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn statuses_are_read() {
        let rows = [
            ("Running", Some(1)),
            ("TimedOut", Some(7)),
            ("ContinuedAsNew", Some(6)),
            ("Paused", Some(8)),
            ("WORKFLOW_EXECUTION_STATUS_TIMED_OUT", Some(7)),
            ("WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW", Some(6)),
            ("running", None),
            ("WORKFLOW_EXECUTION_STATUS_Running", None),
            ("", None),
        ];
        for (name, expected) in rows {
            assert_eq!(status_number(name), expected, "{name}");
        }
        for number in 0..STATUSES.len() as i64 {
            assert_eq!(status_number(status_name(number)), Some(number));
        }
        assert!(is_status(8) && !is_status(9) && !is_status(-1));
        assert_eq!(status_name(77), "Unspecified");
    }
}
