//! Activity tasks.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::failure::v1::{ApplicationFailureInfo, Failure, failure};
use tidemill_proto::api::workflowservice::v1::*;

use super::cache::Worker;
use super::{Answer, HEARTBEAT_TIMEOUT, take};
use crate::clients::{call_for, text};
use crate::life::Link;
use crate::oracle;

/// Fails so often as the activity's id says, then completes.
pub(super) fn act(link: &Link, worker: Worker, task: PollActivityTaskQueueResponse) {
    link.world.with(|shared| {
        shared.stats.tasks += 1;
        oracle::activity_task(shared, &task);
    });
    let run = task.workflow_execution.unwrap_or_default();
    let failures: i32 = task
        .activity_id
        .rsplit('-')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let what = format!("{}/{}/{}", run.run_id, task.activity_id, task.attempt);
    let answer = if task.attempt <= failures {
        Answer::ActivityFailed(RespondActivityTaskFailedRequest {
            task_token: task.task_token,
            failure: Some(Failure {
                message: what,
                failure_info: Some(failure::FailureInfo::ApplicationFailureInfo(
                    ApplicationFailureInfo::default(),
                )),
                ..Default::default()
            }),
            ..Default::default()
        })
    } else {
        link.world.with(|shared| shared.ledger.sent(&what));
        Answer::ActivityCompleted(RespondActivityTaskCompletedRequest {
            task_token: task.task_token,
            result: text(what),
            ..Default::default()
        })
    };
    let mut beats = Vec::new();
    if task.heartbeat_timeout.is_some() {
        let mut at = 0;
        for _ in 0..link.world.below(4) {
            at += link.world.below(HEARTBEAT_TIMEOUT as usize - 500) as u64;
            beats.push(at);
        }
    }
    take(link, worker, answer, beats, 1_500);
}

/// Says that the worker is alive and how far it has come.
pub(super) async fn beat(link: &Link, answer: &Answer, at: u64) -> Result<(), Error> {
    let (task_token, what) = match answer {
        Answer::ActivityCompleted(request) => {
            (request.task_token.clone(), oracle::result(&request.result))
        }
        Answer::ActivityFailed(request) => {
            let failure = request.failure.clone().unwrap_or_default();
            (request.task_token.clone(), failure.message)
        }
        Answer::Completed(_) | Answer::Failed(_) => return Ok(()),
    };
    let details = format!("{what}/{at}");
    link.world
        .with(|shared| oracle::heartbeat::sent(shared, &what, &details));
    let request = RecordActivityTaskHeartbeatRequest {
        task_token,
        details: text(details.clone()),
        ..Default::default()
    };
    let recorded = link.server.record_activity_task_heartbeat(
        &link.namespace,
        request,
        call_for(Duration::from_secs(10)),
    );
    let recorded = recorded.await;
    link.note(&format!("heartbeat {details}"), &recorded, |_| "ok".into());
    link.world.with(|shared| {
        oracle::heartbeat::recorded(shared, &what, &details, recorded.is_ok());
    });
    recorded.map(|_| ())
}
