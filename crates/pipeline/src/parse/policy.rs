//! `retry`, `timeout`, `resource`, `priority`, `affinity`, `cache` and the numbers of a fan-out.

use serde_json::Value;

use super::value::{Fields, duration, wrong_type};
use crate::diagnostic::Findings;
use crate::spec::{Cache, Fan, Policy, Spot};
use crate::yaml::Kind;

const MOST_ATTEMPTS: u64 = 1_000_000;
const MOST_ITEMS: u64 = 1_000_000;
const MOST_CHUNKS: u64 = 10_000;

/// What a stage and `defaults` both can say.
pub(super) fn read(fields: &Fields<'_>, findings: &mut Findings) -> Policy {
    let mut policy = Policy {
        resource: resource(fields, findings),
        priority: fields.whole("priority", 1, 5, findings),
        affinity_ms: affinity(fields, findings),
        ..Policy::default()
    };
    if let Some(entry) = fields.get("retry") {
        let known = ["attempts", "delay", "backoff", "max_delay"];
        if let Some(retry) = Fields::read(&entry.value, &known, "`retry`", findings) {
            policy.attempts = retry.whole("attempts", 0, MOST_ATTEMPTS, findings);
            policy.delay_ms = retry.duration("delay", findings);
            policy.backoff = retry.number("backoff", findings);
            policy.max_delay_ms = retry.duration("max_delay", findings);
            check_retry(&mut policy, findings);
        }
    }
    if let Some(entry) = fields.get("timeout") {
        if entry.value.entries().is_some() {
            let known = ["attempt", "total", "heartbeat"];
            if let Some(timeout) = Fields::read(&entry.value, &known, "`timeout`", findings) {
                policy.attempt_ms = timeout.duration("attempt", findings);
                policy.total_ms = timeout.duration("total", findings);
                policy.heartbeat_ms = timeout.duration("heartbeat", findings);
            }
        } else {
            policy.attempt_ms = duration(&entry.value, "timeout", findings);
        }
        check_timeout(&policy, findings);
    }
    policy
}

fn check_retry(policy: &mut Policy, findings: &mut Findings) {
    if let Some(backoff) = policy
        .backoff
        .take_if(|b| !(1.0..=100.0).contains(&b.value))
    {
        findings.error(
            "bad-number",
            backoff.span,
            "`backoff` must be from 1 to 100: each delay is that many times the one before",
            None,
        );
    }
    if let (Some(delay), Some(most)) = (&policy.delay_ms, &policy.max_delay_ms)
        && most.value < delay.value
    {
        findings.error(
            "bad-retry",
            most.span,
            "`max_delay` is shorter than `delay`",
            "make it at least as long".to_owned(),
        );
    }
}

fn check_timeout(policy: &Policy, findings: &mut Findings) {
    for timeout in [&policy.attempt_ms, &policy.total_ms, &policy.heartbeat_ms]
        .into_iter()
        .flatten()
    {
        if timeout.value == 0 {
            findings.error(
                "bad-duration",
                timeout.span,
                "a timeout of no length would end every attempt at once",
                "give a duration, or leave it out".to_owned(),
            );
        }
    }
    if let (Some(attempt), Some(total)) = (&policy.attempt_ms, &policy.total_ms)
        && total.value < attempt.value
    {
        findings.error(
            "bad-timeout",
            total.span,
            "`total` is shorter than `attempt`: no attempt could take its time",
            "`total` is of all attempts and the waits between them".to_owned(),
        );
    }
}

/// The key `affinity`: `none`, or how long to wait.
fn affinity(fields: &Fields<'_>, findings: &mut Findings) -> Option<Spot<u64>> {
    let entry = fields.get("affinity")?;
    match &entry.value.kind {
        Kind::Scalar(Value::String(text)) if text == "none" => Some(Spot::new(0, entry.key_span)),
        Kind::Map(_) => {
            let affinity = Fields::read(&entry.value, &["wait"], "`affinity`", findings)?;
            let wait = affinity.duration("wait", findings)?;
            Some(Spot::new(wait.value, entry.key_span))
        }
        _ => {
            let wanted = "`none`, or `{ wait: 1s }`";
            wrong_type(findings, "affinity", wanted, &entry.value);
            None
        }
    }
}

fn resource(fields: &Fields<'_>, findings: &mut Findings) -> Option<Spot<String>> {
    let resource = fields.text("resource", findings)?;
    let name = &resource.value;
    let fits = name.len() <= 200
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./:".contains(c));
    if !fits {
        findings.error(
            "bad-resource",
            resource.span,
            format!("`{name}` cannot be the name of a resource class"),
            "a class begins with a small letter, as `cpu`, `accelerator` or `accelerator/llama-8b`"
                .to_owned(),
        );
        return None;
    }
    if name.starts_with("tidemill") {
        findings.error(
            "bad-resource",
            resource.span,
            format!("`{name}` is a queue of Tidemill's own"),
            "choose a name that does not begin with `tidemill`".to_owned(),
        );
        return None;
    }
    Some(resource)
}

/// The key `cache`; `None` when there is none or it is `false`.
pub(super) fn cache(fields: &Fields<'_>, findings: &mut Findings) -> Option<Cache> {
    let entry = fields.get("cache")?;
    let span = entry.key_span;
    match &entry.value.kind {
        Kind::Scalar(Value::Bool(false)) => None,
        Kind::Scalar(Value::Bool(true)) => Some(Cache {
            span,
            ttl_ms: None,
            key: None,
        }),
        Kind::Scalar(Value::String(_) | Value::Number(_)) => Some(Cache {
            span,
            ttl_ms: duration(&entry.value, "cache", findings).map(|ttl| ttl.value),
            key: None,
        }),
        Kind::Map(_) => {
            let cache = Fields::read(&entry.value, &["ttl", "key"], "`cache`", findings)?;
            Some(Cache {
                span,
                ttl_ms: cache.duration("ttl", findings).map(|ttl| ttl.value),
                key: cache.text("key", findings),
            })
        }
        _ => {
            wrong_type(
                findings,
                "cache",
                "true, a duration, or `{ ttl: 7d, key: … }`",
                &entry.value,
            );
            None
        }
    }
}

/// The keys `chunk`, `window` and `tolerate`.
pub(super) fn fan(fields: &Fields<'_>, findings: &mut Findings) -> Fan {
    Fan {
        chunk: fields.whole("chunk", 1, MOST_ITEMS, findings),
        window: fields.whole("window", 1, MOST_CHUNKS, findings),
        tolerate: share(fields, "tolerate", findings),
    }
}

fn share(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<Spot<f64>> {
    let entry = fields.get(key)?;
    let value = match &entry.value.kind {
        Kind::Scalar(Value::Number(number)) => number.as_f64(),
        Kind::Scalar(Value::String(text)) => text
            .trim()
            .strip_suffix('%')
            .and_then(|number| number.trim().parse::<f64>().ok())
            .map(|percent| percent / 100.0),
        _ => None,
    };
    match value.filter(|share| (0.0..=1.0).contains(share)) {
        Some(share) => Some(Spot::new(share, entry.value.span)),
        None => {
            let help = match value {
                Some(number) if number > 1.0 && number <= 100.0 => {
                    format!("did you mean `{number}%`?")
                }
                _ => "write it as 5% or 0.05".to_owned(),
            };
            findings.error(
                "bad-percentage",
                entry.value.span,
                format!("`{key}` must be a share of the items, from 0% to 100%"),
                help,
            );
            None
        }
    }
}
