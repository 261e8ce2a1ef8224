use tidemill_proto::api::history::v1::{
    MarkerRecordedEventAttributes, WorkflowExecutionSignaledEventAttributes,
    WorkflowTaskStartedEventAttributes,
};

use super::*;
use crate::testing::Rig;

#[test]
fn batches_end_where_a_task_starts() {
    let rig = Rig::idle();
    let cx = rig.cx();
    let mut tx = Tx::new(&rig.run, &cx);
    let push = |tx: &mut Tx<'_>, attributes: Attributes| (tx.batch_id(), tx.push(attributes));
    let marker = || MarkerRecordedEventAttributes::default().into();
    assert_eq!(push(&mut tx, marker()), (5, 5));
    assert_eq!(
        push(
            &mut tx,
            WorkflowTaskStartedEventAttributes::default().into()
        ),
        (5, 6)
    );
    assert_eq!(push(&mut tx, marker()), (7, 7));
    assert_eq!(push(&mut tx, marker()), (7, 8));
    let transition = tx.into_transitions().remove(0);
    let bounds: Vec<_> = transition
        .batches
        .iter()
        .map(|b| (b.first_event_id, b.last_event_id))
        .collect();
    assert_eq!(bounds, [(5, 6), (7, 8)]);
    assert_eq!(transition.run.core.last_first_event_id, 7);
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let rig = Rig::idle();
    let cx = rig.cx();
    let transition = Tx::new(&rig.run, &cx).into_transitions().remove(0);
    assert!(!transition.is_durable());
    assert_eq!(transition.run.core, rig.run.core);
    // What lives in memory is no reason to write either.
    let mut tx = Tx::new(&rig.run, &cx);
    tx.update_event("u", UpdateEvent::Accepted);
    tx.run.volatile.close_attempted = true;
    assert!(!tx.into_transitions()[0].is_durable());
    let mut tx = Tx::new(&rig.run, &cx);
    tx.touch_core();
    assert!(tx.into_transitions()[0].is_durable());
}

#[test]
fn a_task_that_is_taken_at_once_never_reaches_the_store() {
    let rig = Rig::idle();
    let cx = rig.cx();
    let mut tx = Tx::new(&rig.run, &cx);
    let kept = tx.add_task(TaskKind::Activity, "q", 3, 5, 1, None);
    let taken = tx.add_task(TaskKind::Activity, "q", 3, 6, 1, None);
    tx.remove_task(TaskKind::Activity, taken);
    let stored = TaskPlace {
        seq: 1,
        ..kept.clone()
    };
    tx.remove_task(TaskKind::Activity, stored.clone());
    let transition = tx.into_transitions().remove(0);
    assert_eq!(
        transition
            .tasks_added
            .iter()
            .map(|t| &t.place)
            .collect::<Vec<_>>(),
        [&kept]
    );
    assert_eq!(transition.tasks_removed, [(TaskKind::Activity, stored)]);
}

#[test]
fn events_wait_for_a_started_task() {
    let mut rig = Rig::new();
    rig.poll();
    let cx = rig.cx();
    let mut tx = Tx::new(&rig.run, &cx);
    assert!(!tx.has_unseen());
    assert_eq!(
        tx.push(WorkflowExecutionSignaledEventAttributes::default()),
        BUFFERED_ID
    );
    assert!(!tx.has_unseen());
    assert_eq!(tx.push(MarkerRecordedEventAttributes::default()), 4);
    let run = tx.into_transitions().remove(0).run;
    let mut tx = Tx::new(&run, &cx);
    assert!(tx.has_unseen());
    assert!(!tx.remove_buffered(|e| e.event_type() == EventType::TimerFired));
    assert!(tx.remove_buffered(|e| e.event_type() == EventType::WorkflowExecutionSignaled));
    assert!(!tx.has_unseen() && tx.run.buffered.is_empty());
}
