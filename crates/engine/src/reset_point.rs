//! Automatic reset points: the first workflow task that each new worker build completed.

use tidemill_proto::api::workflow::v1::ResetPointInfo;

use crate::complete::Completion;
use crate::tx::Tx;

/// Notes a build that has not completed a task of this chain of runs before.
pub(crate) fn add(tx: &mut Tx<'_>, completion: &Completion, completed_id: i64) {
    let build_id = completion.worker_version.as_ref().map_or("", |v| &v.build_id).to_owned();
    let checksum = completion.binary_checksum.clone();
    if build_id.is_empty() && checksum.is_empty() {
        return;
    }
    let known = tx.run.visible.reset_points.as_ref().is_some_and(|points| {
        points.points.iter().any(|p| p.build_id == build_id && p.binary_checksum == checksum)
    });
    if known {
        return;
    }
    let point = ResetPointInfo {
        build_id,
        binary_checksum: checksum,
        run_id: tx.run.id.run_id.to_string(),
        first_workflow_task_completed_id: completed_id,
        create_time: Some(tx.now().proto()),
        resettable: true,
        ..Default::default()
    };
    let most = tx.limits().reset_points;
    tx.change_hidden(|v| {
        let points = &mut v.reset_points.get_or_insert_default().points;
        points.push(point);
        if points.len() > most {
            points.remove(0);
        }
    });
}
