//! Whether the workers that there are could ever run a plan. What they have they say in their heartbeats,
//! and the engine lists them.

use std::collections::BTreeMap;

use temporalio_client::tonic::{IntoRequest, Status};
use temporalio_common::protos::temporal::api::enums::v1::WorkerStatus;
use temporalio_common::protos::temporal::api::worker::v1::WorkerListInfo;
use temporalio_common::protos::temporal::api::workflowservice::v1::ListWorkersRequest;
use tidemill_pipeline::device::{self, Advertised, Worker};
use tidemill_pipeline::plan::{Plan, Step, Work};

use crate::client::{Error, Pipelines};

impl Pipelines {
    /// Refuses a plan with a stage that asks for devices which no worker of its class could ever lend.
    /// Returns the classes of such stages that nobody is known to serve: a worker that has just begun
    /// may not have said so yet.
    ///
    /// A server that does not list workers is not asked again: the task waits, and its worker says why.
    ///
    /// # Errors
    /// [`Error::Unsatisfiable`], with what was asked for and what there is.
    pub async fn placeable(&self, plan: &Plan) -> Result<Vec<String>, Error> {
        let mut asking = Vec::new();
        demanding(plan, &mut asking);
        let mut classes = BTreeMap::new();
        let mut refusals = Vec::new();
        for step in &asking {
            let class = &step.resource;
            if !classes.contains_key(class) {
                let workers = match self.workers(class).await {
                    Ok(workers) => workers,
                    Err(status) => {
                        tracing::debug!(%status, "workers are not listed");
                        return Ok(Vec::new());
                    }
                };
                classes.insert(class.clone(), workers);
            }
            if let Some(asked) = &step.demands.device {
                refusals.extend(device::refusal(&step.id, class, asked, &classes[class]));
            }
        }
        if !refusals.is_empty() {
            return Err(Error::Unsatisfiable(refusals.join("\n")));
        }
        let unserved = classes
            .into_iter()
            .filter(|(_, workers)| workers.is_empty());
        Ok(unserved.map(|(class, _)| class).collect())
    }

    /// The workers of a class that have not taken their leave.
    async fn workers(&self, class: &str) -> Result<Vec<Worker>, Status> {
        let mut service = self.client().connection().workflow_service();
        let mut found = Vec::new();
        let mut request = ListWorkersRequest {
            namespace: self.client().options().namespace.clone(),
            // Names of classes have no quotes in them.
            query: format!("TaskQueue = '{class}'"),
            ..Default::default()
        };
        loop {
            let page = service.list_workers(request.clone().into_request()).await?;
            let page = page.into_inner();
            found.extend(page.workers);
            if page.next_page_token.is_empty() {
                return Ok(processes(found));
            }
            request.next_page_token = page.next_page_token;
        }
    }
}

/// Steps that ask for devices, those of called pipelines too.
fn demanding<'p>(plan: &'p Plan, into: &mut Vec<&'p Step>) {
    for node in plan.all_nodes() {
        let steps = match &node.work {
            Work::Task(step) => std::slice::from_ref(step),
            Work::FanOut(fan_out) => &fan_out.steps[..],
            Work::Call(call) => {
                demanding(&call.plan, into);
                &[]
            }
            Work::Approve(_) | Work::Join(_) => &[],
        };
        into.extend(steps.iter().filter(|step| step.demands.device.is_some()));
    }
}

/// A process may be listed more than once, and say what it has in one of them only.
fn processes(listed: Vec<WorkerListInfo>) -> Vec<Worker> {
    let mut processes: BTreeMap<(String, String), Worker> = BTreeMap::new();
    for worker in listed {
        if matches!(
            worker.status(),
            WorkerStatus::Shutdown | WorkerStatus::ShuttingDown
        ) {
            continue;
        }
        let process = match worker.process_id.as_str() {
            "" => worker.worker_instance_key.clone(),
            id => id.to_owned(),
        };
        let host = match worker.host_name.as_str() {
            "" => worker.worker_identity.clone(),
            name => name.to_owned(),
        };
        let known = processes
            .entry((host.clone(), process))
            .or_insert_with(|| Worker {
                host,
                devices: Vec::new(),
            });
        let plugins = worker.plugins.iter();
        for device in plugins.filter_map(|p| Advertised::from_plugin(&p.name, &p.version)) {
            if known.devices.iter().all(|other| other.name != device.name) {
                known.devices.push(device);
            }
        }
        known.devices.sort_by(|a, b| a.name.cmp(&b.name));
    }
    processes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use temporalio_common::protos::temporal::api::worker::v1::PluginInfo;

    use super::*;

    fn listed(key: &str, process: &str, status: WorkerStatus, devices: &[&str]) -> WorkerListInfo {
        let plugins = devices.iter().map(|name| {
            let (name, version) = Advertised {
                name: (*name).to_owned(),
                memory: 1,
                kind: "simulated".to_owned(),
            }
            .to_plugin();
            PluginInfo { name, version }
        });
        WorkerListInfo {
            worker_instance_key: key.to_owned(),
            host_name: "host".to_owned(),
            process_id: process.to_owned(),
            status: status.into(),
            plugins: plugins.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_process_has_what_any_of_its_workers_says() {
        use WorkerStatus::{Running, Shutdown, Unspecified};
        let workers = processes(vec![
            listed("a", "1", Running, &["sim:1", "sim:0"]),
            listed("b", "1", Running, &[]),
            listed("c", "1", Unspecified, &["sim:0"]),
            listed("d", "2", Shutdown, &["sim:0"]),
            listed("e", "", Running, &[]),
            listed("f", "", Running, &["sim:7"]),
        ]);
        let names = workers.iter().map(|worker| {
            let names = worker.devices.iter().map(|device| device.name.as_str());
            names.collect::<Vec<_>>()
        });
        let names: Vec<_> = names.collect();
        assert_eq!(names, [vec!["sim:0", "sim:1"], vec![], vec!["sim:7"]]);
    }
}
