//! Lists and counts of runs (contract section 10).

use prost::Message;
use tidemill_engine::Error;
use tidemill_engine::ids::format_uuid;
use tidemill_engine::search_attribute;
use tidemill_proto::api::common::v1::Payload;
use tidemill_proto::api::enums::v1::WorkflowExecutionStatus;
use tidemill_proto::api::filter::v1::StartTimeFilter;
use tidemill_proto::api::workflow::v1::WorkflowExecutionInfo;
use tidemill_proto::api::workflowservice::v1::count_workflow_executions_response::AggregationGroup;
use tidemill_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CountWorkflowExecutionsResponse,
    ListClosedWorkflowExecutionsRequest, ListClosedWorkflowExecutionsResponse,
    ListOpenWorkflowExecutionsRequest, ListOpenWorkflowExecutionsResponse,
    ListWorkflowExecutionsRequest, ListWorkflowExecutionsResponse, ScanWorkflowExecutionsRequest,
    ScanWorkflowExecutionsResponse, list_closed_workflow_executions_request as closed,
    list_open_workflow_executions_request as open,
};
use tidemill_store::{AttributeValue, ExecutionPage, ListedExecution};

use super::Call;
use crate::Server;
use crate::core::{blocking, read_failed};
use crate::namespaces::Namespace;

/// Runs in a page at most.
const PAGE_MAX: usize = 1000;

impl Server {
    pub async fn list_workflow_executions(
        &self,
        namespace: &Namespace,
        request: ListWorkflowExecutionsRequest,
        _call: Call,
    ) -> Result<ListWorkflowExecutionsResponse, Error> {
        let (executions, next_page_token) = self
            .list(
                namespace,
                request.query,
                request.page_size,
                request.next_page_token,
            )
            .await?;
        Ok(ListWorkflowExecutionsResponse {
            executions,
            next_page_token,
        })
    }

    pub async fn scan_workflow_executions(
        &self,
        namespace: &Namespace,
        request: ScanWorkflowExecutionsRequest,
        _call: Call,
    ) -> Result<ScanWorkflowExecutionsResponse, Error> {
        let (executions, next_page_token) = self
            .list(
                namespace,
                request.query,
                request.page_size,
                request.next_page_token,
            )
            .await?;
        Ok(ScanWorkflowExecutionsResponse {
            executions,
            next_page_token,
        })
    }

    pub async fn list_open_workflow_executions(
        &self,
        namespace: &Namespace,
        request: ListOpenWorkflowExecutionsRequest,
        _call: Call,
    ) -> Result<ListOpenWorkflowExecutionsResponse, Error> {
        let mut filter = Filter::new("ExecutionStatus = 'Running'");
        filter.between("StartTime", request.start_time_filter)?;
        match request.filters {
            Some(open::Filters::ExecutionFilter(f)) => filter.equals("WorkflowId", &f.workflow_id),
            Some(open::Filters::TypeFilter(f)) => filter.equals("WorkflowType", &f.name),
            None => {}
        }
        let (executions, next_page_token) = self
            .list(
                namespace,
                filter.0,
                request.maximum_page_size,
                request.next_page_token,
            )
            .await?;
        Ok(ListOpenWorkflowExecutionsResponse {
            executions,
            next_page_token,
        })
    }

    pub async fn list_closed_workflow_executions(
        &self,
        namespace: &Namespace,
        request: ListClosedWorkflowExecutionsRequest,
        _call: Call,
    ) -> Result<ListClosedWorkflowExecutionsResponse, Error> {
        let mut filter = Filter::new("ExecutionStatus != 'Running'");
        filter.between("CloseTime", request.start_time_filter)?;
        match request.filters {
            Some(closed::Filters::ExecutionFilter(f)) => {
                filter.equals("WorkflowId", &f.workflow_id)
            }
            Some(closed::Filters::TypeFilter(f)) => filter.equals("WorkflowType", &f.name),
            Some(closed::Filters::StatusFilter(f)) => {
                let status = WorkflowExecutionStatus::try_from(f.status).unwrap_or_default();
                if matches!(
                    status,
                    WorkflowExecutionStatus::Unspecified | WorkflowExecutionStatus::Running
                ) {
                    return Err(Error::invalid(
                        "StatusFilter must be specified and must be not Running.",
                    ));
                }
                filter
                    .0
                    .push_str(&format!(" AND ExecutionStatus = {}", f.status));
            }
            None => {}
        }
        let (executions, next_page_token) = self
            .list(
                namespace,
                filter.0,
                request.maximum_page_size,
                request.next_page_token,
            )
            .await?;
        Ok(ListClosedWorkflowExecutionsResponse {
            executions,
            next_page_token,
        })
    }

    async fn list(
        &self,
        namespace: &Namespace,
        filter: String,
        page_size: i32,
        token: Vec<u8>,
    ) -> Result<(Vec<WorkflowExecutionInfo>, Vec<u8>), Error> {
        let size = usize::try_from(page_size)
            .ok()
            .filter(|n| *n > 0)
            .map_or(PAGE_MAX, |n| n.min(PAGE_MAX));
        let (core, ns) = (self.core.clone(), namespace.clone());
        let read = blocking(move || {
            let token = (!token.is_empty()).then_some(&token[..]);
            core.store
                .list(ns.search_attributes(), &ns.id, &filter, size, token)
        });
        let page: ExecutionPage = read
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
            .map_err(read_failed)?;
        let executions = page
            .executions
            .iter()
            .map(|listed| shown(listed, namespace))
            .collect::<Result<_, _>>()?;
        Ok((
            executions,
            page.next.map(|t| t.to_vec()).unwrap_or_default(),
        ))
    }

    pub async fn count_workflow_executions(
        &self,
        namespace: &Namespace,
        request: CountWorkflowExecutionsRequest,
        _call: Call,
    ) -> Result<CountWorkflowExecutionsResponse, Error> {
        let (core, ns) = (self.core.clone(), namespace.clone());
        let read = blocking(move || {
            core.store
                .count(ns.search_attributes(), &ns.id, &request.query)
        });
        let count = read
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
            .map_err(read_failed)?;
        Ok(CountWorkflowExecutionsResponse {
            count: count.total,
            groups: count
                .groups
                .iter()
                .map(|(value, count)| AggregationGroup {
                    group_values: vec![group_value(value)],
                    count: *count,
                })
                .collect(),
        })
    }
}

/// A group's value as clients read it.
fn group_value(value: &AttributeValue) -> Payload {
    let (kind, json) = match value {
        AttributeValue::Keyword(text) => ("Keyword", serde_json::Value::from(text.as_str())),
        AttributeValue::Text(text) => ("Text", serde_json::Value::from(text.as_str())),
        AttributeValue::Bool(b) => ("Bool", serde_json::Value::from(*b)),
        AttributeValue::Int(n) => ("Int", serde_json::Value::from(*n)),
        AttributeValue::Double(n) => ("Double", serde_json::Value::from(*n)),
        AttributeValue::Datetime(n) => ("Datetime", serde_json::Value::from(*n)),
        AttributeValue::KeywordList(list) => ("KeywordList", serde_json::Value::from(list.clone())),
    };
    Payload {
        metadata: [
            ("encoding".to_owned(), b"json/plain".to_vec()),
            ("type".to_owned(), kind.as_bytes().to_vec()),
        ]
        .into(),
        data: json.to_string().into_bytes(),
        ..Default::default()
    }
}

/// A filter in the list language, from a request of the older kind.
struct Filter(String);

impl Filter {
    fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The value is quoted so that it cannot end its own literal.
    fn equals(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!(
            " AND {name} = '{}'",
            value.replace('\\', "\\\\").replace('\'', "\\'")
        ));
    }

    fn between(&mut self, name: &str, times: Option<StartTimeFilter>) -> Result<(), Error> {
        let Some(times) = times else { return Ok(()) };
        let nanos = |t: &tidemill_proto::wkt::Timestamp| tidemill_engine::Time::from_proto(t).0;
        let (from, to) = (
            times.earliest_time.as_ref().map(nanos),
            times.latest_time.as_ref().map(nanos),
        );
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            return Err(Error::invalid(
                "EarliestTime in StartTimeFilter should not be larger than LatestTime.",
            ));
        }
        if let Some(from) = from {
            self.0.push_str(&format!(" AND {name} >= {from}"));
        }
        if let Some(to) = to.filter(|to| *to > 0) {
            self.0.push_str(&format!(" AND {name} <= {to}"));
        }
        Ok(())
    }
}

/// A stored description as lists show it: what only a closed run has is left out of open ones,
/// and what the namespace does not know any more is left out.
fn shown(listed: &ListedExecution, namespace: &Namespace) -> Result<WorkflowExecutionInfo, Error> {
    let mut info = WorkflowExecutionInfo::decode(&*listed.info).map_err(|e| {
        Error::DataLoss(format!(
            "the description of workflow {:?}, run {}, cannot be decoded: {e}",
            listed.workflow_id,
            format_uuid(&listed.run_id)
        ))
    })?;
    if info.close_time.is_none() {
        info.history_length = 0;
        info.history_size_bytes = 0;
        info.state_transition_count = 0;
    }
    info.search_attributes = search_attribute::typed(info.search_attributes.as_ref(), namespace);
    Ok(info)
}
