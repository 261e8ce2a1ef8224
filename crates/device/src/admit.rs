//! A device, memory for a batch and the model that it is for, granted together.
//!
//! Who held a model while waiting for memory, or memory while waiting for a model, could wait for
//! somebody who does the same. Here both are had at once or not at all, in the order of the
//! [queue for devices](crate::lease): a model is in use only by those who have all they need, so
//! that it is unused some day.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use crate::Device;
use crate::lease::{Holder, Lease, Leases, Never, Offered, Request};
use crate::ledger::Promise;
use crate::model::{GetError, Joined, Key, Loaded, Loading, ModelTooLarge, Models, Resident};

/// The devices of a worker, and the models on them.
pub struct Admission {
    leases: Arc<Leases>,
    models: Arc<BTreeMap<String, Arc<Models>>>,
}

/// What a batch needs to begin. It is best dropped as one: the model is unused before the device
/// is free, so that it can make room for what comes next.
#[derive(Debug)]
pub struct Admitted {
    pub resident: Resident,
    pub lease: Lease,
}

/// Why a batch cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError<E> {
    /// No device here can ever hold the model and the batch, or a later attempt has come.
    #[error(transparent)]
    Never(#[from] Never),
    /// No device here can ever hold the model.
    #[error(transparent)]
    TooLarge(#[from] ModelTooLarge),
    /// Loading the model failed, for all who waited for it.
    #[error("{0}")]
    Load(Arc<E>),
}

impl Admission {
    pub fn new(offered: Vec<Offered>) -> Arc<Self> {
        let leases = Leases::new(offered);
        let models = leases.devices().into_iter().filter_map(|device| {
            let ledger = leases.ledger(device.name())?;
            Some((device.name().to_owned(), Models::sharing(ledger)))
        });
        let models: Arc<BTreeMap<_, _>> = Arc::new(models.collect());
        let unused = Arc::clone(&models);
        leases.on_shortage(move |device, missing| {
            let models = unused.get(device);
            models.is_some_and(|models| models.make_room(missing))
        });
        Arc::new(Self { leases, models })
    }

    /// The devices; for work that needs no model.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// The models of the device of this name.
    pub fn models(&self, device: &str) -> Option<&Arc<Models>> {
        self.models.get(device)
    }

    /// The models of each device.
    pub fn all_models(&self) -> impl Iterator<Item = &Arc<Models>> {
        self.models.values()
    }

    /// Waits for a device that has room for the batch and for its model, one that holds the model
    /// already if possible, and loads it if need be. `request` is for one device, and its memory is
    /// that of the batch alone; `bytes_expected` is that of the model until it was loaded once and
    /// is known. `waiting` is told why it waits, and again when the reason changes. Dropping the
    /// future gives everything back.
    ///
    /// # Errors
    /// See [`AdmitError`].
    pub async fn admit<E, F, L>(
        &self,
        request: Request,
        holder: Holder,
        key: &Key,
        bytes_expected: u64,
        load: F,
        waiting: impl Fn(String) + Send + Sync,
    ) -> Result<Admitted, AdmitError<E>>
    where
        F: FnOnce(Arc<dyn Device>) -> L,
        L: Future<Output = Result<Loaded, E>>,
        E: Send + Sync + 'static,
    {
        self.can_ever(&request, key, bytes_expected)?;
        let wanted = Wanted {
            key: key.clone(),
            expected: bytes_expected,
            models: Arc::clone(&self.models),
        };
        loop {
            let (request, holder) = (request.clone(), holder.clone());
            let wanted = Some(wanted.clone());
            let mut lease = self.leases.wait(request, holder, wanted, &waiting).await?;
            let device = Arc::clone(&lease.devices()[0]);
            let pinned = lease.pinned().expect("a model was asked for");
            let resident = match pinned {
                Pinned::Resident(resident) => Some(resident),
                Pinned::Load(loading, promise) => {
                    let load = || load(device);
                    let got = loading.run(promise, bytes_expected, load).await;
                    return got
                        .map_err(AdmitError::from)
                        .map(|resident| Admitted { resident, lease });
                }
                Pinned::Joined(joined) => {
                    let failed = joined.failed().await;
                    if let Some(error) = failed {
                        return Err(AdmitError::Load(error));
                    }
                    let models = self.models(device.name());
                    models.and_then(|models| models.get_if_held(key))
                }
            };
            if let Some(resident) = resident {
                return Ok(Admitted { resident, lease });
            }
            // Whoever loaded it has gone, and the memory for it was his.
        }
    }

    /// Whether these devices could hold the batch and its model if nobody else used them.
    ///
    /// # Errors
    /// What is missing, with numbers, or what is wrong with the request.
    pub fn can_ever<E>(
        &self,
        request: &Request,
        key: &Key,
        bytes_expected: u64,
    ) -> Result<(), AdmitError<E>> {
        let only = |memory: u64| Request {
            memory,
            ..request.clone()
        };
        if request.devices > 1 {
            let text = format!("asks for {} devices for a model of one", request.devices);
            return Err(Never(text).into());
        }
        self.leases.can_ever(&only(0))?;
        if let Err(Never(_)) = self.leases.can_ever(&only(bytes_expected)) {
            let ledgers = self.leases.candidates_of(request);
            let largest = ledgers
                .filter_map(|ledger| Some((ledger.limit().ok()?, ledger)))
                .max_by_key(|(limit, _)| *limit);
            if let Some((limit, ledger)) = largest {
                return Err(AdmitError::TooLarge(ModelTooLarge {
                    key: key.clone(),
                    device: ledger.device().name().to_owned(),
                    needs: bytes_expected,
                    limit,
                }));
            }
        }
        self.leases
            .can_ever(&only(bytes_expected.saturating_add(request.memory)))?;
        Ok(())
    }
}

impl<E> From<GetError<E>> for AdmitError<E> {
    fn from(error: GetError<E>) -> Self {
        match error {
            GetError::Load(error) => Self::Load(error),
            GetError::TooLarge(error) => Self::TooLarge(error),
        }
    }
}

/// A model that is wanted with a device.
#[derive(Clone)]
pub(crate) struct Wanted {
    key: Key,
    expected: u64,
    models: Arc<BTreeMap<String, Arc<Models>>>,
}

/// A model on a device, or what is needed to have it there.
pub(crate) enum Pinned {
    Resident(Resident),
    /// Somebody loads it, with memory of his own.
    Joined(Joined),
    Load(Loading, Promise),
}

impl Wanted {
    /// Bytes that it takes on this device beside what is held there and a batch of so many.
    pub(crate) fn needs(&self, device: &str, batch: u64) -> u64 {
        let models = self.models.get(device);
        models.map_or(0, |models| {
            models.would_take(&self.key, self.expected, batch)
        })
    }

    /// Takes it, if there is room for so many bytes.
    pub(crate) fn pin(&self, device: &str, bytes: u64) -> Option<Pinned> {
        self.models.get(device)?.pin(&self.key, bytes)
    }
}
