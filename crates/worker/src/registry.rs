//! The stage types that a worker can run, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_pipeline::stage::{Catalog, StageType};
use tidemill_stages::{Settings, Stage};

/// Stage types by name. A later one replaces an earlier one of the same name.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<String, Entry>);

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) stage: Arc<dyn Stage>,
    pub(crate) of: StageType,
    /// The version of its code: another one gives other cache keys.
    pub(crate) version: String,
}

impl Registry {
    /// No stage at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The stages that come with Tidemill, with default settings.
    pub fn builtin() -> Self {
        Self::builtin_with(&Settings::default())
    }

    /// The stages that come with Tidemill.
    pub fn builtin_with(settings: &Settings) -> Self {
        let mut registry = Self::empty();
        for stage in tidemill_stages::builtin_with(settings) {
            registry.add(stage, env!("CARGO_PKG_VERSION"));
        }
        registry
    }

    /// Adds a stage. `version` names the version of its code: results that were cached under
    /// another version are not used.
    pub fn add(&mut self, stage: Arc<dyn Stage>, version: &str) -> &mut Self {
        let of = stage.describe();
        let entry = Entry {
            stage,
            of: of.clone(),
            version: version.to_owned(),
        };
        self.0.insert(of.name, entry);
        self
    }

    /// What pipelines may use, for checking them.
    pub fn catalog(&self) -> Catalog {
        let types = self.0.iter();
        types.map(|(k, e)| (k.clone(), e.of.clone())).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.0.get(name)
    }
}
