//! The artifact store as tasks use it: values, parts and collections instead of bytes, and errors
//! that say whether to wait for the store.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidemill_connect::artifacts::{Artifacts, Error as StoreError};
use tidemill_pipeline::data::{Collection, Manifest, Part};
use tidemill_pipeline::task::Input;
use tidemill_stages::{Error, ErrorKind};

/// A store seen from a run: what is put through it is kept as long as the run is.
#[derive(Clone)]
pub(crate) struct Store {
    artifacts: Artifacts,
}

impl Store {
    pub(crate) fn new(artifacts: Artifacts) -> Self {
        Self { artifacts }
    }

    pub(crate) fn for_run(&self, run: &str) -> Self {
        Self::new(self.artifacts.for_run(run))
    }

    pub(crate) fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// The value with the JSON that its references stand for in their place. References to
    /// collections stay, and those to artifacts that are not JSON.
    pub(crate) async fn resolve(&self, value: Value) -> Result<Value, Error> {
        self.artifacts.resolve(value).await.map_err(failed)
    }

    /// A value as it travels: itself, or a reference if it is large.
    pub(crate) async fn claim_check(&self, value: Value) -> Result<Value, Error> {
        self.artifacts.claim(value).await.map_err(failed)
    }

    pub(crate) async fn part(&self, digest: &str) -> Result<Part, Error> {
        self.artifacts.get_part(digest).await.map_err(failed)
    }

    pub(crate) async fn put_part(&self, part: &Part) -> Result<String, Error> {
        let artifact = self.artifacts.put_part(part).await.map_err(failed)?;
        Ok(artifact.digest)
    }

    pub(crate) async fn manifest(&self, digest: &str) -> Result<Arc<Manifest>, Error> {
        self.artifacts.get_manifest(digest).await.map_err(failed)
    }

    pub(crate) async fn put_collection(&self, manifest: Manifest) -> Result<Collection, Error> {
        self.artifacts
            .put_collection(manifest)
            .await
            .map_err(failed)
    }

    /// What one chunk of a fan-out consists of.
    pub(crate) async fn chunk(&self, input: &Input) -> Result<Part, Error> {
        match input {
            Input::Part(digest) => self.part(digest).await,
            Input::Chunk(chunk) => self.artifacts.chunk(chunk).await.map_err(failed),
            Input::Value(_) => Err(Error::invalid("its input is no chunk of a collection")),
        }
    }

    /// Keeps what an earlier run needs for as long as what this one does.
    pub(crate) async fn keep_run(&self, earlier: &str) -> Result<(), Error> {
        self.artifacts.keep_run(earlier).await.map_err(failed)
    }

    pub(crate) async fn cached(&self, key: &str, ttl: Duration) -> Result<Option<Value>, Error> {
        self.artifacts.cached(key, ttl).await.map_err(failed)
    }

    pub(crate) async fn put_cached(
        &self,
        key: &str,
        value: Value,
        ttl: Duration,
    ) -> Result<(), Error> {
        // What it needs is named in it.
        let put = self.artifacts.put_cached(key, value, ttl, Vec::new());
        put.await.map_err(failed)
    }
}

fn failed(error: StoreError) -> Error {
    let kind = match &error {
        StoreError::Unavailable(_) => ErrorKind::ArtifactStoreUnavailable,
        // Perhaps another machine has it.
        StoreError::Missing(_) | StoreError::Corrupt(_) => ErrorKind::Failed,
        StoreError::Invalid(_) => ErrorKind::Invalid,
    };
    Error::new(kind, error.to_string())
}
