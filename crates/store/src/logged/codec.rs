//! Commits as bytes of the log.
//!
//! Positional and without names: integers as varints, times and numbers zigzag, bytes with their length
//! before them, lists with their count. The version is that of the log's segments.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    AttributeValue, Commit, Error, Execution, HistoryBatch, NamespaceWrite, OutboxRow, QueueName,
    QueueRecord, RunNo, RunWrite, StateRow, TaskKey, TaskRow,
};

/// Appends the commits that write something.
pub(super) fn encode(commits: &[&Commit], out: &mut Vec<u8>) {
    let mut writer = Writer(out);
    let commits = commits.iter().filter(|commit| !commit.is_empty());
    writer.list(commits, |writer, commit| writer.commit(commit));
}

/// What [`encode`] was given.
pub(crate) fn decode(bytes: Bytes) -> Result<Vec<Commit>, Error> {
    let mut reader = Reader(bytes);
    reader
        .list(Reader::commit)
        .filter(|_| reader.0.is_empty())
        .ok_or_else(|| Error::Corrupt("a commit in the log cannot be decoded".into()))
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn signed(&mut self, value: i64) {
        self.unsigned((value << 1 ^ value >> 63) as u64);
    }

    fn bytes(&mut self, value: &[u8]) {
        self.unsigned(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn flag(&mut self, value: bool) {
        self.0.push(value.into());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(
        &mut self,
        values: impl Iterator<Item = T> + Clone,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.unsigned(values.clone().count() as u64);
        values.for_each(|value| write(self, value));
    }

    fn commit(&mut self, commit: &Commit) {
        let Commit {
            runs,
            deletes,
            namespaces,
            queues,
        } = commit;
        self.list(runs.iter(), Self::run);
        self.list(deletes.iter(), |writer, run| writer.signed(run.0));
        self.list(namespaces.iter(), |writer, namespace| {
            let NamespaceWrite { id, name, value } = namespace;
            writer.0.extend_from_slice(id);
            writer.bytes(name.as_bytes());
            writer.option(value.as_ref(), |writer, value| writer.bytes(value));
        });
        self.list(queues.iter(), |writer, record| {
            let QueueRecord { queue, value } = record;
            writer.queue(queue);
            writer.bytes(value);
        });
    }

    fn run(&mut self, write: &RunWrite) {
        let RunWrite {
            run,
            execution,
            copy_history,
            history,
            state,
            due,
            tasks_added,
            tasks_removed,
            outbox_added,
            outbox_removed,
        } = write;
        self.signed(run.0);
        self.option(execution.as_deref(), Self::execution);
        self.option(*copy_history, |writer, (source, below)| {
            writer.signed(source.0);
            writer.signed(below);
        });
        self.list(history.iter(), |writer, batch| {
            let HistoryBatch {
                first_event_id,
                last_event_id,
                bytes,
            } = batch;
            writer.signed(*first_event_id);
            writer.signed(*last_event_id);
            writer.bytes(bytes);
        });
        self.list(state.iter(), |writer, row| {
            let StateRow { kind, id, value } = row;
            writer.0.push(*kind);
            writer.signed(*id);
            writer.option(value.as_ref(), |writer, value| writer.bytes(value));
        });
        self.option(*due, |writer, due| writer.option(due, Self::signed));
        self.list(tasks_added.iter(), |writer, task| {
            let TaskRow {
                key,
                run,
                scheduled_event_id,
                stamp,
                created,
            } = task;
            writer.task_key(key);
            writer.signed(run.0);
            writer.signed(*scheduled_event_id);
            writer.signed(*stamp);
            writer.signed(*created);
        });
        self.list(tasks_removed.iter(), Self::task_key);
        self.list(outbox_added.iter(), |writer, row| {
            let OutboxRow { id, value } = row;
            writer.signed(*id);
            writer.bytes(value);
        });
        self.list(outbox_removed.iter(), |writer, id| writer.signed(*id));
    }

    fn queue(&mut self, queue: &QueueName) {
        let QueueName {
            namespace,
            name,
            kind,
        } = queue;
        self.0.extend_from_slice(namespace);
        self.bytes(name.as_bytes());
        self.0.push(*kind);
    }

    fn task_key(&mut self, key: &TaskKey) {
        let TaskKey {
            queue,
            priority,
            seq,
        } = key;
        self.queue(queue);
        self.0.push(*priority);
        self.signed(*seq);
    }

    fn execution(&mut self, execution: &Execution) {
        let Execution {
            namespace,
            workflow_id,
            run_id,
            workflow_type,
            task_queue,
            status,
            start_time,
            execution_time,
            close_time,
            history_length,
            history_size_bytes,
            execution_duration,
            state_transition_count,
            parent_workflow_id,
            parent_run_id,
            root_workflow_id,
            root_run_id,
            info,
            attributes,
            delete_after,
        } = execution;
        self.0.extend_from_slice(namespace);
        self.bytes(workflow_id.as_bytes());
        self.0.extend_from_slice(run_id);
        self.bytes(workflow_type.as_bytes());
        self.bytes(task_queue.as_bytes());
        self.signed((*status).into());
        self.signed(*start_time);
        self.signed(*execution_time);
        for number in [
            close_time,
            history_length,
            history_size_bytes,
            execution_duration,
            state_transition_count,
        ] {
            self.option(*number, Self::signed);
        }
        for text in [
            parent_workflow_id,
            parent_run_id,
            root_workflow_id,
            root_run_id,
        ] {
            self.option(text.as_ref(), |writer, text| writer.bytes(text.as_bytes()));
        }
        self.bytes(info);
        self.list(attributes.iter(), |writer, (name, value)| {
            writer.bytes(name.as_bytes());
            writer.attribute(value);
        });
        self.option(*delete_after, Self::signed);
    }

    fn attribute(&mut self, value: &AttributeValue) {
        match value {
            AttributeValue::Bool(value) => {
                self.0.push(0);
                self.flag(*value);
            }
            AttributeValue::Int(value) => {
                self.0.push(1);
                self.signed(*value);
            }
            AttributeValue::Double(value) => {
                self.0.push(2);
                self.0.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            AttributeValue::Datetime(value) => {
                self.0.push(3);
                self.signed(*value);
            }
            AttributeValue::Keyword(value) => {
                self.0.push(4);
                self.bytes(value.as_bytes());
            }
            AttributeValue::KeywordList(values) => {
                self.0.push(5);
                self.list(values.iter(), |writer, value| {
                    writer.bytes(value.as_bytes())
                });
            }
            AttributeValue::Text(value) => {
                self.0.push(6);
                self.bytes(value.as_bytes());
            }
        }
    }
}

/// Reads from the front. `None` where the bytes are not what [`Writer`] writes.
struct Reader(Bytes);

impl Reader {
    fn take(&mut self, len: usize) -> Option<Bytes> {
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?[..].try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.unsigned()?).ok()?;
        self.take(len)
    }

    fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.into()).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => read(self).map(Some),
            false => Some(None),
        }
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.unsigned()?;
        (0..count).map(|_| read(self)).collect()
    }

    fn commit(&mut self) -> Option<Commit> {
        Some(Commit {
            runs: self.list(Self::run)?,
            deletes: self.list(|reader| reader.signed().map(RunNo))?,
            namespaces: self.list(|reader| {
                Some(NamespaceWrite {
                    id: reader.array()?,
                    name: reader.string()?,
                    value: reader.option(Self::bytes)?,
                })
            })?,
            queues: self.list(|reader| {
                Some(QueueRecord {
                    queue: reader.queue()?,
                    value: reader.bytes()?,
                })
            })?,
        })
    }

    fn run(&mut self) -> Option<RunWrite> {
        Some(RunWrite {
            run: RunNo(self.signed()?),
            execution: self.option(Self::execution)?.map(Box::new),
            copy_history: self
                .option(|reader| Some((RunNo(reader.signed()?), reader.signed()?)))?,
            history: self.list(|reader| {
                Some(HistoryBatch {
                    first_event_id: reader.signed()?,
                    last_event_id: reader.signed()?,
                    bytes: reader.bytes()?,
                })
            })?,
            state: self.list(|reader| {
                Some(StateRow {
                    kind: reader.byte()?,
                    id: reader.signed()?,
                    value: reader.option(Self::bytes)?,
                })
            })?,
            due: self.option(|reader| reader.option(Self::signed))?,
            tasks_added: self.list(|reader| {
                Some(TaskRow {
                    key: reader.task_key()?,
                    run: RunNo(reader.signed()?),
                    scheduled_event_id: reader.signed()?,
                    stamp: reader.signed()?,
                    created: reader.signed()?,
                })
            })?,
            tasks_removed: self.list(Self::task_key)?,
            outbox_added: self.list(|reader| {
                Some(OutboxRow {
                    id: reader.signed()?,
                    value: reader.bytes()?,
                })
            })?,
            outbox_removed: self.list(Self::signed)?,
        })
    }

    fn queue(&mut self) -> Option<QueueName> {
        Some(QueueName {
            namespace: self.array()?,
            name: self.string()?.into(),
            kind: self.byte()?,
        })
    }

    fn task_key(&mut self) -> Option<TaskKey> {
        Some(TaskKey {
            queue: self.queue()?,
            priority: self.byte()?,
            seq: self.signed()?,
        })
    }

    fn execution(&mut self) -> Option<Execution> {
        Some(Execution {
            namespace: self.array()?,
            workflow_id: Arc::from(self.string()?),
            run_id: self.array()?,
            workflow_type: self.string()?,
            task_queue: self.string()?,
            status: self.signed()?.try_into().ok()?,
            start_time: self.signed()?,
            execution_time: self.signed()?,
            close_time: self.option(Self::signed)?,
            history_length: self.option(Self::signed)?,
            history_size_bytes: self.option(Self::signed)?,
            execution_duration: self.option(Self::signed)?,
            state_transition_count: self.option(Self::signed)?,
            parent_workflow_id: self.option(Self::string)?,
            parent_run_id: self.option(Self::string)?,
            root_workflow_id: self.option(Self::string)?,
            root_run_id: self.option(Self::string)?,
            info: self.bytes()?,
            attributes: self.list(|reader| Some((reader.string()?, reader.attribute()?)))?,
            delete_after: self.option(Self::signed)?,
        })
    }

    fn attribute(&mut self) -> Option<AttributeValue> {
        Some(match self.byte()? {
            0 => AttributeValue::Bool(self.flag()?),
            1 => AttributeValue::Int(self.signed()?),
            2 => AttributeValue::Double(f64::from_bits(u64::from_le_bytes(self.array()?))),
            3 => AttributeValue::Datetime(self.signed()?),
            4 => AttributeValue::Keyword(self.string()?),
            5 => AttributeValue::KeywordList(self.list(Self::string)?),
            6 => AttributeValue::Text(self.string()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_key(seq: i64) -> TaskKey {
        TaskKey {
            queue: QueueName {
                namespace: [3; 16],
                name: "queue".into(),
                kind: 2,
            },
            priority: 255,
            seq,
        }
    }

    /// Everything that a commit can hold; `n` makes it another one.
    fn full(n: i64) -> Commit {
        let attributes = [
            AttributeValue::Bool(true),
            AttributeValue::Int(-n),
            AttributeValue::Double(-0.0),
            AttributeValue::Double(f64::NAN),
            AttributeValue::Datetime(i64::MIN),
            AttributeValue::Keyword("ü".into()),
            AttributeValue::KeywordList(vec!["a".into(), String::new()]),
            AttributeValue::Text("some text".into()),
        ];
        let execution = Execution {
            namespace: [1; 16],
            workflow_id: "workflow".into(),
            run_id: [2; 16],
            workflow_type: "Type".into(),
            task_queue: "queue".into(),
            status: i32::MIN,
            start_time: n,
            execution_time: i64::MAX,
            close_time: Some(-1),
            history_length: None,
            history_size_bytes: Some(0),
            execution_duration: None,
            state_transition_count: Some(n),
            parent_workflow_id: Some("parent".into()),
            parent_run_id: None,
            root_workflow_id: Some(String::new()),
            root_run_id: None,
            info: Bytes::from_static(b"info"),
            attributes: attributes.map(|value| ("Name".to_owned(), value)).to_vec(),
            delete_after: Some(i64::MIN),
        };
        let write = RunWrite {
            run: RunNo(n),
            execution: Some(Box::new(execution)),
            copy_history: Some((RunNo(-5), 7)),
            history: vec![HistoryBatch {
                first_event_id: 1,
                last_event_id: i64::MAX,
                bytes: Bytes::from(vec![9; 300]),
            }],
            state: vec![
                StateRow {
                    kind: 255,
                    id: i64::MIN,
                    value: None,
                },
                StateRow {
                    kind: 0,
                    id: 0,
                    value: Some(Bytes::new()),
                },
            ],
            due: Some(Some(-3)),
            tasks_added: vec![TaskRow {
                key: task_key(n),
                run: RunNo(n),
                scheduled_event_id: 5,
                stamp: -6,
                created: 7,
            }],
            tasks_removed: vec![task_key(-n)],
            outbox_added: vec![OutboxRow {
                id: n,
                value: Bytes::from_static(b"effect"),
            }],
            outbox_removed: vec![1, i64::MAX],
        };
        let bare = RunWrite {
            execution: None,
            copy_history: None,
            due: Some(None),
            ..write.clone()
        };
        Commit {
            runs: vec![write, bare.clone(), RunWrite { due: None, ..bare }],
            deletes: vec![RunNo(4), RunNo(-4)],
            namespaces: vec![
                NamespaceWrite {
                    id: [5; 16],
                    name: "name".into(),
                    value: None,
                },
                NamespaceWrite {
                    id: [6; 16],
                    name: String::new(),
                    value: Some(Bytes::from_static(b"x")),
                },
            ],
            queues: vec![QueueRecord {
                queue: task_key(0).queue,
                value: Bytes::from_static(b"set"),
            }],
        }
    }

    fn encoded(commits: &[&Commit]) -> Bytes {
        let mut out = Vec::new();
        encode(commits, &mut out);
        out.into()
    }

    #[test]
    fn commits_come_back_whole() {
        let commits = [full(1), full(i64::MAX), full(-1_000)];
        let read = decode(encoded(&commits.each_ref())).unwrap();
        assert_eq!(format!("{read:?}"), format!("{commits:?}"));
    }

    #[test]
    fn empty_commits_are_left_out() {
        let empty = Commit::default();
        let read = decode(encoded(&[&empty, &full(1), &empty])).unwrap();
        assert_eq!(read.len(), 1);
    }

    #[test]
    fn what_is_cut_or_longer_is_refused() {
        let bytes = encoded(&[&full(1)]);
        for len in 0..bytes.len() {
            assert!(decode(bytes.slice(..len)).is_err(), "{len}");
        }
        assert!(decode([&bytes[..], b"\0"].concat().into()).is_err());
        // A count that promises more than there is.
        assert!(decode(Bytes::from_static(&[0xff; 10])).is_err());
    }
}
