//! One workflow's history.

use std::time::Duration;

use serde_json::Value;
use tidemill_proto::api::common::v1::WorkflowExecution;
use tidemill_proto::api::history::v1::{History, HistoryEvent};
use tidemill_proto::api::workflowservice::v1::GetWorkflowExecutionHistoryRequest;
use tidemill_proto::client::{Code, Status};

use super::connection::{Connection, refused, waiting};
use super::list::time;
use super::{Execution, json};
use crate::exit::Failure;
use crate::output;
use crate::table;

/// The longest text of an event's details.
const DETAILS_CHARS_MAX: usize = 160;
const WAIT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    execution: Execution,
    /// Go on until the workflow ends, showing events as they come.
    #[arg(long, short)]
    follow: bool,
}

pub(super) async fn run(connection: &mut Connection, arguments: Arguments) -> Result<(), Failure> {
    if !arguments.follow {
        let events = read(connection, &arguments.execution).await?;
        return print(connection, events);
    }
    let mut token = Vec::new();
    loop {
        let page = page(connection, &arguments.execution.proto(), token, true)
            .await
            .map_err(refused)?;
        if !page.0.is_empty() {
            print(connection, page.0)?;
        }
        token = page.1;
        if token.is_empty() {
            return Ok(());
        }
    }
}

/// All events that there are.
pub(super) async fn read(
    connection: &mut Connection,
    execution: &Execution,
) -> Result<Vec<HistoryEvent>, Failure> {
    let mut events = Vec::new();
    let mut token = Vec::new();
    loop {
        let (more, next) = page(connection, &execution.proto(), token, false)
            .await
            .map_err(refused)?;
        events.extend(more);
        if next.is_empty() {
            return Ok(events);
        }
        token = next;
    }
}

/// Events and the token of those that follow, empty at the end. With `wait_new_event`, the next ones.
pub(crate) async fn page(
    connection: &mut Connection,
    execution: &WorkflowExecution,
    next_page_token: Vec<u8>,
    wait_new_event: bool,
) -> Result<(Vec<HistoryEvent>, Vec<u8>), Status> {
    loop {
        let request = GetWorkflowExecutionHistoryRequest {
            namespace: connection.namespace.clone(),
            execution: Some(execution.clone()),
            next_page_token: next_page_token.clone(),
            wait_new_event,
            ..Default::default()
        };
        match connection
            .client
            .get_workflow_execution_history(waiting(request, WAIT))
            .await
        {
            Ok(answer) => {
                let answer = answer.into_inner();
                return Ok((
                    answer.history.unwrap_or_default().events,
                    answer.next_page_token,
                ));
            }
            Err(status) if wait_new_event && status.code() == Code::DeadlineExceeded => {}
            Err(status) => return Err(status),
        }
    }
}

fn print(connection: &Connection, events: Vec<HistoryEvent>) -> Result<(), Failure> {
    if connection.json {
        json::print(&json::exact(&History { events })?);
        return Ok(());
    }
    let rows: Result<Vec<_>, _> = events.iter().map(row).collect();
    output::write(&table::render(&["ID", "TIME", "EVENT", "DETAILS"], &rows?));
    Ok(())
}

fn row(event: &HistoryEvent) -> Result<Vec<String>, Failure> {
    Ok(vec![
        event.event_id.to_string(),
        time(&event.event_time),
        format!("{:?}", event.event_type()),
        details(&json::readable(event)?),
    ])
}

/// What an event says beside its head, as `name=value`, the simple fields first.
fn details(event: &Value) -> String {
    let attributes = event.as_object().into_iter().flatten();
    let attributes = attributes.filter(|(name, _)| name.ends_with("EventAttributes"));
    let fields = attributes
        .filter_map(|(_, fields)| fields.as_object())
        .flatten();
    let (mut simple, mut nested) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        match value {
            Value::Object(fields) => match fields.get("name").and_then(Value::as_str) {
                Some(known) => simple.push(format!("{name}={known}")),
                None => nested.push(format!("{name}={value}")),
            },
            Value::String(text) => simple.push(format!("{name}={text}")),
            value => simple.push(format!("{name}={value}")),
        }
    }
    simple.append(&mut nested);
    let text = simple.join(" ");
    match text.char_indices().nth(DETAILS_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_short_and_begin_with_what_is_simple() {
        let event = serde_json::json!({
            "eventId": "1",
            "workflowExecutionStartedEventAttributes": {
                "header": {"fields": {"a": 1}},
                "workflowType": {"name": "Embed"},
                "attempt": 1,
                "identity": "me",
            }
        });
        assert_eq!(
            details(&event),
            "attempt=1 identity=me workflowType=Embed header={\"fields\":{\"a\":1}}"
        );
        let long = serde_json::json!({"xEventAttributes": {"name": "é".repeat(500)}});
        assert_eq!(details(&long).chars().count(), DETAILS_CHARS_MAX + 1);
    }
}
