//! Plans that ask for devices, and what workers say that they have.

use temporalio_client::tonic::IntoRequest;
use temporalio_common::protos::temporal::api::enums::v1::WorkerStatus;
use temporalio_common::protos::temporal::api::worker::v1::{
    PluginInfo, WorkerHeartbeat, WorkerHostInfo,
};
use temporalio_common::protos::temporal::api::workflowservice::v1::RecordWorkerHeartbeatRequest;
use tidemill_pipeline::device::Advertised;
use tidemill_pipeline::plan::{Device, Plan, Step, Work};
use tidemill_runtime::client::{Error, StartOptions};

use serde_json::json;

use crate::plans::{call, node, plan, step};
use crate::session::{Session, with_workers};

const GIB: u64 = 1 << 30;

/// A stage `embed` that asks for so many devices of this size.
fn asks(class: &str, count: u32, gib: u64) -> Plan {
    let mut embed = Step {
        resource: class.to_owned(),
        ..step("embed", "test.call", json!({}))
    };
    embed.demands.device = Some(Device {
        count,
        share: 1.0,
        memory: gib * GIB,
    });
    plan(vec![node("embed", &[], Work::Task(embed))], json!(null))
}

/// A worker says what it is and has.
async fn says(session: &Session, host: &str, class: &str, devices: &[(&str, u64)]) {
    let plugins = devices.iter().map(|(name, gib)| {
        let (name, version) = Advertised {
            name: (*name).to_owned(),
            memory: gib * GIB,
            kind: "nvml".to_owned(),
        }
        .to_plugin();
        PluginInfo { name, version }
    });
    let heartbeat = WorkerHeartbeat {
        worker_instance_key: format!("{host} {class}"),
        task_queue: class.to_owned(),
        status: WorkerStatus::Running.into(),
        host_info: Some(WorkerHostInfo {
            host_name: host.to_owned(),
            process_id: "1".to_owned(),
            ..Default::default()
        }),
        plugins: plugins.collect(),
        ..Default::default()
    };
    let request = RecordWorkerHeartbeatRequest {
        namespace: "default".to_owned(),
        worker_heartbeat: vec![heartbeat],
        ..Default::default()
    };
    let mut service = session.client.connection().workflow_service();
    let recorded = service.record_worker_heartbeat(request.into_request());
    recorded.await.unwrap();
}

async fn start(session: &Session, plan: Plan) -> Result<String, Error> {
    let options = StartOptions::default();
    session
        .pipelines
        .start(plan, Default::default(), options)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_no_worker_could_ever_serve_is_refused() {
    with_workers(async |session| {
        let too_much = || asks("accelerator", 2, 82);
        // Nobody yet: it waits for a worker.
        let unserved = session.pipelines.placeable(&too_much()).await.unwrap();
        assert_eq!(unserved, ["accelerator"]);
        start(session, too_much()).await.unwrap();

        says(session, "gpu-host-1", "accelerator", &[("nvml:0", 80)]).await;
        says(session, "other", "huge", &[("nvml:0", 90), ("nvml:1", 90)]).await;
        let refused = start(session, too_much()).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no worker could ever run it: stage `embed` asks for 2 devices with 82 GiB each; \
             the workers of `accelerator` have: gpu-host-1: nvml:0 80 GiB"
        );
        let within = plan(vec![call("child", too_much(), json!({}))], json!(null));
        let refused = start(session, within).await;
        assert!(
            matches!(refused, Err(Error::Unsatisfiable(_))),
            "{refused:?}"
        );

        // What fits is not refused, nor what another class has.
        for fits in [asks("accelerator", 1, 80), asks("huge", 2, 82)] {
            assert_eq!(session.pipelines.placeable(&fits).await.unwrap(), [""; 0]);
            start(session, fits).await.unwrap();
        }
        assert_eq!(session.pipelines.list(10).await.unwrap().len(), 3);

        // A worker that does not say what it has may do.
        says(session, "unknown", "accelerator", &[]).await;
        start(session, too_much()).await.unwrap();
    })
    .await;
}
