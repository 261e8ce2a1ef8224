//! Blobs in an object store: memory, or a service that speaks S3's protocol.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use super::Error;
use super::blobs::{Blobs, Entry};

/// An object older than this is written again when it is put again, which is the only way to make
/// it young. Collections keep what is younger than their grace, so the grace must be longer.
const REFRESH_AFTER: Duration = Duration::from_secs(60 * 60);
/// How often and how long a request is tried again. The run that waits for the store tries for ever,
/// and says so: it should hear of it soon.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests under way at a time when many marks are made.
const CONCURRENCY: usize = 16;

pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    name: String,
}

pub(super) fn memory() -> Objects {
    Objects {
        store: Arc::new(object_store::memory::InMemory::new()),
        prefix: String::new(),
        name: "memory".to_owned(),
    }
}

/// `rest` is `bucket/prefix`; the usual variables say the rest.
pub(super) fn s3(rest: &str) -> Result<Objects, Error> {
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_default();
    // Whoever writes such an address means it.
    let plain = endpoint.starts_with("http://");
    s3_with(AmazonS3Builder::from_env().with_allow_http(plain), rest)
}

pub(super) fn s3_with(service: AmazonS3Builder, rest: &str) -> Result<Objects, Error> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    // The HTTP client wants one for the process; whoever came first may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = service
        .with_bucket_name(bucket)
        .with_retry(RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIMEOUT,
            ..Default::default()
        })
        .build()
        .map_err(|e| Error::Invalid(format!("artifact store s3://{rest}: {e}")))?;
    let prefix = prefix.trim_end_matches('/');
    Ok(Objects {
        store: Arc::new(store),
        prefix: if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        },
        name: format!("s3://{rest}"),
    })
}

impl Objects {
    /// The names are valid as they are: digests, and what `encode_name` returns.
    fn path(&self, path: &str) -> Result<Path, Error> {
        Path::parse(format!("{}{path}", self.prefix))
            .map_err(|e| Error::Invalid(format!("{path} cannot be stored in {}: {e}", self.name)))
    }

    fn error(&self, what: &str, path: &str, error: &object_store::Error) -> Error {
        Error::Unavailable(format!("cannot {what} {path} in {}: {error}", self.name))
    }

    async fn head(&self, path: &str) -> Result<Option<ObjectMeta>, Error> {
        match self.store.head(&self.path(path)?).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("look at", path, &e)),
        }
    }
}

fn age(meta: &ObjectMeta) -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::from(meta.last_modified))
        .unwrap_or_default()
}

#[async_trait]
impl Blobs for Objects {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let found = match self.store.get(&self.path(path)?).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(self.error("read", path, &e)),
        };
        let bytes = found.bytes().await;
        bytes.map(Some).map_err(|e| self.error("read", path, &e))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        self.store
            .put(&self.path(path)?, bytes.into())
            .await
            .map(|_| ())
            .map_err(|e| self.error("write", path, &e))
    }

    async fn write_once(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        match self.head(path).await? {
            Some(meta) if meta.size == bytes.len() as u64 && age(&meta) < REFRESH_AFTER => Ok(()),
            _ => self.write(path, bytes).await,
        }
    }

    async fn refresh(&self, path: &str) -> Result<bool, Error> {
        match self.head(path).await? {
            None => Ok(false),
            Some(meta) if age(&meta) < REFRESH_AFTER => Ok(true),
            Some(_) => match self.read(path).await? {
                None => Ok(false),
                Some(bytes) => self.write(path, bytes).await.map(|()| true),
            },
        }
    }

    async fn mark(&self, folder: &str, names: &[String]) -> Result<(), Error> {
        // Owned, because a future that borrows from the list is not known to be `Send`.
        let paths: Vec<String> = names.iter().map(|n| format!("{folder}/{n}")).collect();
        futures::stream::iter(paths)
            .map(|path| async move { self.write(&path, Bytes::new()).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let listed = self
            .store
            .list_with_delimiter(Some(&self.path(folder)?))
            .await
            .map_err(|e| self.error("list", folder, &e))?;
        let names = listed.common_prefixes.iter();
        let mut names: Vec<String> = names
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        let path = self.path(folder)?;
        let mut listed = self.store.list(Some(&path));
        let mut entries = Vec::new();
        while let Some(meta) = listed.next().await {
            let meta = meta.map_err(|e| self.error("list", folder, &e))?;
            if let Some(name) = meta.location.filename() {
                entries.push(Entry {
                    name: name.to_owned(),
                    bytes: meta.size,
                    age: age(&meta),
                });
            }
        }
        Ok(entries)
    }

    async fn remove(&self, path: &str) -> Result<(), Error> {
        match self.store.delete(&self.path(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("remove", path, &e)),
        }
    }

    async fn remove_old(&self, path: &str, age_min: Duration) -> Result<bool, Error> {
        // An object store cannot remove on the condition that nobody refreshed it. Between this look
        // and the removal lies one request; `REFRESH_AFTER` keeps all but that moment safe.
        match self.head(path).await? {
            Some(meta) if age(&meta) < age_min => Ok(false),
            Some(_) => self.remove(path).await.map(|()| true),
            None => Ok(true),
        }
    }

    async fn remove_folder(&self, _folder: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn tidy(&self, _age_min: Duration) -> Result<(), Error> {
        Ok(())
    }
}
