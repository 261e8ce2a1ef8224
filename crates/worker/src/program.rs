//! A worker for stages of one's own, as a program: what its `main` has to say.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tidemill_pipeline::stage::StageType;
use tidemill_stages::Stage;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{Config, Offer, Registry, cpu_slots, serve};

/// Serves stages until SIGTERM or Ctrl-C. It is told by the variables that `tidemill` knows too:
/// `TIDEMILL_ENGINE`, `TIDEMILL_NAMESPACE`, `TIDEMILL_DATA`, `TIDEMILL_ARTIFACTS`; and by `RUST_LOG`
/// how much it says. Called with `describe` it prints its stage types as `stages.json`, which beside
/// a pipeline lets `tidemill` check the use of them.
pub struct Program {
    name: String,
    version: String,
    registry: Registry,
    own: Vec<StageType>,
}

impl Program {
    /// `version` is that of the stages' code: results that were cached under another are not used.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            // For stages that share a class with those that come with Tidemill.
            registry: Registry::builtin(),
            own: Vec::new(),
        }
    }

    #[must_use]
    pub fn stage(mut self, stage: impl Stage) -> Self {
        self.own.push(stage.describe());
        self.registry.add(Arc::new(stage), &self.version);
        self
    }

    /// What `main` returns.
    pub fn main(self) -> ExitCode {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let done = match arguments.as_slice() {
            [] => self.serve(),
            [describe] if describe == "describe" => {
                println!("{:#}", serde_json::json!(self.own));
                Ok(())
            }
            _ => {
                eprintln!("usage: {} [describe]", self.name);
                return ExitCode::from(2);
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error}", self.name);
                ExitCode::FAILURE
            }
        }
    }

    fn serve(&self) -> Result<(), Box<dyn std::error::Error>> {
        let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new("info"))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .init();
        let config = self.config(|name| std::env::var(name).ok());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let stop = CancellationToken::new();
            let told = stop.clone();
            let signal = signal()?;
            tokio::spawn(async move {
                signal.await;
                told.cancel();
            });
            Ok(serve(config, self.registry.clone(), stop).await?)
        })
    }

    fn config(&self, variable: impl Fn(&str) -> Option<String>) -> Config {
        let engine = variable("TIDEMILL_ENGINE").unwrap_or_else(|| "127.0.0.1:7233".to_owned());
        let data = variable("TIDEMILL_DATA").unwrap_or_else(|| ".tidemill".to_owned());
        let mut config = Config::new(engine, PathBuf::from(data));
        config.identity = format!("{}@{}", self.name, std::process::id());
        let classes: BTreeSet<&str> = self.own.iter().map(|of| of.resource.as_str()).collect();
        config.offers = classes
            .into_iter()
            .map(|class| Offer::new(class, cpu_slots(None)))
            .collect();
        if let Some(namespace) = variable("TIDEMILL_NAMESPACE") {
            config.namespace = namespace;
        }
        if let Some(artifacts) = variable("TIDEMILL_ARTIFACTS") {
            config.artifacts = artifacts;
        }
        config
    }
}

/// Listens at once, and is ready when the process is told to stop.
#[cfg(unix)]
fn signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without the signal it runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(test)]
mod tests {
    use tidemill_pipeline::stage::Kind;

    use super::*;
    use crate::testing::Toy;

    #[test]
    fn it_offers_the_classes_of_its_stages_and_reads_the_usual_variables() {
        let program = Program::new("toys", "2")
            .stage(Toy::new(Kind::Call, "toy.one"))
            .stage(Toy::new(Kind::Items, "toy.two"));
        let config = program.config(|name| Some(format!("of {name}")));
        assert_eq!(config.engine, "of TIDEMILL_ENGINE");
        assert_eq!(config.namespace, "of TIDEMILL_NAMESPACE");
        assert_eq!(config.artifacts, "of TIDEMILL_ARTIFACTS");
        assert_eq!(config.data, PathBuf::from("of TIDEMILL_DATA"));
        let classes: Vec<&str> = config.offers.iter().map(|o| o.class.as_str()).collect();
        assert_eq!(classes, ["cpu"], "both stages are of one class");
        let config = program.config(|_| None);
        assert_eq!(config.engine, "127.0.0.1:7233");
        assert!(config.artifacts.ends_with("/.tidemill/artifacts"));
        for name in ["toy.one", "toy.two", "documents.load"] {
            assert!(program.registry.get(name).is_some(), "{name}");
        }
    }
}
