//! Bounds that the engine enforces, with Temporal's defaults (contract 12.3).

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest payload blob, bytes.
    pub blob_size: usize,
    pub memo_size: usize,
    /// Bytes in one id.
    pub id_length: usize,
    pub history_count: i64,
    pub history_size: i64,
    pub suggest_continue_as_new_count: i64,
    pub suggest_continue_as_new_size: i64,
    pub pending_activities: usize,
    pub pending_children: usize,
    pub pending_external_cancels: usize,
    pub pending_external_signals: usize,
    pub signals: i64,
    pub buffered_events: usize,
    pub buffered_event_bytes: usize,
    pub updates_in_flight: usize,
    pub updates_in_flight_bytes: usize,
    pub updates_total: i64,
    pub buffered_queries: usize,
    pub request_ids: usize,
    pub reset_points: usize,
    pub search_attributes: usize,
    pub search_attribute_value_size: usize,
    pub search_attributes_size: usize,
    pub callbacks: usize,
    pub workflow_task_timeout: Duration,
    pub workflow_task_timeout_max: Duration,
    /// A task that only heartbeats is failed after so long.
    pub workflow_task_heartbeat: Duration,
    /// A chain of runs starts at most one run in this time.
    pub continue_as_new_min_interval: Duration,
    /// Schedule-to-start of speculative tasks on a normal queue.
    pub speculative_start: Duration,
    /// Failed workflow tasks in a row that set `TemporalReportedProblems`.
    pub reported_problems_after: i32,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            blob_size: 2 * MIB,
            memo_size: 2 * MIB,
            id_length: 1000,
            history_count: 51_200,
            history_size: 50 * MIB as i64,
            suggest_continue_as_new_count: 4096,
            suggest_continue_as_new_size: 4 * MIB as i64,
            pending_activities: 2000,
            pending_children: 2000,
            pending_external_cancels: 2000,
            pending_external_signals: 2000,
            signals: 10_000,
            buffered_events: 100,
            buffered_event_bytes: 2 * MIB,
            updates_in_flight: 10,
            updates_in_flight_bytes: 20 * MIB,
            updates_total: 2000,
            buffered_queries: 1,
            request_ids: 25,
            reset_points: 20,
            search_attributes: 100,
            search_attribute_value_size: 2048,
            search_attributes_size: 40 * 1024,
            callbacks: 32,
            workflow_task_timeout: Duration::from_secs(10),
            workflow_task_timeout_max: Duration::from_secs(120),
            workflow_task_heartbeat: Duration::from_secs(30 * 60),
            continue_as_new_min_interval: Duration::from_secs(1),
            speculative_start: Duration::from_secs(5),
            reported_problems_after: 5,
        }
    }
}
