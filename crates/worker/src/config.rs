//! What a worker is told when it starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemill_connect::stream::Streams;

use crate::Error;
use crate::metrics::Metrics;
use crate::offer::Offer;

/// The class of work that needs only a CPU. Its workers also do the interpreter's internal tasks.
pub const CPU: &str = "cpu";
/// The class of work that needs an accelerator.
pub const ACCELERATOR: &str = "accelerator";

#[derive(Clone, Debug)]
pub struct Config {
    /// Where the engine listens: `host:port`, or a URL that begins with `http://` or `https://`.
    pub engine: String,
    pub namespace: String,
    /// How the engine and people call this worker.
    pub identity: String,
    pub offers: Vec<Offer>,
    /// URL of the artifact store, such as `file:///var/lib/tidemill/artifacts`.
    pub artifacts: String,
    /// The folder of embedded vector indexes and models.
    pub data: PathBuf,
    /// How long running tasks may go on after the worker was told to stop. What still runs then is
    /// cancelled and handed back.
    pub grace: Duration,
    /// Where what it does is counted.
    pub metrics: Arc<Metrics>,
    /// Where models put what they say word by word, for those who watch.
    pub streams: Streams,
}

impl Config {
    /// A worker for everything: `cpu` with a slot for each core, `accelerator` on the host's CPU as
    /// its device, artifacts in the data folder.
    pub fn new(engine: impl Into<String>, data: impl AsRef<Path>) -> Self {
        let data = data.as_ref();
        Self {
            engine: engine.into(),
            namespace: "default".to_owned(),
            identity: identity(),
            offers: vec![
                Offer::new(CPU, cpu_slots(None)),
                Offer::on_device(ACCELERATOR, "cpu"),
            ],
            artifacts: file_url(&data.join("artifacts")),
            data: data.to_owned(),
            grace: Duration::from_secs(10),
            metrics: Metrics::new(),
            streams: Streams::default(),
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

/// Slots for `cpu`: one for each core, and no more than a memory budget lets run together, but one at
/// least.
pub fn cpu_slots(memory: Option<Memory>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    memory.map_or(cores, |memory| memory.fit().min(cores))
}

/// What tasks may use together, and what one is expected to use at most, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub budget: u64,
    pub per_task: u64,
}

impl Memory {
    /// Tasks that fit, one at least.
    pub fn fit(self) -> usize {
        let fit = self.budget / self.per_task.max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).max(1)
    }
}

/// Told apart on all machines: in containers every process may be the first.
fn identity() -> String {
    let host = sysinfo::System::host_name().unwrap_or_else(|| "unknown".to_owned());
    format!("tidemill-worker-{}@{host}", std::process::id())
}

fn file_url(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    format!("file://{}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_by_memory() {
        let fit = |budget, per_task| Memory { budget, per_task }.fit();
        assert_eq!(fit(16, 3), 5);
        assert_eq!(fit(1, 3), 1);
        assert_eq!(fit(16, 0), 16);
        let one = Memory {
            budget: 1,
            per_task: 1,
        };
        assert_eq!(cpu_slots(Some(one)), 1);
        assert!(cpu_slots(None) >= 1);
    }

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
