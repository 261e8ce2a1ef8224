//! Changing a run's records: each change marks the row that holds the record in the store.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{RowChange, Tx};
use crate::model::{
    Activity, AttachedRequest, Child, External, Kind, SignalId, Timer, UpdateRecord, Visible,
};
use crate::transition::TaskKind;

impl Tx<'_> {
    pub(crate) fn touch(&mut self, kind: Kind, id: i64) {
        self.rows.insert((kind, id), RowChange::Derive);
    }

    /// Marks the counters and flags as changed where nothing else shows it.
    pub fn touch_core(&mut self) {
        self.touch(Kind::Core, 0);
    }

    pub(super) fn put_row(&mut self, kind: Kind, id: i64, value: Bytes) {
        self.rows.insert((kind, id), RowChange::Value(value));
    }

    pub(super) fn delete_row(&mut self, kind: Kind, id: i64) {
        self.rows.insert((kind, id), RowChange::Delete);
    }

    pub(super) fn next_row_id(&mut self) -> i64 {
        self.run.core.next_row_id += 1;
        self.run.core.next_row_id
    }

    /// A stamp that no task of this run has had.
    pub fn next_stamp(&mut self) -> i64 {
        self.run.core.next_stamp += 1;
        self.run.core.next_stamp
    }

    pub fn put_activity(&mut self, activity: Activity) {
        self.touch(Kind::Activity, activity.scheduled_id);
        self.run.put_activity(activity);
    }

    pub fn remove_activity(&mut self, scheduled_id: i64) -> Option<Arc<Activity>> {
        self.touch(Kind::Activity, scheduled_id);
        let activity = self.run.remove_activity(scheduled_id)?;
        if let Some(place) = &activity.task {
            self.remove_task(TaskKind::Activity, place.clone());
        }
        Some(activity)
    }

    pub fn put_timer(&mut self, timer: Timer) {
        self.touch(Kind::Timer, timer.started_id);
        self.run.put_timer(timer);
    }

    pub fn remove_timer(&mut self, started_id: i64) -> Option<Arc<Timer>> {
        self.touch(Kind::Timer, started_id);
        self.run.remove_timer(started_id)
    }

    pub fn put_child(&mut self, child: Child) {
        self.touch(Kind::Child, child.initiated_id);
        self.run
            .children
            .insert(child.initiated_id, Arc::new(child));
    }

    pub fn remove_child(&mut self, initiated_id: i64) -> Option<Arc<Child>> {
        self.touch(Kind::Child, initiated_id);
        self.run.children.remove(&initiated_id)
    }

    pub fn put_external_cancel(&mut self, external: External) {
        self.touch(Kind::ExternalCancel, external.initiated_id);
        self.run
            .external_cancels
            .insert(external.initiated_id, Arc::new(external));
    }

    pub fn remove_external_cancel(&mut self, initiated_id: i64) -> Option<Arc<External>> {
        self.touch(Kind::ExternalCancel, initiated_id);
        self.run.external_cancels.remove(&initiated_id)
    }

    pub fn put_external_signal(&mut self, external: External) {
        self.touch(Kind::ExternalSignal, external.initiated_id);
        self.run
            .external_signals
            .insert(external.initiated_id, Arc::new(external));
    }

    pub fn remove_external_signal(&mut self, initiated_id: i64) -> Option<Arc<External>> {
        self.touch(Kind::ExternalSignal, initiated_id);
        self.run.external_signals.remove(&initiated_id)
    }

    /// Stores an update's record; a row of 0 gets a new one.
    pub fn put_update(&mut self, mut update: UpdateRecord) {
        if update.row == 0 {
            update.row = self.next_row_id();
        }
        self.put_row(
            Kind::Update,
            update.row,
            Bytes::from(update.encode_to_vec()),
        );
        self.run
            .updates
            .insert(update.update_id.clone(), Arc::new(update));
    }

    /// Drops an update's record; whether there was one.
    pub(crate) fn remove_update(&mut self, update_id: &str) {
        if let Some(update) = self.run.updates.remove(update_id) {
            self.delete_row(Kind::Update, update.row);
        }
    }

    /// Remembers a signal's request id; false when it was seen before.
    pub fn remember_signal(&mut self, request_id: &str) -> bool {
        if self.run.signal_ids.contains_key(request_id) {
            return false;
        }
        let row = self.next_row_id();
        let value = SignalId {
            request_id: request_id.to_owned(),
        };
        self.put_row(Kind::SignalId, row, Bytes::from(value.encode_to_vec()));
        self.run.signal_ids.insert(request_id.to_owned(), row);
        true
    }

    /// Forgets a signal's request id (its sender has recorded the delivery).
    pub fn forget_signal(&mut self, request_id: &str) {
        if let Some(row) = self.run.signal_ids.remove(request_id) {
            self.delete_row(Kind::SignalId, row);
        }
    }

    pub fn put_attached(&mut self, mut request: AttachedRequest) {
        if request.row == 0 {
            request.row = self.next_row_id();
        }
        self.put_row(
            Kind::RequestId,
            request.row,
            Bytes::from(request.encode_to_vec()),
        );
        self.run
            .attached
            .insert(request.request_id.clone(), Arc::new(request));
    }

    pub(crate) fn remove_attached(&mut self, request_id: &str) {
        if let Some(request) = self.run.attached.remove(request_id) {
            self.delete_row(Kind::RequestId, request.row);
        }
    }

    /// Changes memo, search attributes or reset points.
    pub fn change_visible(&mut self, f: impl FnOnce(&mut Visible)) {
        f(Arc::make_mut(&mut self.run.visible));
        self.touch(Kind::Visible, 0);
        self.visible_changed = true;
    }

    /// As [`Tx::change_visible`] for what no list shows.
    pub fn change_hidden(&mut self, f: impl FnOnce(&mut Visible)) {
        f(Arc::make_mut(&mut self.run.visible));
        self.touch(Kind::Visible, 0);
    }

    /// Drops all records that only an open run needs.
    pub(crate) fn drop_pending(&mut self) {
        for id in self.run.activities.keys().copied().collect::<Vec<_>>() {
            self.remove_activity(id);
        }
        for id in self.run.timers.keys().copied().collect::<Vec<_>>() {
            self.remove_timer(id);
        }
        for id in self.run.children.keys().copied().collect::<Vec<_>>() {
            self.remove_child(id);
        }
        for id in self
            .run
            .external_cancels
            .keys()
            .copied()
            .collect::<Vec<_>>()
        {
            self.remove_external_cancel(id);
        }
        for id in self
            .run
            .external_signals
            .keys()
            .copied()
            .collect::<Vec<_>>()
        {
            self.remove_external_signal(id);
        }
        for row in self.run.signal_ids.values().copied().collect::<Vec<_>>() {
            self.delete_row(Kind::SignalId, row);
        }
        self.run.signal_ids.clear();
        for (row, _) in std::mem::take(&mut self.run.buffered) {
            self.delete_row(Kind::Buffered, row);
        }
    }
}
