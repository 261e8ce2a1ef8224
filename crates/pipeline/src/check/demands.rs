//! What stages ask of workers: whether it means something for the stage type and its class.

use serde_json::Value;

use crate::plan::{Affinity, Demands};
use crate::resource::CPU;
use crate::spec::Uses;
use crate::stage::{PYTHON_CALL, StageType};
use crate::template;

use super::lower::Lowering;

/// How long a task waits for a worker that has its model loaded, unless the author says otherwise.
const AFFINITY_WAIT_MS: u64 = 1_000;

impl Lowering<'_> {
    /// What the tasks of a stage ask of the workers of `resource`.
    pub(super) fn demands(&mut self, uses: &Uses, kind: &StageType, resource: &str) -> Demands {
        let asked = &uses.demands;
        if let Some(batch) = &asked.batch
            && kind.batched.is_none()
            && kind.name != PYTHON_CALL
        {
            let catalog = &self.shared.catalog;
            let batched = catalog.values().filter(|kind| kind.batched.is_some());
            let mut names: Vec<&str> = batched.map(|kind| kind.name.as_str()).collect();
            names.push(PYTHON_CALL);
            self.findings.error(
                "not-batched",
                batch.span,
                format!("{} does not run in batches", kind.name),
                format!("these do: {}", names.join(", ")),
            );
        }
        if let Some(device) = &asked.device
            && resource == CPU
        {
            self.findings.error(
                "device-on-cpu",
                device.span,
                "the stage runs on `cpu`, whose workers lend no devices",
                "say `resource: accelerator`, or remove `device`".to_owned(),
            );
        }
        let general = &self.spec.defaults.priority;
        let priority = uses.policy.priority.as_ref().or(general.as_ref());
        Demands {
            batch: asked.batch.as_ref().map(|batch| batch.value.clone()),
            device: asked.device.as_ref().map(|device| device.value.clone()),
            limit: asked.limit.clone(),
            priority: priority.and_then(|priority| u8::try_from(priority.value).ok()),
        }
    }

    /// The affinity of a stage's tasks, if they have one.
    pub(super) fn affinity(
        &mut self,
        uses: &Uses,
        kind: &StageType,
        resource: &str,
        with: &Value,
    ) -> Option<Affinity> {
        let own = &uses.policy.affinity_ms;
        match parameter(kind, resource, with) {
            Ok(parameter) => {
                let wait = own.as_ref().or(self.spec.defaults.affinity_ms.as_ref());
                let wait_ms = wait.map_or(AFFINITY_WAIT_MS, |wait| wait.value);
                (wait_ms > 0).then_some(Affinity { parameter, wait_ms })
            }
            Err(why) => {
                if let Some(own) = own.as_ref().filter(|wait| wait.value > 0) {
                    self.findings.error(
                        "no-affinity",
                        own.span,
                        format!("no worker can be preferred for this stage: {why}"),
                        "remove `affinity`".to_owned(),
                    );
                }
                None
            }
        }
    }
}

/// The parameter that names the model by which workers are told apart, or why there is none.
fn parameter(kind: &StageType, resource: &str, with: &Value) -> Result<String, String> {
    let batched = kind.batched.as_ref();
    let Some(parameter) = batched.and_then(|batched| batched.model.clone()) else {
        return Err(format!("{} loads no model that it names", kind.name));
    };
    if resource == CPU {
        return Err("the stage runs on `cpu`".to_owned());
    }
    if resource.contains('/') {
        return Err(format!("`{resource}` is one queue already"));
    }
    match with.get(&parameter) {
        Some(Value::String(model)) if template::speaks_of_item(model) => {
            Err(format!("`{parameter}` is another for each item"))
        }
        Some(Value::String(model)) if !model.is_empty() => Ok(parameter),
        _ => Err(format!("its `{parameter}` is no name of a model")),
    }
}
