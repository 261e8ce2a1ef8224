//! What a worker is told when it starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// The class of work that needs only a CPU. Its workers also do the interpreter's internal tasks.
pub(crate) const CPU: &str = "cpu";
const ACCELERATOR: &str = "accelerator";

#[derive(Clone, Debug)]
pub struct Config {
    /// Where the engine listens: `host:port`, or a URL that begins with `http://` or `https://`.
    pub engine: String,
    pub namespace: String,
    /// How the engine and people call this worker.
    pub identity: String,
    pub offers: Vec<Offer>,
    /// Bytes of memory that tasks may use together. Kept for admission by memory: not looked at yet.
    pub memory: Option<u64>,
    /// URL of the artifact store, such as `file:///var/lib/tidemill/artifacts`.
    pub artifacts: String,
    /// The folder of embedded vector indexes and models.
    pub data: PathBuf,
    /// How long running tasks may go on after the worker was told to stop. What still runs then is
    /// cancelled and handed back.
    pub grace: Duration,
}

/// Tasks of one resource class, at most so many at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The resource class: a task queue.
    pub class: String,
    pub slots: usize,
}

impl Offer {
    pub fn new(class: impl Into<String>, slots: usize) -> Self {
        Self {
            class: class.into(),
            slots,
        }
    }
}

impl Config {
    /// A worker for everything: `cpu` with a slot for each core, `accelerator` with one, artifacts
    /// in the data folder.
    pub fn new(engine: impl Into<String>, data: impl AsRef<Path>) -> Self {
        let data = data.as_ref();
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            engine: engine.into(),
            namespace: "default".to_owned(),
            identity: format!("tidemill-worker@{}", std::process::id()),
            offers: vec![Offer::new(CPU, cores), Offer::new(ACCELERATOR, 1)],
            memory: None,
            artifacts: file_url(&data.join("artifacts")),
            data: data.to_owned(),
            grace: Duration::from_secs(10),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Config(what));
        if self.offers.is_empty() {
            return wrong("it offers no resource class: name at least one, such as cpu".to_owned());
        }
        if self.namespace.is_empty() {
            return wrong("the namespace is empty: `default` always exists".to_owned());
        }
        if self.identity.is_empty() {
            return wrong(
                "the identity is empty: any name that tells workers apart will do".into(),
            );
        }
        for (i, offer) in self.offers.iter().enumerate() {
            if offer.class.is_empty() {
                return wrong("a resource class has no name".to_owned());
            }
            if offer.slots == 0 {
                return wrong(format!(
                    "resource class {} has no slots: give it at least 1, or leave it out",
                    offer.class
                ));
            }
            if self.offers[..i].iter().any(|o| o.class == offer.class) {
                return wrong(format!("resource class {} is offered twice", offer.class));
            }
        }
        Ok(())
    }
}

fn file_url(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    format!("file://{}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_worker_can_be() {
        let refused = |change: fn(&mut Config), part: &str| {
            let mut config = Config::new("127.0.0.1:7233", "data");
            config.check().unwrap();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(|c| c.offers.clear(), "no resource class");
        refused(|c| c.offers[1].slots = 0, "accelerator has no slots");
        refused(|c| c.offers[1].class = CPU.into(), "cpu is offered twice");
        refused(|c| c.namespace.clear(), "namespace is empty");
        refused(|c| c.identity.clear(), "identity is empty");
    }
}
