//! Automatic reset points: the first workflow task that each new worker build completed.

use tidemill_proto::api::workflow::v1::ResetPointInfo;

use crate::complete::Completion;
use crate::model::Visible;
use crate::time::Time;
use crate::tx::Tx;

/// Notes a build that has not completed a task of this chain of runs before.
pub(crate) fn add(tx: &mut Tx<'_>, completion: &Completion, completed_id: i64) {
    let build_id = completion
        .worker_version
        .as_ref()
        .map_or("", |v| &v.build_id);
    let point = point(
        build_id,
        &completion.binary_checksum,
        &tx.run.id.run_id,
        completed_id,
        tx.now(),
    );
    if is_new(&tx.run.visible, &point) {
        let most = tx.limits().reset_points;
        tx.change_hidden(|v| note(v, point, most));
    }
}

/// The point at which a build completed a task.
pub(crate) fn point(
    build_id: &str,
    checksum: &str,
    run_id: &str,
    completed_id: i64,
    at: Time,
) -> ResetPointInfo {
    ResetPointInfo {
        build_id: build_id.to_owned(),
        binary_checksum: checksum.to_owned(),
        run_id: run_id.to_owned(),
        first_workflow_task_completed_id: completed_id,
        create_time: Some(at.proto()),
        resettable: true,
        ..Default::default()
    }
}

fn is_new(visible: &Visible, point: &ResetPointInfo) -> bool {
    let named = !(point.build_id.is_empty() && point.binary_checksum.is_empty());
    let same = |p: &ResetPointInfo| {
        p.build_id == point.build_id && p.binary_checksum == point.binary_checksum
    };
    named
        && !visible
            .reset_points
            .as_ref()
            .is_some_and(|points| points.points.iter().any(same))
}

/// Adds a point if its build is new; the oldest one makes room.
pub(crate) fn note(visible: &mut Visible, point: ResetPointInfo, most: usize) {
    if !is_new(visible, &point) {
        return;
    }
    let points = &mut visible.reset_points.get_or_insert_default().points;
    points.push(point);
    if points.len() > most {
        points.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::common::v1::WorkerVersionStamp;

    use super::*;
    use crate::testing::Rig;

    #[test]
    fn one_for_each_build() {
        let mut rig = Rig::new();
        rig.limits.reset_points = 2;
        let mut ends = Vec::new();
        for (build, checksum) in [("", ""), ("", "c1"), ("b1", "c1"), ("", "c1"), ("b2", "c1")] {
            let started = rig.poll();
            let worker_version = (!build.is_empty()).then(|| WorkerVersionStamp {
                build_id: build.into(),
                ..Default::default()
            });
            let completion = Completion {
                worker_version,
                binary_checksum: checksum.into(),
                ..Default::default()
            };
            rig.complete(&started.task, completion).unwrap();
            ends.push(rig.run.last_event_id());
            rig.signal("").unwrap();
        }
        let points = &rig.run.visible.reset_points.as_ref().unwrap().points;
        let kept: Vec<_> = points
            .iter()
            .map(|p| (p.build_id.as_str(), p.first_workflow_task_completed_id))
            .collect();
        // The first of them made room for the last.
        assert_eq!(kept, [("b1", ends[2]), ("b2", ends[4])]);
        assert!(
            points
                .iter()
                .all(|p| p.resettable && p.run_id == "first" && p.binary_checksum == "c1")
        );
    }
}
