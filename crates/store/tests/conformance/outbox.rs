use tidemill_store::{RunNo, RunWrite};

use crate::backend::Backend;
use crate::fixture::*;

pub(crate) fn the_outbox_is_paged_over_runs(backend: &mut dyn Backend) {
    let store = backend.store();
    let with = |run, ids: &[i64]| RunWrite {
        outbox_added: ids.iter().copied().map(outbox).collect(),
        ..start(run)
    };
    apply(
        store,
        vec![with(2, &[7, 3]), with(1, &[5]), with(4, &[-1, 1])],
    );
    let mut after = (RunNo(i64::MIN), i64::MIN);
    let mut read = Vec::new();
    while let [(owner_read, row)] = &store.read_outbox(after, 1).unwrap()[..] {
        assert_eq!(*owner_read, owner(owner_read.run.0));
        assert_eq!(*row, outbox(row.id));
        after = (owner_read.run, row.id);
        read.push((owner_read.run.0, row.id));
    }
    assert_eq!(read, [(1, 5), (2, 3), (2, 7), (4, -1), (4, 1)]);
    assert_eq!(
        store.load_run(RunNo(2)).unwrap().unwrap().outbox,
        [outbox(3), outbox(7)]
    );

    apply(
        store,
        vec![RunWrite {
            outbox_removed: vec![3, 99],
            outbox_added: vec![outbox(8)],
            ..write(2)
        }],
    );
    assert_eq!(
        store.load_run(RunNo(2)).unwrap().unwrap().outbox,
        [outbox(7), outbox(8)]
    );
    assert_eq!(store.read_outbox((RunNo(2), 7), 2).unwrap().len(), 2);
}
