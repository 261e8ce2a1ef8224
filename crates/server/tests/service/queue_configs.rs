//! What was set on a task queue is durable when that is acknowledged, and not in force before.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{RateLimitSource, TaskQueueType};
use tidemill_proto::api::taskqueue::v1::{RateLimit, RateLimitConfig};
use tidemill_proto::api::workflowservice::v1::describe_task_queue_response::EffectiveRateLimit;
use tidemill_proto::api::workflowservice::v1::update_task_queue_config_request::RateLimitUpdate;
use tidemill_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, PollActivityTaskQueueRequest, UpdateTaskQueueConfigRequest,
};

use crate::rig::*;

/// Limits the queue of activities; without a rate the limit is removed.
async fn limit(
    rig: &Rig,
    per_second: Option<f32>,
    reason: &str,
) -> Result<Option<RateLimitConfig>, Error> {
    let request = UpdateTaskQueueConfigRequest {
        identity: "operator".into(),
        task_queue: QUEUE.into(),
        task_queue_type: TaskQueueType::Activity as i32,
        update_queue_rate_limit: Some(RateLimitUpdate {
            rate_limit: per_second.map(|requests_per_second| RateLimit {
                requests_per_second,
            }),
            reason: reason.into(),
        }),
        ..Default::default()
    };
    let updated = rig
        .server
        .update_task_queue_config(&rig.namespace, request, call())
        .await?;
    Ok(updated.config.and_then(|config| config.queue_rate_limit))
}

/// What was set, and the limit in force.
async fn described(rig: &Rig) -> (Option<RateLimitConfig>, Option<EffectiveRateLimit>) {
    let request = DescribeTaskQueueRequest {
        task_queue: Some(task_queue(QUEUE)),
        task_queue_type: TaskQueueType::Activity as i32,
        report_config: true,
        ..Default::default()
    };
    let described = rig
        .server
        .describe_task_queue(&rig.namespace, request, call())
        .await
        .expect("queues can be described");
    let set = described.config.and_then(|config| config.queue_rate_limit);
    (set, described.effective_rate_limit)
}

fn in_force(per_second: f32) -> Option<EffectiveRateLimit> {
    Some(EffectiveRateLimit {
        requests_per_second: per_second,
        rate_limit_source: RateLimitSource::Api as i32,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_outlives_the_server() {
    let rig = Rig::file().await;
    assert_eq!(described(&rig).await, (None, None));
    limit(&rig, Some(9.0), "first").await.unwrap();
    let set = limit(&rig, Some(2.5), "too fast").await.unwrap();
    let metadata = set.as_ref().unwrap().metadata.as_ref().unwrap();
    assert_eq!(
        (&*metadata.reason, &*metadata.update_identity),
        ("too fast", "operator")
    );
    assert!(metadata.update_time.is_some());
    let before = (set, in_force(2.5));
    assert_eq!(described(&rig).await, before);
    let rig = rig.restart().await;
    assert_eq!(described(&rig).await, before);

    let removed = limit(&rig, None, "fast again").await.unwrap();
    assert_eq!(removed.as_ref().unwrap().rate_limit, None);
    let before = (removed, None);
    assert_eq!(described(&rig).await, before);
    let rig = rig.restart().await;
    assert_eq!(described(&rig).await, before);
    rig.close().await;
}

/// The limit holds tasks back from the first poll on, before anybody described the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_is_paused_after_a_restart() {
    let rig = Rig::file().await;
    limit(&rig, Some(0.0), "stop").await.unwrap();
    rig.start("w").await;
    rig.work(vec![activity("a")]).await;
    let rig = rig.restart().await;
    let request = PollActivityTaskQueueRequest {
        task_queue: Some(task_queue(QUEUE)),
        identity: "worker".into(),
        ..Default::default()
    };
    let short = call_for(Duration::from_millis(200));
    let polled = rig
        .server
        .poll_activity_task_queue(&rig.namespace, request, short)
        .await;
    assert!(polled.unwrap().task_token.is_empty());
    limit(&rig, None, "go on").await.unwrap();
    assert_eq!(rig.poll_activity().await.activity_id, "a");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_not_stored_is_not_in_force() {
    let rig = Rig::file().await;
    let set = limit(&rig, Some(5.0), "kept").await.unwrap();
    rig.store.fail();
    let refused = limit(&rig, Some(1.0), "lost").await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(described(&rig).await, (set.clone(), in_force(5.0)));
    let rig = rig.restart().await;
    assert_eq!(described(&rig).await, (set, in_force(5.0)));
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_goes_with_its_namespace() {
    let rig = Rig::file().await;
    limit(&rig, Some(5.0), "kept").await.unwrap();
    let deleted = rig.server.namespaces().delete(&rig.namespace.name).await;
    rig.server
        .forget_namespace(&deleted.unwrap().id)
        .await
        .unwrap();
    assert_eq!(described(&rig).await, (None, None));
    let rig = rig.restart().await;
    // Another one of that name, made at the start.
    assert_eq!(described(&rig).await, (None, None));
    rig.close().await;
}
