//! Tasks on the sticky queue of a worker that is not there: they go to any worker. What matching does
//! at a worker's leave and while the engine runs is in `matching::sticky`.

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::Error;
use tidemill_store::{QueueName, StoredTask};

use crate::commit::WORKFLOW_QUEUE;
use crate::core::{Core, blocking};
use crate::namespaces::Namespace;
use crate::shard::Target;

/// How long workers have after a start of the engine to poll their sticky queues again.
const RETURN_WITHIN: Duration = Duration::from_secs(1);
const PAGE: usize = 200;

/// After a start over a store with these queues: tasks on sticky ones whose workers did not come back
/// would else stand still until their schedule-to-start timeout.
pub(crate) async fn give_up_abandoned(core: Arc<Core>, mut queues: Vec<QueueName>) {
    queues.retain(|queue| queue.kind == WORKFLOW_QUEUE);
    if queues.is_empty() || !core.stop.sleep(RETURN_WITHIN).await {
        return;
    }
    for queue in queues {
        if let Err(error) = give_up(&core, &queue).await {
            tracing::warn!(%error, queue = %queue.name, "tasks of a sticky queue wait for their timeout");
        }
    }
}

/// Sends what the store has of a queue to where its runs are worked on, if the queue is a sticky one
/// and nobody polls it.
async fn give_up(core: &Arc<Core>, queue: &QueueName) -> Result<(), Error> {
    let Ok(namespace) = core.namespaces.by_id(&queue.namespace) else {
        return Ok(());
    };
    let mut from = (0, 0);
    while !core.matching.sticky_available(queue) {
        let (reader, name) = (core.clone(), queue.clone());
        let page = blocking(move || reader.store.read_tasks(&name, from, PAGE));
        let page = page.await.map_err(|e| Error::Internal(e.to_string()))?;
        let page = page.map_err(|e| Error::Unavailable(e.to_string()))?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        from = (last.task.key.priority, last.task.key.seq + 1);
        for task in page {
            let Some(normal) = normal_queue(core, &namespace, &task).await? else {
                continue;
            };
            // Rows do not say whether their queue is sticky. It is none if this run's own: no worker
            // gives its sticky queue the name of another.
            if normal == *queue {
                return Ok(());
            }
            core.matching.add_to(&normal, task);
        }
    }
    Ok(())
}

/// A task that waited on a sticky queue in memory.
pub(crate) async fn to_normal_queue(core: &Core, namespace: &Namespace, task: StoredTask) {
    match normal_queue(core, namespace, &task).await {
        Ok(Some(queue)) => {
            core.matching.add_to(&queue, task);
        }
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(%error, workflow_id = %task.owner.workflow_id, "a task stays on its sticky queue until that times out");
            core.matching.requeue(task);
        }
    }
}

/// Where any worker of the task's run asks; `None` if the run was deleted, and its tasks with it.
async fn normal_queue(
    core: &Core,
    namespace: &Namespace,
    task: &StoredTask,
) -> Result<Option<QueueName>, Error> {
    match core.shards.read(Target::of(namespace, &task.owner)).await {
        Ok(view) => Ok(Some(QueueName {
            name: view.run.task_queue().into(),
            ..task.task.key.queue.clone()
        })),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
