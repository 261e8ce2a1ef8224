//! What every implementation of [`Store`](tidemill_store::Store) must do, run on each of them.
//!
//! A test is a function of a [`backend::Backend`]; the list below runs it on all backends.

mod backend;
mod commits;
mod deletion;
mod fixture;
mod history;
mod identity;
mod inspection;
mod outbox;
mod queue_records;
mod reopen;
mod state;
mod tasks;
mod visibility;
mod wakeups;

macro_rules! suite {
    ($($module:ident :: $test:ident,)*) => {
        mod sqlite_file {
            $(#[test] fn $test() { crate::$module::$test(&mut crate::backend::SqliteFile::new()); })*
        }
        mod logged_staging {
            $(#[test] fn $test() { crate::$module::$test(&mut crate::backend::Logged::staging()); })*
        }
        mod logged_writing {
            $(#[test] fn $test() { crate::$module::$test(&mut crate::backend::Logged::writing()); })*
        }
        mod logged_killed {
            $(#[test] fn $test() { crate::$module::$test(&mut crate::backend::Logged::killed()); })*
        }
        mod logged_killed_while_writing {
            $(#[test] fn $test() {
                crate::$module::$test(&mut crate::backend::Logged::killed_while_writing());
            })*
        }
        mod sqlite_memory {
            $(#[test] fn $test() { crate::$module::$test(&mut crate::backend::SqliteMemory::new()); })*
        }
    };
}

suite! {
    commits::a_failing_commit_leaves_nothing_of_its_batch,
    commits::commits_of_a_batch_are_applied_in_order,
    commits::empty_commits_are_accepted,
    commits::one_id_is_a_namespace_once,
    commits::a_commit_after_a_failure_finds_its_names,
    deletion::deletion_leaves_nothing,
    deletion::deleting_what_is_not_there_is_no_error,
    deletion::run_numbers_are_not_reused,
    deletion::a_namespace_can_go_before_and_after_its_runs,
    history::batches_come_back_in_both_directions,
    history::a_range_includes_batches_that_overlap_it,
    history::copies_whole_batches_only,
    history::a_copy_is_independent_of_its_source,
    history::a_batch_is_written_once,
    identity::the_current_run_is_the_newest,
    identity::a_run_is_found_by_all_its_names,
    identity::runs_of_a_namespace_are_paged_by_number,
    identity::namespaces_are_written_and_renamed,
    inspection::open_runs_are_paged_by_number,
    inspection::an_examination_counts_and_finds_nothing_wrong,
    inspection::a_backup_is_a_data_file_of_its_own,
    outbox::the_outbox_is_paged_over_runs,
    queue_records::records_are_replaced_and_read_back,
    queue_records::records_outlive_an_empty_queue,
    queue_records::records_go_with_their_namespace,
    reopen::everything_is_there_after_reopening,
    reopen::high_water_counts_runs_and_tasks,
    state::rows_are_written_replaced_and_deleted,
    state::extreme_values_come_back,
    state::an_unknown_run_is_none,
    state::a_run_without_history_is_corrupt,
    tasks::queues_are_read_by_priority_then_sequence,
    tasks::queues_of_one_name_are_apart,
    tasks::removed_tasks_are_gone,
    tasks::counting_a_queue,
    visibility::executions_are_listed_and_counted,
    visibility::an_upsert_replaces_attributes,
    visibility::pages_are_read_by_token,
    visibility::namespaces_do_not_see_each_other,
    wakeups::due_runs_are_paged_in_order_of_time,
    wakeups::a_wakeup_is_replaced_and_removed,
    wakeups::expired_runs_are_those_past_their_retention,
}
