use super::*;

fn at(text: &str) -> Time {
    let at: Timestamp = text.parse().unwrap();
    Time(at.as_nanosecond() as i64)
}

fn text(at: Option<Time>) -> String {
    at.map_or("none".into(), |t| {
        Timestamp::from_nanosecond(t.0.into()).unwrap().to_string()
    })
}

#[test]
fn next_match() {
    let rows = [
        ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        (
            "* * * * *",
            "2026-01-01T00:00:59.999999999Z",
            "2026-01-01T00:01:00Z",
        ),
        (
            "*/15 * * * *",
            "2026-01-01T00:15:00Z",
            "2026-01-01T00:30:00Z",
        ),
        (
            "5/20 * * * *",
            "2026-01-01T00:46:00Z",
            "2026-01-01T01:05:00Z",
        ),
        (
            "0 9-17 * * mon-fri",
            "2026-01-02T17:30:00Z",
            "2026-01-05T09:00:00Z",
        ),
        (
            "0 0 1 JAN *",
            "2026-01-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        ),
        ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("0 0 31 2 *", "2026-01-01T00:00:00Z", "none"),
        (", * * * *", "2026-01-01T00:00:00Z", "none"),
        (
            "0,30 8,20 ? * ?",
            "2026-01-01T08:10:00Z",
            "2026-01-01T08:30:00Z",
        ),
        // Both days restricted: either one. A star (with step one): both.
        ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("0 0 13 * 5", "2026-01-10T00:00:00Z", "2026-01-13T00:00:00Z"),
        (
            "0 0 */1 * 5",
            "2026-01-03T00:00:00Z",
            "2026-01-09T00:00:00Z",
        ),
        (
            "0 0 */2 * 5",
            "2026-01-03T00:00:00Z",
            "2026-01-05T00:00:00Z",
        ),
        // Descriptors.
        ("@hourly", "2026-01-01T00:20:00Z", "2026-01-01T01:00:00Z"),
        ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("@midnight", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        (
            "@every 1h30m",
            "2026-01-01T00:00:00.5Z",
            "2026-01-01T01:30:00Z",
        ),
        (
            "@every 10ms",
            "2026-01-01T00:00:00.5Z",
            "2026-01-01T00:00:01Z",
        ),
        (
            "@every 1.9s",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:01Z",
        ),
        // Zones, and clocks that are put forward and back.
        (
            "CRON_TZ=America/New_York 0 9 * * *",
            "2026-01-01T00:00:00Z",
            "2026-01-01T14:00:00Z",
        ),
        (
            "TZ=Asia/Kolkata 0 0 * * *",
            "2026-01-01T00:00:00Z",
            "2026-01-01T18:30:00Z",
        ),
        (
            "CRON_TZ=Europe/Berlin 30 2 * * *",
            "2026-03-28T12:00:00Z",
            "2026-03-30T00:30:00Z",
        ),
        (
            "CRON_TZ=Europe/Berlin 30 2 * * *",
            "2026-10-24T12:00:00Z",
            "2026-10-25T00:30:00Z",
        ),
        (
            "CRON_TZ=Europe/Berlin 30 2 * * *",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:30:00Z",
        ),
        (
            "CRON_TZ=Europe/Berlin 30 2 * * *",
            "2026-10-25T01:30:00Z",
            "2026-10-26T01:30:00Z",
        ),
        // Midnight does not exist on the day that the clocks are put forward.
        (
            "CRON_TZ=America/Havana 30 0 * * *",
            "2026-03-07T12:00:00Z",
            "2026-03-09T04:30:00Z",
        ),
        // A day that was never there.
        (
            "CRON_TZ=Pacific/Apia 0 12 30 * *",
            "2011-12-29T00:00:00Z",
            "2012-01-29T22:00:00Z",
        ),
        (
            "CRON_TZ=Europe/Berlin @every 1h",
            "2026-01-01T00:10:00Z",
            "2026-01-01T01:10:00Z",
        ),
    ];
    for (spec, after, expected) in rows {
        let schedule = parse(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
        assert_eq!(
            text(schedule.next(at(after))),
            expected,
            "{spec} after {after}"
        );
    }
}

#[test]
fn bad_schedules() {
    let rows = [
        "",
        " ",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 7",
        "5-1 * * * *",
        "*/0 * * * *",
        "*/-1 * * * *",
        "1-2-3 * * * *",
        "*/2/3 * * * *",
        "a * * * *",
        "* * * foo *",
        "@never",
        "@every",
        "@every x",
        "@every 5",
        "@every 1h-",
        "CRON_TZ=Nowhere/Land * * * * *",
        "CRON_TZ=UTC",
        "invalid-cron-spec",
        "99999999999999999999 * * * *",
    ];
    for spec in rows {
        assert!(parse(spec).is_err(), "{spec:?}");
    }
    assert!(
        validate("0 0 31 2 *", at("2026-01-01T00:00:00Z"))
            .unwrap_err()
            .contains("no time")
    );
    assert_eq!(validate("", at("2026-01-01T00:00:00Z")), Ok(()));
}

#[test]
fn backoffs() {
    // schedule, when the run was to execute, when it closed (then, if empty), seconds.
    let rows: &[(&str, &str, &str, Option<u64>)] = &[
        ("", "2026-01-01T00:00:00Z", "", None),
        ("nonsense", "2026-01-01T00:00:00Z", "", None),
        ("0 0 31 2 *", "2026-01-01T00:00:00Z", "", None),
        ("0 10 * * *", "2018-12-17T16:00:00Z", "", Some(18 * 3600)),
        ("0 * * * *", "2018-12-17T08:08:00Z", "", Some(52 * 60)),
        ("0 * * * *", "2018-12-17T09:00:00Z", "", Some(3600)),
        ("* * * * *", "2018-12-17T08:08:18Z", "", Some(42)),
        ("* * * * *", "2018-12-17T08:08:18.4Z", "", Some(42)),
        (
            "0 10 * * *",
            "2018-12-17T08:00:00Z",
            "2018-12-20T00:00:00Z",
            Some(10 * 3600),
        ),
        (
            "*/10 * * * *",
            "2018-12-17T00:04:00Z",
            "2018-12-17T01:02:00Z",
            Some(8 * 60),
        ),
        (
            "*/10 * * * *",
            "2018-12-17T00:04:00Z",
            "2018-12-17T01:00:00Z",
            Some(0),
        ),
        (
            "@every 5h",
            "2018-12-17T08:00:00Z",
            "2018-12-17T09:00:00Z",
            Some(4 * 3600),
        ),
        (
            "@every 5h",
            "2018-12-17T08:00:00Z",
            "2018-12-18T00:00:00Z",
            Some(4 * 3600),
        ),
        (
            "@every 30s",
            "2020-07-17T10:00:02Z",
            "2020-07-17T10:00:02Z",
            Some(30),
        ),
        (
            "@every 30s",
            "2020-07-17T10:00:02Z",
            "2020-09-17T04:00:53Z",
            Some(9),
        ),
        (
            "@every 30s",
            "2020-07-17T10:00:02Z",
            "2020-09-17T04:01:02Z",
            Some(0),
        ),
        (
            "@every 30m",
            "2020-07-17T10:00:00Z",
            "2020-07-17T09:45:00Z",
            Some(15 * 60),
        ),
        (
            "@every 1s",
            "1970-01-01T00:00:00Z",
            "2200-01-01T00:00:00.25Z",
            Some(1),
        ),
        (
            "CRON_TZ=America/New_York 5 16 * * *",
            "2021-03-14T04:00:00Z",
            "2021-03-14T19:05:00Z",
            Some(3600),
        ),
        (
            "CRON_TZ=America/New_York 5 4 * * *",
            "2021-11-25T05:00:00Z",
            "2021-11-25T08:05:00Z",
            Some(3600),
        ),
    ];
    for (spec, scheduled, now, expected) in rows {
        let now = if now.is_empty() { scheduled } else { now };
        let got = next_backoff(spec, at(scheduled), at(now));
        assert_eq!(
            got,
            expected.map(Duration::from_secs),
            "{spec} from {scheduled} at {now}"
        );
    }
}

#[test]
fn go_durations() {
    let rows = [
        ("0", Some(0)),
        ("1h2m3s", Some(3723 * SECOND)),
        ("1.5h", Some(5400 * SECOND)),
        (".5s", Some(SECOND / 2)),
        ("2us", Some(2000)),
        ("2\u{b5}s", Some(2000)),
        ("-3ms", Some(-3_000_000)),
        ("+3ns", Some(3)),
        ("", None),
        ("-", None),
        ("3", None),
        (".s", None),
        ("3d", None),
        ("9999999999h", None),
    ];
    for (given, expected) in rows {
        assert_eq!(go_duration(given), expected, "{given:?}");
    }
}
