//! What operators set on task queues (`UpdateTaskQueueConfig`, contract 8.2 and 8.3).
//!
//! A record in the store for each queue on which something was set. They are few: all are in memory,
//! read when the server starts. A change is in force, and shown, when it is durable. Fairness has
//! no settings here yet.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use prost::Message;
use tidemill_engine::Error;
use tidemill_store::{Commit, Committer, NamespaceId, QueueName, QueueRecord, Store};

use crate::core::read_failed;
use crate::matching::Matching;
use crate::record_writer::RecordWriter;

/// The version of [`QueueConfig`] in the store. A reader refuses a record of a newer one; fields may be
/// added without raising it as long as older readers may ignore them.
const RECORD_VERSION: u32 = 1;

/// What was set on one queue.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct QueueConfig {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) rate: Option<RateSetting>,
}

impl QueueConfig {
    pub(crate) fn new(rate: RateSetting) -> Self {
        Self {
            version: RECORD_VERSION,
            rate: Some(rate),
        }
    }
}

/// A limit of dispatched tasks as it was set last, or removed.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RateSetting {
    /// 0 pauses the queue; `None` when the limit was removed.
    #[prost(float, optional, tag = "1")]
    pub(crate) per_second: Option<f32>,
    #[prost(string, tag = "2")]
    pub(crate) reason: String,
    #[prost(string, tag = "3")]
    pub(crate) identity: String,
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub(crate) updated: i64,
}

pub(crate) struct QueueConfigs {
    configs: Arc<RwLock<Configs>>,
    writer: RecordWriter,
    matching: Matching,
}

type Configs = HashMap<QueueName, QueueConfig>;

impl QueueConfigs {
    /// Reads the records of a store and puts them in force.
    pub(crate) fn open(
        store: &dyn Store,
        committer: Arc<Committer>,
        matching: Matching,
    ) -> Result<Self, Error> {
        let records = store.queue_records().map_err(read_failed)?;
        let mut configs = Configs::new();
        for QueueRecord { queue, value } in records {
            let config = decode(&queue, &value)?;
            enforce(&matching, &queue, &config);
            configs.insert(queue, config);
        }
        Ok(Self {
            configs: Arc::new(RwLock::new(configs)),
            writer: RecordWriter::new(committer),
            matching,
        })
    }

    /// `None` for a queue on which nothing was ever set.
    pub(crate) fn get(&self, queue: &QueueName) -> Option<QueueConfig> {
        self.configs.read().get(queue).cloned()
    }

    /// Sets or removes the limit of dispatched tasks; returns when that is durable and in force.
    pub(crate) async fn set_rate(
        &self,
        queue: QueueName,
        rate: RateSetting,
    ) -> Result<QueueConfig, Error> {
        let turn = self.writer.turn().await;
        let config = QueueConfig::new(rate);
        let commit = Commit {
            queues: vec![QueueRecord {
                queue: queue.clone(),
                value: config.encode_to_vec().into(),
            }],
            ..Default::default()
        };
        let (configs, matching, shown) =
            (self.configs.clone(), self.matching.clone(), config.clone());
        let show = move || {
            enforce(&matching, &queue, &shown);
            configs.write().insert(queue, shown);
        };
        self.writer.write(turn, commit, show).await?;
        Ok(config)
    }

    /// Lifts what was set on the queues of a namespace whose record has gone, and theirs with it.
    pub(crate) async fn forget(&self, namespace: &NamespaceId) {
        let _turn = self.writer.turn().await;
        let mut configs = self.configs.write();
        for (queue, _) in configs.extract_if(|queue, _| queue.namespace == *namespace) {
            self.matching.set_rate_limit(&queue, None);
        }
    }
}

fn enforce(matching: &Matching, queue: &QueueName, config: &QueueConfig) {
    if let Some(rate) = &config.rate {
        matching.set_rate_limit(queue, rate.per_second.map(f64::from));
    }
}

fn decode(queue: &QueueName, bytes: &[u8]) -> Result<QueueConfig, Error> {
    let lost =
        |what: String| Error::DataLoss(format!("record of task queue {}: {what}", queue.name));
    let config = QueueConfig::decode(bytes).map_err(|e| lost(e.to_string()))?;
    if config.version > RECORD_VERSION {
        let version = config.version;
        return Err(lost(format!("version {version} is newer than this binary")));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_round_trip_and_others_are_refused() {
        let queue = QueueName {
            namespace: [1; 16],
            name: "q".into(),
            kind: 2,
        };
        let config = QueueConfig::new(RateSetting {
            per_second: Some(0.0),
            reason: "maintenance".into(),
            identity: "operator".into(),
            updated: 7,
        });
        assert_eq!(decode(&queue, &config.encode_to_vec()).unwrap(), config);
        let newer = QueueConfig {
            version: RECORD_VERSION + 1,
            ..config
        };
        for bytes in [newer.encode_to_vec(), vec![0xff; 9]] {
            assert!(matches!(decode(&queue, &bytes), Err(Error::DataLoss(_))));
        }
    }
}
