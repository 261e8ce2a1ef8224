//! `batch`, `device` and `limit`: what a stage asks of the workers that run it.

use serde_json::Value;

use super::value::{Fields, text, wrong_type};
use crate::diagnostic::Findings;
use crate::plan::{Batch, Device, Limit};
use crate::size;
use crate::spec::{Demands, Spot};
use crate::yaml::{Entry, Kind};

const MOST_ITEMS: u64 = 100_000;
const MOST_COST: u64 = 1_000_000_000;
const MOST_DEVICES: u64 = 1_024;
const MOST_WEIGHT: u64 = 1_000_000;

pub(super) fn read(fields: &Fields<'_>, findings: &mut Findings) -> Demands {
    Demands {
        batch: batch(fields, findings),
        device: device(fields, findings),
        limit: limit(fields, findings),
    }
}

fn batch(fields: &Fields<'_>, findings: &mut Findings) -> Option<Spot<Batch>> {
    let entry = fields.get("batch")?;
    let whole = |number: Option<Spot<u32>>| number.map(|number| number.value);
    if let Kind::Scalar(Value::Number(_)) = entry.value.kind {
        let batch = Batch {
            items: whole(fields.whole("batch", 1, MOST_ITEMS, findings)),
            ..Batch::default()
        };
        return Some(Spot::new(batch, entry.key_span));
    }
    let known = ["items", "delay", "cost", "expires"];
    if !is_map(
        entry,
        "a number of items, or `{ items: 32, delay: 10ms }`",
        findings,
    ) {
        return None;
    }
    let fields = Fields::read(&entry.value, &known, "`batch`", findings)?;
    let expires = fields.duration("expires", findings);
    let delay = fields.duration("delay", findings);
    if let Some(expires) = &expires
        && expires.value <= delay.as_ref().map_or(0, |delay| delay.value)
    {
        findings.error(
            "bad-batch",
            expires.span,
            "an item would expire before its batch is due",
            "make `expires` longer than `delay`".to_owned(),
        );
    }
    let batch = Batch {
        items: whole(fields.whole("items", 1, MOST_ITEMS, findings)),
        delay_ms: delay.map(|delay| delay.value),
        cost: whole(fields.whole("cost", 1, MOST_COST, findings)).map(u64::from),
        expires_ms: expires.map(|expires| expires.value),
    };
    Some(Spot::new(batch, entry.key_span))
}

fn device(fields: &Fields<'_>, findings: &mut Findings) -> Option<Spot<Device>> {
    let entry = fields.get("device")?;
    let known = ["count", "share", "memory"];
    if !is_map(
        entry,
        "a mapping such as `{ share: 0.5, memory: 40GiB }`",
        findings,
    ) {
        return None;
    }
    let fields = Fields::read(&entry.value, &known, "`device`", findings)?;
    let whole = Device::default();
    let device = Device {
        count: fields
            .whole("count", 1, MOST_DEVICES, findings)
            .map_or(whole.count, |count| count.value),
        share: share(&fields, findings).unwrap_or(whole.share),
        memory: memory(&fields, findings).unwrap_or(whole.memory),
    };
    Some(Spot::new(device, entry.key_span))
}

fn share(fields: &Fields<'_>, findings: &mut Findings) -> Option<f64> {
    let share = fields.number("share", findings)?;
    if share.value > 0.0 && share.value <= 1.0 {
        return Some(share.value);
    }
    let help = if share.value > 1.0 {
        "for more than one device, write `count`"
    } else {
        "1 is a whole device, 0.5 half of one"
    };
    findings.error(
        "bad-share",
        share.span,
        "`share` must be more than 0 and at most 1",
        help.to_owned(),
    );
    None
}

fn memory(fields: &Fields<'_>, findings: &mut Findings) -> Option<u64> {
    let entry = fields.get("memory")?;
    let text = match &entry.value.kind {
        Kind::Scalar(Value::String(text)) => text.clone(),
        Kind::Scalar(Value::Number(number)) => number.to_string(),
        _ => {
            wrong_type(findings, "memory", "a size such as 16GiB", &entry.value);
            return None;
        }
    };
    match size::parse(&text) {
        Ok(bytes) => Some(bytes),
        Err(_) => {
            findings.error(
                "bad-size",
                entry.value.span,
                format!("`{text}` is not a size"),
                "sizes are written as 512MiB, 16GiB or 2GB".to_owned(),
            );
            None
        }
    }
}

fn limit(fields: &Fields<'_>, findings: &mut Findings) -> Option<Limit> {
    let entry = fields.get("limit")?;
    let (name, weight) = match &entry.value.kind {
        Kind::Map(_) => {
            let limit = Fields::read(&entry.value, &["name", "weight"], "`limit`", findings)?;
            if limit.get("name").is_none() {
                super::value::missing(findings, "name", "`limit`", entry.key_span);
            }
            let weight = limit.whole("weight", 1, MOST_WEIGHT, findings);
            (limit.text("name", findings)?, weight)
        }
        Kind::Scalar(Value::String(_)) => (text(&entry.value, "limit", findings)?, None),
        _ => {
            let wanted = "the name of a limit, or `{ name: …, weight: 2 }`";
            wrong_type(findings, "limit", wanted, &entry.value);
            return None;
        }
    };
    let fits = (1..=100).contains(&name.value.len())
        && name
            .value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c));
    if !fits {
        findings.error(
            "bad-limit",
            name.span,
            format!("`{}` cannot be the name of a limit", name.value),
            "use up to 100 letters, digits, `-`, `_`, `.`, `:` and `/`".to_owned(),
        );
        return None;
    }
    Some(Limit {
        name: name.value,
        weight: weight.map_or(1, |weight| weight.value),
    })
}

/// Whether it is a mapping; if not, `wanted` says what would be right.
fn is_map(entry: &Entry, wanted: &str, findings: &mut Findings) -> bool {
    let is = matches!(entry.value.kind, Kind::Map(_));
    if !is {
        wrong_type(findings, &entry.key, wanted, &entry.value);
    }
    is
}
