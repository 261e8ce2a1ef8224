//! `GET /v1/queues` and `GET /v1/queues/CLASS`: the figures of resource classes as JSON, for
//! autoscalers. Their names are an interface: `deploy/` and others' manifests read them.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use tidemill_worker::http::{Body, Routes, json};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::gather::{Asked, Source};
use super::report::Class;

const PATH: &str = "/v1/queues";
/// Many who ask within this time are one who asks.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct All {
    queues: BTreeMap<String, Class>,
}

#[derive(Serialize)]
struct Refused {
    error: String,
}

/// Looks at all classes for those who ask.
pub(crate) struct Watch {
    source: Source,
    last: Mutex<Option<(Instant, Vec<Class>)>>,
}

impl Watch {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            last: Mutex::default(),
        }
    }

    async fn all(&self) -> Result<Vec<Class>, String> {
        let mut last = self.last.lock().await;
        if let Some((at, classes)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(classes.clone());
        }
        let asked = Asked {
            classes: &[],
            others: true,
            held: false,
        };
        let classes = self.source.classes(&asked).await?;
        *last = Some((Instant::now(), classes.clone()));
        Ok(classes)
    }

    async fn one(&self, name: String) -> Result<Class, String> {
        let classes = [name];
        let asked = Asked {
            classes: &classes,
            others: false,
            held: false,
        };
        let mut found = self.source.classes(&asked).await?;
        found.pop().ok_or_else(|| "nothing was found".to_owned())
    }

    /// The figures for Prometheus; nothing while the engine is away.
    pub(crate) async fn metrics(&self) -> String {
        let classes = self.all().await.unwrap_or_default();
        metrics(&classes)
    }
}

/// Mounts both paths. A class that nobody knows has figures of zero: a scaler may ask before the first
/// worker or task is there.
pub(crate) fn mount(routes: Routes, watch: Arc<Watch>) -> Routes {
    let of_all = watch.clone();
    routes
        .get(PATH, move |_| {
            let watch = of_all.clone();
            async move {
                answer(watch.all().await.map(|classes| {
                    let named = classes
                        .into_iter()
                        .map(|class| (class.class.clone(), class));
                    let queues = named.collect();
                    All { queues }
                }))
            }
        })
        .get(format!("{PATH}/"), move |request| {
            let watch = watch.clone();
            async move {
                let name = &request.uri().path()[PATH.len() + 1..];
                match decoded(name) {
                    Some(name) => answer(watch.one(name).await),
                    None => {
                        let error = format!("`{name}` is no name of a resource class");
                        json(StatusCode::NOT_FOUND, &Refused { error })
                    }
                }
            }
        })
}

/// In the text that Prometheus reads.
fn metrics(classes: &[Class]) -> String {
    type Figure = fn(&Class) -> f64;
    let figures: [(&str, &str, Figure); 7] = [
        ("wait_seconds", "How long a task waits for its start", |c| {
            c.wait_seconds
        }),
        ("backlog", "Tasks that wait", |c| c.backlog as f64),
        (
            "backlog_age_seconds",
            "How long the oldest of them has waited",
            |c| c.backlog_age_seconds,
        ),
        ("add_rate", "Tasks that come, each second", |c| c.add_rate),
        (
            "dispatch_rate",
            "Tasks that workers take, each second",
            |c| c.dispatch_rate,
        ),
        ("busy_ratio", "Slots in use to all slots", |c| c.busy),
        ("workers", "Workers that serve the class", |c| {
            c.workers as f64
        }),
    ];
    let mut text = String::new();
    for (name, help, figure) in figures {
        let name = format!("tidemill_queue_{name}");
        text += &format!("# HELP {name} {help}.\n# TYPE {name} gauge\n");
        for class in classes {
            let label = class.class.replace('\\', "\\\\").replace('"', "\\\"");
            let label = label.replace('\n', "\\n");
            text += &format!("{name}{{class=\"{label}\"}} {:?}\n", figure(class));
        }
    }
    text
}

fn answer(result: Result<impl Serialize, String>) -> http::Response<Body> {
    match result {
        Ok(body) => json(StatusCode::OK, &body),
        // A scaler must not take an engine that is away for one without work.
        Err(error) => json(StatusCode::SERVICE_UNAVAILABLE, &Refused { error }),
    }
}

/// A path's part as text: `%2F` is a slash. `None` when it is empty or no UTF-8.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |b: u8| char::from(b).to_digit(16);
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                bytes.push(u8::try_from(hex(*high)? * 16 + hex(*low)?).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::queues::report;

    #[test]
    fn names_may_be_percent_encoded() {
        for (part, name) in [
            ("cpu", Some("cpu")),
            ("accelerator/minilm", Some("accelerator/minilm")),
            ("accelerator%2Fm%C3%BCll", Some("accelerator/müll")),
            ("", None),
            ("a%2", None),
            ("a%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(part).as_deref(), name, "{part}");
        }
    }

    #[test]
    fn the_same_figures_are_metrics() {
        let class = report::class("a\"b", "here:1", Vec::new(), &[], &[]);
        let text = metrics(&[class]);
        assert!(
            text.contains("# TYPE tidemill_queue_wait_seconds gauge\n"),
            "{text}"
        );
        let line = "tidemill_queue_wait_seconds{class=\"a\\\"b\"} 0.0\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_figures_that_manifests_read_have_stable_names() {
        let class = report::class("gpu", "here:1", Vec::new(), &[], &[]);
        let value = serde_json::to_value(&class).unwrap();
        for name in [
            "backlog",
            "backlog_age_seconds",
            "add_rate",
            "dispatch_rate",
            "wait_seconds",
            "busy",
            "slots",
            "slots_used",
            "pollers",
            "workers",
        ] {
            assert!(value[name].is_number(), "{name} of {value}");
        }
    }
}
