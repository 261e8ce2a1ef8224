//! Shards: actors that each own the runs of some workflow ids.
//!
//! An operation is a closure that a shard calls with the run it is for. What it returns is
//! committed; its reply, its tasks and its notices leave when the commit is durable, while the
//! shard goes on with the next operation at once. If a commit fails, the shard forgets all it has
//! in memory and reads it again: what was built on the failed commit fails with it, because
//! commits carry the shard's generation. Runs whose changes were lost are looked at again a moment
//! later, because a wake-up may have been lost with them.

mod actor;
mod cache;
mod sync_match;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tidemill_engine::{Cx, Error, Outcome, Run, Time};
use tidemill_store::RunIdentity;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::core::Core;
use crate::namespaces::Namespace;
pub(crate) use actor::View;
use actor::{Actor, Message};

/// An operation's answer with the run as it was left.
pub(crate) struct Done<T> {
    pub(crate) value: T,
    pub(crate) view: View,
}

/// Which run an operation is for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) namespace: Namespace,
    pub(crate) workflow_id: Arc<str>,
    /// The current run when `None`.
    pub(crate) run_id: Option<[u8; 16]>,
}

impl Target {
    /// A target from request fields: an empty run id means the current run.
    pub(crate) fn new(
        namespace: &Namespace,
        workflow_id: &str,
        run_id: &str,
    ) -> Result<Self, Error> {
        let run_id = match run_id {
            "" => None,
            text => Some(
                tidemill_engine::ids::parse_uuid(text)
                    .ok_or_else(|| Error::invalid("Invalid RunId."))?,
            ),
        };
        Ok(Self {
            namespace: namespace.clone(),
            workflow_id: workflow_id.into(),
            run_id,
        })
    }

    pub(crate) fn of(namespace: &Namespace, owner: &RunIdentity) -> Self {
        Self {
            namespace: namespace.clone(),
            workflow_id: owner.workflow_id.clone(),
            run_id: Some(owner.run_id),
        }
    }
}

/// The mailboxes of all shards.
pub(crate) struct Shards {
    boxes: Vec<mpsc::UnboundedSender<Message>>,
    hasher: RandomState,
}

/// The receiving ends, until the actors are started.
pub(crate) struct Mailboxes(Vec<mpsc::UnboundedReceiver<Message>>);

impl Shards {
    pub(crate) fn new(count: usize) -> (Self, Mailboxes) {
        let (boxes, receivers) = (0..count.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        (
            Self {
                boxes,
                hasher: RandomState::new(),
            },
            Mailboxes(receivers),
        )
    }

    /// Starts the actors, which run until [`Shards::stop`].
    pub(crate) fn start(core: &Arc<Core>, mailboxes: Mailboxes) -> Vec<JoinHandle<()>> {
        let count = mailboxes.0.len();
        let start = |(lane, mailbox)| {
            let actor = Actor::new(core.clone(), lane, core.config.cache_bytes / count);
            core.runtime.spawn(actor.run(mailbox))
        };
        mailboxes.0.into_iter().enumerate().map(start).collect()
    }

    /// Lets the actors end. Operations that they have not begun are answered as unavailable.
    pub(crate) fn stop(&self) {
        for lane in 0..self.boxes.len() {
            self.send(lane, Message::Stop);
        }
    }

    fn lane(&self, namespace: &[u8; 16], workflow_id: &str) -> usize {
        self.hasher.hash_one((namespace, workflow_id)) as usize % self.boxes.len()
    }

    pub(crate) fn send(&self, lane: usize, message: Message) {
        // A shard that has stopped answers nobody: callers see their reply dropped.
        let _ = self.boxes[lane].send(message);
    }

    /// Looks at a run because the time that it wanted has come.
    pub(crate) fn wake(&self, run: RunIdentity, at: Time) {
        let lane = self.lane(&run.namespace, &run.workflow_id);
        self.send(lane, Message::Wake(run, at));
    }

    /// Runs an operation on a run.
    pub(crate) async fn on_run<T: Send + 'static>(
        &self,
        target: Target,
        operation: impl FnOnce(&Run, &Cx<'_>) -> Result<Outcome<T>, Error> + Send + 'static,
    ) -> Result<Done<T>, Error> {
        let lane = self.lane(&target.namespace.id, &target.workflow_id);
        let (reply, receive) = oneshot::channel();
        let job = Box::new(move |actor: &mut Actor| actor.on_run(&target, operation, reply));
        self.send(lane, Message::Job(job));
        receive.await.unwrap_or_else(|_| Err(unanswered()))
    }

    /// Runs an operation on a workflow id, which may have no run yet. It gets the current run; the
    /// transitions may create others of the same workflow id.
    pub(crate) async fn on_workflow<T: Send + 'static>(
        &self,
        namespace: &Namespace,
        workflow_id: &str,
        operation: impl FnOnce(Option<&Run>, &Cx<'_>) -> Result<Outcome<T>, Error> + Send + 'static,
    ) -> Result<Done<T>, Error> {
        let target = Target {
            namespace: namespace.clone(),
            workflow_id: workflow_id.into(),
            run_id: None,
        };
        let lane = self.lane(&namespace.id, workflow_id);
        let (reply, receive) = oneshot::channel();
        let job = Box::new(move |actor: &mut Actor| actor.on_workflow(&target, operation, reply));
        self.send(lane, Message::Job(job));
        receive.await.unwrap_or_else(|_| Err(unanswered()))
    }

    /// A run as it is (durably) now.
    pub(crate) async fn read(&self, target: Target) -> Result<View, Error> {
        Ok(self
            .on_run(target, |_, _| Ok(Outcome::unchanged(())))
            .await?
            .view)
    }

    /// Deletes a closed run and all its records. It is asked for at once; the future only waits.
    pub(crate) fn delete(
        &self,
        run: RunIdentity,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        let lane = self.lane(&run.namespace, &run.workflow_id);
        let (reply, receive) = oneshot::channel();
        let job = Box::new(move |actor: &mut Actor| actor.delete(&run, reply));
        self.send(lane, Message::Job(job));
        async { receive.await.unwrap_or_else(|_| Err(unanswered())) }
    }
}

/// The reply was dropped: the shard has stopped, or the operation panicked in it.
fn unanswered() -> Error {
    Error::Unavailable("the operation got no answer, try again: the server is stopping, or a fault in it was contained".into())
}

#[cfg(test)]
mod tests {
    use tidemill_proto::api::common::v1::{WorkflowExecution, WorkflowType};
    use tidemill_proto::api::taskqueue::v1::TaskQueue;
    use tidemill_proto::api::workflowservice::v1::{
        SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
    };
    use tidemill_store::sqlite::SqliteStore;

    use super::*;
    use crate::namespaces::{DEFAULT, Registration};
    use crate::{Call, Config, Server};

    #[tokio::test]
    async fn a_panic_is_contained_at_its_run() {
        let config = Config {
            namespaces: vec![Registration {
                name: DEFAULT.to_owned(),
                retention: std::time::Duration::from_secs(86_400),
                ..Default::default()
            }],
            shards: 1,
            ..Default::default()
        };
        let store = Arc::new(SqliteStore::memory().unwrap());
        let server = Server::start(store, config).await.unwrap();
        let namespace = server.namespaces().by_name(DEFAULT).unwrap();
        for id in ["broken", "sound"] {
            let request = StartWorkflowExecutionRequest {
                workflow_id: id.into(),
                workflow_type: Some(WorkflowType {
                    name: "Type".into(),
                }),
                task_queue: Some(TaskQueue {
                    name: "queue".into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let started = server.start_workflow_execution(&namespace, request, Call::default());
            started.await.unwrap();
        }
        let shards = &server.core.shards;
        let target = |id| Target::new(&namespace, id, "").unwrap();
        let broken = shards.on_run::<()>(target("broken"), |_, _| panic!("as the test asked"));
        match broken.await.map(|_| ()) {
            Err(Error::Internal(text)) => assert!(text.contains("as the test asked"), "{text}"),
            other => panic!("{other:?}"),
        }
        // What is not an operation on a run.
        shards.send(0, Message::Job(Box::new(|_| panic!("as the test asked"))));
        for id in ["broken", "sound"] {
            let request = SignalWorkflowExecutionRequest {
                workflow_execution: Some(WorkflowExecution {
                    workflow_id: id.into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let sent = server.signal_workflow_execution(&namespace, request, Call::default());
            sent.await.unwrap();
            let run = shards.read(target(id)).await.unwrap().run;
            assert_eq!(run.last_event_id(), 3, "{id}");
        }
        assert_eq!(server.metrics().contained_failures.get(), 2);
        server.shutdown().await;
    }
}
