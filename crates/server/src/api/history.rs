//! Reading histories, with or without waiting for more (contract 7.1).

use prost::Message;
use tidemill_engine::{Error, Outcome, workflow_task};
use tidemill_proto::api::enums::v1::HistoryEventFilterType;
use tidemill_proto::api::history::v1::History;
use tidemill_proto::api::workflowservice::v1::{
    GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryResponse,
    GetWorkflowExecutionHistoryReverseRequest, GetWorkflowExecutionHistoryReverseResponse,
};
use tidemill_proto::with_history::{self, WithHistory};
use tidemill_store::RunNo;

use super::{Call, target};
use crate::Server;
use crate::history::PAGE_BATCHES;
use crate::namespaces::Namespace;
use crate::shard::{Done, Target, View};
use crate::token::HistoryToken;

impl Server {
    pub async fn get_workflow_execution_history(
        &self,
        namespace: &Namespace,
        request: GetWorkflowExecutionHistoryRequest,
        call: Call,
    ) -> Result<with_history::GetWorkflowExecutionHistoryResponse, Error> {
        let mut target = target(namespace, &request.execution)?;
        let token = continued(&request.next_page_token, &mut target)?;
        if token.reverse {
            return Err(Error::invalid("Invalid NextPageToken."));
        }
        let batches = page_batches(request.maximum_page_size);
        let wait = request.wait_new_event;
        let close_only = request.history_event_filter_type() == HistoryEventFilterType::CloseEvent;
        if close_only {
            return self.close_event(target, token, wait, &call).await;
        }
        let mut view = self.core.shards.read(target.clone()).await?;
        if wait && token.next_event_id > 1 && token.last_event_id == 0 {
            view = self
                .wait_for(target, view, token.next_event_id, &call)
                .await?;
        }
        let last = match token.last_event_id {
            0 => view.run.last_event_id(),
            bound => bound.min(view.run.last_event_id()),
        };
        let mut page = self
            .core
            .read_history(&view, token.next_event_id, last, batches)
            .await?;
        let next = match page.next_event_id {
            Some(next) => Some(next),
            None if token.last_event_id != 0 => None,
            None if wait && view.run.is_open() => Some(last + 1),
            None => None,
        };
        let at_end = page.next_event_id.is_none();
        if at_end
            && (token.with_tail || token.last_event_id == 0)
            && !shows_history_only(&call)
            && !wait
        {
            let unwritten = workflow_task::unwritten(&view.run).into_iter();
            page.add(unwritten.filter(|e| e.event_id > last));
        }
        let answer = GetWorkflowExecutionHistoryResponse {
            next_page_token: next
                .map(|next_event_id| {
                    HistoryToken {
                        run: run_bytes(&view),
                        next_event_id,
                        ..token
                    }
                    .encode_to_vec()
                })
                .unwrap_or_default(),
            ..Default::default()
        };
        Ok(WithHistory::new(answer, page.parts))
    }

    /// Only the event that closed the run, once there is one.
    async fn close_event(
        &self,
        target: Target,
        token: HistoryToken,
        wait: bool,
        call: &Call,
    ) -> Result<with_history::GetWorkflowExecutionHistoryResponse, Error> {
        let core = self.core.clone();
        let asked = self.core.shards.on_run(target.clone(), move |run, _| {
            // Where the run is changed: what closes it comes after this, and will be told.
            let closing = wait && run.is_open();
            Ok(Outcome::unchanged(
                closing.then(|| core.waiters.watch_close(RunNo(run.id.no))),
            ))
        });
        let Done {
            value: closing,
            mut view,
        } = asked.await?;
        if let Some(mut closing) = closing {
            let deadline = self.wait_until(call, self.core.config.long_poll);
            let told = tokio::time::timeout_at(deadline, closing.told()).await;
            // Otherwise the server stops, or the time is over: the run is as open as it was.
            if let Ok(true) = told {
                view = self.core.shards.read(pinned(target, &view)).await?;
            }
        }
        if view.run.is_open() {
            let next_page_token = match wait {
                true => HistoryToken {
                    run: run_bytes(&view),
                    next_event_id: view.run.core.next_event_id,
                    ..token
                }
                .encode_to_vec(),
                false => Vec::new(),
            };
            let answer = GetWorkflowExecutionHistoryResponse {
                next_page_token,
                ..Default::default()
            };
            return Ok(WithHistory::new(answer, Vec::new()));
        }
        let last = view.run.last_event_id();
        let page = self.core.read_history(&view, last, last, 1).await?;
        Ok(WithHistory::new(Default::default(), page.parts))
    }

    /// Waits until the run has the event (or is closed), at most for the long-poll bound.
    async fn wait_for(
        &self,
        target: Target,
        view: View,
        event_id: i64,
        call: &Call,
    ) -> Result<View, Error> {
        let deadline = self.wait_until(call, self.core.config.long_poll);
        let target = pinned(target, &view);
        let mut watch = self.core.waiters.watch_history(RunNo(view.run.id.no));
        loop {
            let view = self.core.shards.read(target.clone()).await?;
            if view.run.core.next_event_id > event_id || !view.run.is_open() {
                return Ok(view);
            }
            match tokio::time::timeout_at(deadline, watch.told()).await {
                Ok(true) => {}
                // The server stops, or the time is over: the answer is what there is.
                Ok(false) | Err(_) => return Ok(view),
            }
        }
    }

    pub async fn get_workflow_execution_history_reverse(
        &self,
        namespace: &Namespace,
        request: GetWorkflowExecutionHistoryReverseRequest,
        _call: Call,
    ) -> Result<GetWorkflowExecutionHistoryReverseResponse, Error> {
        let mut target = target(namespace, &request.execution)?;
        let given = !request.next_page_token.is_empty();
        let token = continued(&request.next_page_token, &mut target)?;
        if given && !token.reverse {
            return Err(Error::invalid("Invalid NextPageToken."));
        }
        let view = self.core.shards.read(target).await?;
        let from = if given {
            token.next_event_id
        } else {
            view.run.last_event_id()
        };
        let page = self
            .core
            .read_history_reverse(&view, from, page_batches(request.maximum_page_size))
            .await?;
        Ok(GetWorkflowExecutionHistoryReverseResponse {
            history: Some(History {
                events: page.events,
            }),
            next_page_token: page
                .next_event_id
                .map(|next_event_id| {
                    HistoryToken {
                        run: run_bytes(&view),
                        next_event_id,
                        reverse: true,
                        ..Default::default()
                    }
                    .encode_to_vec()
                })
                .unwrap_or_default(),
        })
    }
}

/// Where a request goes on; a fresh one begins at the first event. The token's run must be the
/// request's, if that names one.
fn continued(token: &[u8], target: &mut Target) -> Result<HistoryToken, Error> {
    if token.is_empty() {
        return Ok(HistoryToken {
            next_event_id: 1,
            ..Default::default()
        });
    }
    let token = HistoryToken::read(token)?;
    if target.run_id.is_some_and(|run_id| run_id != token.run_id()) {
        return Err(Error::invalid(
            "RunId in the request does not match the next page token.",
        ));
    }
    target.run_id = Some(token.run_id());
    Ok(token)
}

/// The run itself: a continued run's history ends where the next one begins.
fn pinned(target: Target, view: &View) -> Target {
    Target {
        run_id: Some(tidemill_engine::ids::parse_uuid(&view.run.id.run_id).unwrap_or_default()),
        ..target
    }
}

fn run_bytes(view: &View) -> Vec<u8> {
    tidemill_engine::ids::parse_uuid(&view.run.id.run_id)
        .unwrap_or_default()
        .to_vec()
}

fn page_batches(requested: i32) -> usize {
    match usize::try_from(requested) {
        Ok(n) if n > 0 => n.min(PAGE_BATCHES),
        _ => PAGE_BATCHES,
    }
}

/// Tools that show histories to people get what is written; SDKs also the pending task's events
/// that are not.
fn shows_history_only(call: &Call) -> bool {
    matches!(
        call.client_name.as_str(),
        "temporal-cli" | "temporal-ui" | "tidemill-cli"
    )
}
