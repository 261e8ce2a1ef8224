//! Task queues as people see and set them (contract 8.1 to 8.4).

use std::collections::HashMap;

use tidemill_engine::time::proto_span;
use tidemill_engine::{Error, Time};
use tidemill_proto::api::enums::v1::{
    BuildIdTaskReachability, DescribeTaskQueueMode, RateLimitSource, TaskQueueKind, TaskQueueType,
};
use tidemill_proto::api::taskqueue::v1::{
    ConfigMetadata, PollerInfo, RateLimit, RateLimitConfig, TaskIdBlock, TaskQueueConfig,
    TaskQueuePartitionMetadata, TaskQueueStats, TaskQueueStatus, TaskQueueTypeInfo,
    TaskQueueVersionInfo, TaskQueueVersionSelection,
};
use tidemill_proto::api::workflowservice::v1::describe_task_queue_response::EffectiveRateLimit;
use tidemill_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, DescribeTaskQueueResponse, ListTaskQueuePartitionsRequest,
    ListTaskQueuePartitionsResponse, UpdateTaskQueueConfigRequest, UpdateTaskQueueConfigResponse,
};
use tidemill_store::QueueName;

use super::Call;
use crate::Server;
use crate::commit::{ACTIVITY_QUEUE, WORKFLOW_QUEUE};
use crate::core::now;
use crate::matching::{self, QueueInfo, RateSource, Stats};
use crate::namespaces::Namespace;
use crate::queue_configs::{QueueConfig, RateSetting};

/// What stands for "no limit" where the protocol wants a number; Temporal's default. Zero would
/// mean that the queue is paused.
const UNLIMITED_PER_SECOND: f64 = 100_000.0;

impl Server {
    /// Describes one kind of a queue, or in the enhanced mode several. Versions are not told apart:
    /// all pollers and tasks are those of the unversioned queue.
    pub async fn describe_task_queue(
        &self,
        namespace: &Namespace,
        request: DescribeTaskQueueRequest,
        _call: Call,
    ) -> Result<DescribeTaskQueueResponse, Error> {
        let asked = request.task_queue.clone().unwrap_or_default();
        if request.api_mode() == DescribeTaskQueueMode::Enhanced {
            if asked.kind() == TaskQueueKind::Sticky {
                return Err(Error::invalid(
                    "Enhanced DescribeTaskQueue is not valid for a sticky queue.",
                ));
            }
            let types = request
                .task_queue_types()
                .map(|kind| (kind, self.queue_info(namespace, &asked.name, kind)));
            let versions_info = versions_info(&request, &types.collect::<Vec<_>>());
            return Ok(DescribeTaskQueueResponse {
                versions_info,
                ..Default::default()
            });
        }
        let kind = request.task_queue_type();
        let set = described(namespace, &asked.name, kind)
            .and_then(|queue| self.core.queue_configs.get(&queue));
        let info = self.queue_info(namespace, &asked.name, kind);
        Ok(default_mode(&request, info, set))
    }

    /// A queue is in one piece: its only partition is itself.
    pub async fn list_task_queue_partitions(
        &self,
        _namespace: &Namespace,
        request: ListTaskQueuePartitionsRequest,
        _call: Call,
    ) -> Result<ListTaskQueuePartitionsResponse, Error> {
        let key = request.task_queue.unwrap_or_default().name;
        let partitions = vec![TaskQueuePartitionMetadata {
            key,
            ..Default::default()
        }];
        Ok(ListTaskQueuePartitionsResponse {
            activity_task_queue_partitions: partitions.clone(),
            workflow_task_queue_partitions: partitions,
        })
    }

    /// Sets or removes a queue's rate limit, and remembers who did that and why.
    ///
    /// Fairness is not there yet, so its settings are refused instead of having no effect.
    pub async fn update_task_queue_config(
        &self,
        namespace: &Namespace,
        request: UpdateTaskQueueConfigRequest,
        _call: Call,
    ) -> Result<UpdateTaskQueueConfigResponse, Error> {
        let fairness = request.update_fairness_key_rate_limit_default.is_some()
            || !request.set_fairness_weight_overrides.is_empty()
            || !request.unset_fairness_weight_overrides.is_empty();
        if fairness {
            return Err(Error::Unimplemented(
                "settings of fairness keys are not supported yet".into(),
            ));
        }
        let queue = match request.task_queue_type() {
            TaskQueueType::Activity => queue_name(namespace, &request.task_queue, ACTIVITY_QUEUE),
            TaskQueueType::Workflow if request.update_queue_rate_limit.is_none() => {
                queue_name(namespace, &request.task_queue, WORKFLOW_QUEUE)
            }
            TaskQueueType::Workflow => {
                return Err(Error::invalid(
                    "Setting rate limit on workflow task queues is not allowed.",
                ));
            }
            TaskQueueType::Nexus => {
                return Err(Error::Unimplemented(
                    "Nexus task queues are not supported yet".into(),
                ));
            }
            TaskQueueType::Unspecified => {
                return Err(Error::invalid("TaskQueueType is not set on request."));
            }
        };
        let set = match request.update_queue_rate_limit {
            Some(update) => {
                let rate = RateSetting {
                    per_second: update.rate_limit.map(|limit| limit.requests_per_second),
                    reason: update.reason,
                    identity: request.identity,
                    updated: now().0,
                };
                Some(self.core.queue_configs.set_rate(queue, rate).await?)
            }
            None => self.core.queue_configs.get(&queue),
        };
        Ok(UpdateTaskQueueConfigResponse {
            config: Some(set.map(config).unwrap_or_default()),
        })
    }

    fn queue_info(&self, namespace: &Namespace, name: &str, kind: TaskQueueType) -> QueueInfo {
        match described(namespace, name, kind) {
            Some(queue) => self.core.matching.describe(&queue),
            None => QueueInfo::default(),
        }
    }
}

/// The queue that a description is about; `None` for Nexus, whose queues nobody polls yet.
fn described(namespace: &Namespace, name: &str, kind: TaskQueueType) -> Option<QueueName> {
    let kind = match kind {
        TaskQueueType::Workflow | TaskQueueType::Unspecified => WORKFLOW_QUEUE,
        TaskQueueType::Activity => ACTIVITY_QUEUE,
        TaskQueueType::Nexus => return None,
    };
    Some(queue_name(namespace, name, kind))
}

fn queue_name(namespace: &Namespace, name: &str, kind: u8) -> QueueName {
    QueueName {
        namespace: namespace.id,
        name: name.into(),
        kind,
    }
}

#[expect(
    deprecated,
    reason = "`task_queue_status` is deprecated and still asked for"
)]
fn default_mode(
    request: &DescribeTaskQueueRequest,
    info: QueueInfo,
    set: Option<QueueConfig>,
) -> DescribeTaskQueueResponse {
    let rate = info.effective_rate;
    let by_priority = info
        .stats_by_priority
        .iter()
        .map(|(priority, s)| (i32::from(*priority), stats(s)));
    DescribeTaskQueueResponse {
        stats: request.report_stats.then(|| stats(&info.stats)),
        stats_by_priority_key: if request.report_stats {
            by_priority.collect()
        } else {
            HashMap::new()
        },
        config: set.filter(|_| request.report_config).map(config),
        effective_rate_limit: rate.map(|rate| EffectiveRateLimit {
            requests_per_second: rate.per_second as f32,
            rate_limit_source: match rate.source {
                RateSource::Api => RateLimitSource::Api,
                RateSource::Worker => RateLimitSource::Worker,
            } as i32,
        }),
        task_queue_status: request.include_task_queue_status.then(|| TaskQueueStatus {
            backlog_count_hint: info.stats.backlog_count.max(0),
            rate_per_second: rate.map_or(UNLIMITED_PER_SECOND, |rate| rate.per_second),
            // There are no blocks of task ids here; old tools read the fields all the same.
            task_id_block: Some(TaskIdBlock::default()),
            ..Default::default()
        }),
        pollers: info.pollers.into_iter().map(poller).collect(),
        ..Default::default()
    }
}

/// The enhanced mode's answer: the unversioned queue, and an empty one for each build id that was
/// asked for.
#[expect(
    deprecated,
    reason = "the enhanced mode is deprecated and still served"
)]
fn versions_info(
    request: &DescribeTaskQueueRequest,
    types: &[(TaskQueueType, QueueInfo)],
) -> HashMap<String, TaskQueueVersionInfo> {
    let nothing: Vec<_> = types
        .iter()
        .map(|(kind, _)| (*kind, QueueInfo::default()))
        .collect();
    let unversioned = TaskQueueVersionSelection {
        unversioned: true,
        ..Default::default()
    };
    let selection = request.versions.as_ref().unwrap_or(&unversioned);
    let of_build_ids = selection.build_ids.iter().map(|id| {
        (
            id.clone(),
            version_info(request, &nothing, BuildIdTaskReachability::Unreachable),
        )
    });
    let mut versions: HashMap<_, _> = of_build_ids.collect();
    if selection.unversioned || selection.all_active {
        versions.insert(
            String::new(),
            version_info(request, types, BuildIdTaskReachability::Reachable),
        );
    }
    versions
}

#[expect(
    deprecated,
    reason = "the enhanced mode is deprecated and still served"
)]
fn version_info(
    request: &DescribeTaskQueueRequest,
    types: &[(TaskQueueType, QueueInfo)],
    reachability: BuildIdTaskReachability,
) -> TaskQueueVersionInfo {
    let type_info = |info: &QueueInfo| TaskQueueTypeInfo {
        pollers: if request.report_pollers {
            info.pollers.iter().cloned().map(poller).collect()
        } else {
            Vec::new()
        },
        stats: request.report_stats.then(|| stats(&info.stats)),
    };
    let reported = if request.report_task_reachability {
        reachability
    } else {
        BuildIdTaskReachability::Unspecified
    };
    TaskQueueVersionInfo {
        types_info: types
            .iter()
            .map(|(kind, info)| (*kind as i32, type_info(info)))
            .collect(),
        task_reachability: reported as i32,
    }
}

/// What operators set on the queue. Of a limit that was removed it is told who did that.
fn config(set: QueueConfig) -> TaskQueueConfig {
    let limit = |requests_per_second| RateLimit {
        requests_per_second,
    };
    TaskQueueConfig {
        queue_rate_limit: set.rate.map(|rate| RateLimitConfig {
            rate_limit: rate.per_second.map(limit),
            metadata: Some(ConfigMetadata {
                reason: rate.reason,
                update_identity: rate.identity,
                update_time: Time(rate.updated).proto_opt(),
            }),
        }),
        ..Default::default()
    }
}

fn stats(stats: &Stats) -> TaskQueueStats {
    TaskQueueStats {
        approximate_backlog_count: stats.backlog_count.max(0),
        approximate_backlog_age: proto_span(stats.backlog_age),
        tasks_add_rate: stats.add_rate as f32,
        tasks_dispatch_rate: stats.dispatch_rate as f32,
        rate_limiting_active: stats.rate_limiting_active,
    }
}

fn poller(info: matching::PollerInfo) -> PollerInfo {
    #[expect(
        deprecated,
        reason = "clients still read `worker_version_capabilities`"
    )]
    PollerInfo {
        last_access_time: Some(Time(info.last_access).proto()),
        identity: info.identity.to_string(),
        rate_per_second: info.max_tasks_per_second.unwrap_or(UNLIMITED_PER_SECOND),
        worker_version_capabilities: info.worker.version_capabilities.clone(),
        deployment_options: info.worker.deployment_options.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::matching::{EffectiveRate, WorkerInfo};

    use super::*;

    fn info() -> QueueInfo {
        let stats = Stats {
            backlog_count: 7,
            backlog_age: Duration::from_secs(2),
            ..Default::default()
        };
        let seen = matching::PollerInfo {
            identity: "w".into(),
            last_access: 1,
            max_tasks_per_second: None,
            worker: Arc::new(WorkerInfo::default()),
        };
        QueueInfo {
            pollers: vec![seen],
            stats,
            stats_by_priority: vec![
                (3, stats),
                (
                    5,
                    Stats {
                        backlog_count: -1,
                        ..Default::default()
                    },
                ),
            ],
            effective_rate: Some(EffectiveRate {
                per_second: 2.0,
                source: RateSource::Api,
            }),
            worker_rate: Some(9.0),
        }
    }

    fn set() -> QueueConfig {
        QueueConfig::new(RateSetting {
            per_second: Some(2.0),
            reason: "enough".into(),
            ..Default::default()
        })
    }

    #[test]
    #[expect(deprecated, reason = "deprecated parts are served")]
    fn the_default_mode_tells_what_was_asked_for() {
        let bare = default_mode(&DescribeTaskQueueRequest::default(), info(), Some(set()));
        assert_eq!(
            (bare.pollers.len(), bare.pollers[0].rate_per_second),
            (1, UNLIMITED_PER_SECOND)
        );
        assert!(bare.stats.is_none() && bare.stats_by_priority_key.is_empty());
        assert!(bare.config.is_none() && bare.task_queue_status.is_none());
        let limit = bare.effective_rate_limit.unwrap();
        assert_eq!(
            (limit.requests_per_second, limit.rate_limit_source()),
            (2.0, RateLimitSource::Api)
        );

        let request = DescribeTaskQueueRequest {
            report_stats: true,
            report_config: true,
            include_task_queue_status: true,
            ..Default::default()
        };
        let full = default_mode(&request, info(), Some(set()));
        assert_eq!(full.stats.unwrap().approximate_backlog_count, 7);
        assert_eq!(
            full.stats_by_priority_key[&3].approximate_backlog_age,
            proto_span(Duration::from_secs(2))
        );
        assert_eq!(full.stats_by_priority_key[&5].approximate_backlog_count, 0);
        let shown = full.config.unwrap().queue_rate_limit.unwrap();
        assert_eq!(shown.rate_limit.unwrap().requests_per_second, 2.0);
        assert_eq!(shown.metadata.unwrap().reason, "enough");
        let status = full.task_queue_status.unwrap();
        assert_eq!(
            (status.backlog_count_hint, status.rate_per_second),
            (7, 2.0)
        );

        let unused = default_mode(&request, QueueInfo::default(), None);
        assert!(unused.effective_rate_limit.is_none());
        assert!(unused.config.is_none());
        assert_eq!(
            unused.task_queue_status.unwrap().rate_per_second,
            UNLIMITED_PER_SECOND
        );
    }

    #[test]
    #[expect(deprecated, reason = "the enhanced mode is served")]
    fn the_enhanced_mode_shows_one_unversioned_queue() {
        let types = [
            (TaskQueueType::Workflow, info()),
            (TaskQueueType::Activity, QueueInfo::default()),
        ];
        let selection = |build_ids: &[&str], unversioned, all_active| {
            let build_ids = build_ids.iter().map(|id| (*id).to_owned()).collect();
            Some(TaskQueueVersionSelection {
                build_ids,
                unversioned,
                all_active,
            })
        };
        let rows = [
            (None, vec![""]),
            (selection(&[], true, false), vec![""]),
            (selection(&[], false, true), vec![""]),
            (selection(&["b"], false, false), vec!["b"]),
            (selection(&["b"], true, false), vec!["", "b"]),
        ];
        for (versions, expected) in rows {
            let request = DescribeTaskQueueRequest {
                versions,
                report_stats: true,
                report_pollers: true,
                report_task_reachability: true,
                ..Default::default()
            };
            let told = versions_info(&request, &types);
            let mut keys: Vec<_> = told.keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, expected);
            for (key, version) in &told {
                let workflow = &version.types_info[&1];
                let (pollers, backlog, reachable) = match key.as_str() {
                    "" => (1, 7, BuildIdTaskReachability::Reachable),
                    _ => (0, 0, BuildIdTaskReachability::Unreachable),
                };
                assert_eq!(workflow.pollers.len(), pollers);
                assert_eq!(workflow.stats.unwrap().approximate_backlog_count, backlog);
                assert_eq!(version.task_reachability(), reachable);
                assert_eq!(
                    version.types_info[&2]
                        .stats
                        .unwrap()
                        .approximate_backlog_count,
                    0
                );
            }
        }
        let bare = versions_info(&DescribeTaskQueueRequest::default(), &types);
        let workflow = &bare[""].types_info[&1];
        assert!(workflow.pollers.is_empty() && workflow.stats.is_none());
        assert_eq!(
            bare[""].task_reachability(),
            BuildIdTaskReachability::Unspecified
        );
    }
}
