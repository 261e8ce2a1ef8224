//! A batch on its way to a device: leased, the model resident, then run.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::Value;
use tidemill_connect::limiter::Limiter;
use tidemill_device::batch::{Error, Execute, Kind};
use tidemill_device::lease::{Holder, Lease, Never, Request};
use tidemill_device::model::{self, GetError, Loaded, Models, Resident};
use tidemill_device::{Admission, AdmitError, Admitted, Device};
use tidemill_stages::Stage;
use tidemill_stages::batched::{Place, Plan};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use super::devices::{Devices, Homes};

/// Runs the batches of one key.
pub(super) struct Executor {
    pub(super) stage: Arc<dyn Stage>,
    pub(super) with: Value,
    pub(super) plan: Plan,
    pub(super) request: Request,
    pub(super) devices: Arc<Devices>,
    pub(super) limit: Option<Arc<dyn Limiter>>,
    /// What the next batch waits for, for those who wait with it.
    pub(super) waiting: watch::Sender<Option<String>>,
}

/// What a batch holds until its end.
pub(super) struct Permit {
    lease: Option<Lease>,
    _resident: Option<Resident>,
    place: Place,
    _cancels: DropGuard,
}

#[async_trait]
impl Execute<Value, Value> for Executor {
    type Permit = Permit;

    fn scope(&self) -> String {
        self.plan.key.clone()
    }

    fn waits_for(&self) -> Option<String> {
        self.waiting.borrow().clone()
    }

    async fn admit(&self, items: usize, cost: u64) -> Result<Permit, Error> {
        let cancelled = CancellationToken::new();
        let cancels = cancelled.clone().drop_guard();
        let mut place = Place {
            devices: Vec::new(),
            model: Arc::new(()),
            cancelled,
            data: self.devices.data.clone(),
            limit: self.limit.clone(),
        };
        let (lease, resident) = match &self.devices.homes {
            Homes::Devices(admission) if self.plan.device => {
                let held = self.on_device(admission, &place, items, cost).await;
                // What a batch waited for is no news to the next.
                self.waiting.send_replace(None);
                held?
            }
            Homes::Devices(_) => (None, None),
            Homes::Host(models) => (None, self.on_host(models, &place).await?),
        };
        self.devices.refresh();
        if let Some(resident) = &resident {
            place.model = resident.value().clone();
        }
        if let Some(lease) = &lease {
            place.devices = lease.devices().to_vec();
        }
        Ok(Permit {
            lease,
            _resident: resident,
            place,
            _cancels: cancels,
        })
    }

    async fn execute(
        &self,
        permit: &mut Permit,
        items: Vec<Value>,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let Some(batched) = self.stage.batched() else {
            return Err(failed("the stage type has no batched form"));
        };
        let count = items.len();
        let run = batched.run(items, &self.with, &permit.place);
        let Some(lease) = &permit.lease else {
            return run.await;
        };
        let executions = lease.devices().iter();
        let executions: Vec<_> = executions
            .map(|device| self.devices.executions(device.name()).begin())
            .collect();
        tokio::select! {
            done = run => {
                if done.is_ok() {
                    executions.into_iter().for_each(|execution| execution.done(count));
                }
                done
            }
            () = lease.ended() => Err(Error {
                kind: Kind::Unavailable,
                message: format!("the lease of {} ended before the batch did", names(lease)),
                retry_after: None,
            }),
        }
    }
}

impl Executor {
    async fn on_device(
        &self,
        admission: &Admission,
        place: &Place,
        items: usize,
        cost: u64,
    ) -> Result<(Option<Lease>, Option<Resident>), Error> {
        let mut request = self.request.clone();
        // What the pipeline asks for is its author's word; otherwise it is the stage's estimate.
        if request.memory == 0 {
            let (fixed, each) = self.plan.memory;
            // More items may join until the batch is cut, so it is that of a full one.
            let (items, cost) = (items.max(1) as u64, cost.max(1));
            let full = cost.saturating_mul(self.plan.limits.items as u64) / items;
            let units = self.plan.limits.cost.unwrap_or(full).max(cost);
            request.memory = fixed.saturating_add(each.saturating_mul(units));
        }
        let holder = Holder {
            name: self.plan.key.clone(),
            attempt: 0,
        };
        let waiting = |reason: String| {
            self.waiting.send_replace(Some(reason));
        };
        // A stage that takes several devices at once spreads its model over them itself.
        let model = self.plan.model.as_ref();
        let Some(model) = model.filter(|_| request.devices == 1) else {
            let lease = admission.leases().acquire(request, holder, waiting).await;
            return Ok((Some(lease.map_err(|never| self.never(&never))?), None));
        };
        let load = |device: Arc<dyn Device>| self.load(&model.key, device, place);
        let admitted = admission.admit(request, holder, &model.key, model.bytes, load, waiting);
        match admitted.await {
            Ok(Admitted { resident, lease }) => Ok((Some(lease), Some(resident))),
            Err(AdmitError::Load(error)) => Err((*error).clone()),
            Err(AdmitError::TooLarge(reason)) => Err(too_large(reason)),
            Err(AdmitError::Never(never)) => Err(self.never(&never)),
        }
    }

    /// What the author asked for another worker may have; what the stage needs by its own account is
    /// too large.
    fn never(&self, never: &Never) -> Error {
        let kind = match self.request == Request::default() {
            true => Kind::ModelTooLarge,
            false => Kind::Unavailable,
        };
        Error::new(kind, never.to_string())
    }

    async fn on_host(
        &self,
        models: &Arc<Models>,
        place: &Place,
    ) -> Result<Option<Resident>, Error> {
        let Some(model) = &self.plan.model else {
            return Ok(None);
        };
        let load = || self.load(&model.key, models.device().clone(), place);
        match models.get(&model.key, model.bytes, load).await {
            Ok(resident) => Ok(Some(resident)),
            Err(GetError::Load(error)) => Err((*error).clone()),
            Err(GetError::TooLarge(reason)) => Err(too_large(reason)),
        }
    }

    async fn load(
        &self,
        key: &model::Key,
        device: Arc<dyn Device>,
        place: &Place,
    ) -> Result<Loaded, Error> {
        let Some(batched) = self.stage.batched() else {
            return Err(failed("the stage type has no batched form"));
        };
        let name = device.name().to_owned();
        let place = Place {
            devices: vec![device],
            model: Arc::new(()),
            cancelled: place.cancelled.clone(),
            data: place.data.clone(),
            limit: self.limit.clone(),
        };
        let begun = Instant::now();
        let loaded = batched.load(&self.with, &place).await?;
        info!(model = %key, device = name, elapsed = ?begun.elapsed(), "model loaded");
        Ok(Loaded {
            value: loaded.model,
            bytes: loaded.bytes,
        })
    }
}

fn too_large(reason: impl std::fmt::Display) -> Error {
    Error::new(Kind::ModelTooLarge, reason.to_string())
}

fn names(lease: &Lease) -> String {
    let names = lease.devices().iter().map(|device| device.name());
    names.collect::<Vec<_>>().join(", ")
}

fn failed(what: &str) -> Error {
    Error::new(Kind::Failed, what)
}
