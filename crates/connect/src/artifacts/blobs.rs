//! What the artifact store needs from the place in which it lies.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Error;

/// Named bytes. Paths are relative, with `/` between their segments.
#[async_trait]
pub(super) trait Blobs: Send + Sync {
    /// The place, for messages.
    fn name(&self) -> String;

    async fn read(&self, path: &str) -> Result<Option<Bytes>, Error>;

    /// Writes whole or not at all, over what is there. It may be lost when the machine crashes.
    async fn write(&self, path: &str, bytes: Bytes) -> Result<(), Error>;

    /// Writes whole or not at all, and durably, unless bytes of that number are there already; then
    /// they count as young again.
    async fn write_once(&self, path: &str, bytes: Bytes) -> Result<(), Error>;

    /// Makes what is there young again; `false` if nothing is.
    async fn refresh(&self, path: &str) -> Result<bool, Error>;

    /// Makes empty blobs in a folder, durably.
    async fn mark(&self, folder: &str, names: &[String]) -> Result<(), Error>;

    /// The folders directly in a folder, by name.
    async fn folders(&self, folder: &str) -> Result<Vec<String>, Error>;

    /// The blobs in a folder and its folders.
    async fn list(&self, folder: &str) -> Result<Vec<Entry>, Error>;

    /// Removes a blob if it is there.
    async fn remove(&self, path: &str) -> Result<(), Error>;

    /// Removes a blob unless it has become young meanwhile; says whether it is gone.
    async fn remove_old(&self, path: &str, age_min: Duration) -> Result<bool, Error>;

    /// Removes a folder if it is empty.
    async fn remove_folder(&self, folder: &str) -> Result<(), Error>;

    /// Ends what a crashed process left half done; `age_min` tells it from what goes on now.
    async fn tidy(&self, age_min: Duration) -> Result<(), Error>;
}

/// A blob in a listing.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The last segment of its path.
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Since it was written or refreshed.
    pub(super) age: Duration,
}
