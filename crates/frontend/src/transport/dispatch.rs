//! From a request's path to the service that answers it, with what is measured of each RPC.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use tidemill_proto::maintenance::MaintenanceServiceServer;
use tidemill_proto::operator_service::OperatorServiceServer;
use tidemill_proto::workflow_service::WorkflowServiceServer;
use tidemill_proto::{METHODS, maintenance, operator_service, workflow_service};
use tidemill_server::metrics::{Metrics, Operation};
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Service;

use super::oversize_message;
use super::reflection::Reflection;
use crate::handler::Handler;

/// Bytes of one answer: histories are paged well below it, but the pages have no exact bound.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;
const HEALTH: &str = "grpc.health.v1.Health";

/// All services behind one port.
#[derive(Clone)]
pub(super) struct Dispatch(Arc<Inner>);

struct Inner {
    workflow: WorkflowServiceServer<Handler>,
    operator: OperatorServiceServer<Handler>,
    maintenance: MaintenanceServiceServer<Handler>,
    health: HealthServer<HealthService>,
    reflection: Reflection,
    metrics: Arc<Metrics>,
    /// By the place in [`METHODS`]; an RPC is measured from its first call on.
    operations: Vec<OnceLock<Operation>>,
    by_path: HashMap<&'static str, usize>,
    message_bytes_max: usize,
}

impl Dispatch {
    pub(super) fn new(handler: Handler, health: HealthReporter) -> Self {
        let limit = handler.limits.message_bytes;
        let metrics = handler.server.metrics().clone();
        let handler = Arc::new(handler);
        // Answers are not compressed: it costs more CPU than a local network saves, and a client
        // that asks for it has said only that it could read it.
        let workflow = WorkflowServiceServer::from_arc(handler.clone())
            .accept_compressed(Gzip)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let maintenance = MaintenanceServiceServer::from_arc(handler.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let operator = OperatorServiceServer::from_arc(handler)
            .accept_compressed(Gzip)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        Self(Arc::new(Inner {
            workflow,
            operator,
            maintenance,
            health: HealthServer::new(HealthService::from_health_reporter(health))
                .accept_compressed(Gzip),
            reflection: Reflection::default(),
            metrics,
            operations: METHODS.iter().map(|_| OnceLock::new()).collect(),
            by_path: METHODS
                .iter()
                .enumerate()
                .map(|(i, (path, _))| (*path, i))
                .collect(),
            message_bytes_max: limit,
        }))
    }

    fn operation(&self, place: usize) -> &Operation {
        let inner = &*self.0;
        inner.operations[place].get_or_init(|| inner.metrics.operation(METHODS[place].1))
    }
}

type Inflight = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let inner = &self.0;
        let path = request.uri().path();
        let measured = inner.by_path.get(path).map(|&operation| {
            self.operation(operation).begin();
            Measured {
                dispatch: self.clone(),
                operation,
                started: Instant::now(),
            }
        });
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let inflight: Inflight = match service.map_or("", |(service, _)| service) {
            workflow_service::SERVICE_NAME => inner.workflow.clone().call(request),
            operator_service::SERVICE_NAME => inner.operator.clone().call(request),
            maintenance::SERVICE_NAME => inner.maintenance.clone().call(request),
            HEALTH => inner.health.clone().call(request),
            other => match inner.reflection.find(other) {
                Some(mut service) => service.call(request),
                None => {
                    let text = format!("unknown service {other}");
                    Box::pin(async move { Ok(Status::unimplemented(text).into_http()) })
                }
            },
        };
        Answer { inflight, measured }
    }
}

/// A request on its way. Dropping it, as when the client goes away, counts it as cancelled.
pub(super) struct Answer {
    inflight: Inflight,
    measured: Option<Measured>,
}

struct Measured {
    dispatch: Dispatch,
    operation: usize,
    started: Instant,
}

impl Measured {
    fn end(self, code: i32) {
        self.dispatch
            .operation(self.operation)
            .end(code, self.started.elapsed());
    }
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.inflight.as_mut().poll(cx)));
        let response = match polled {
            Ok(polled) => ready!(polled)?,
            // The panic's text and place have been logged by its hook.
            Err(_) => Status::internal("the request met a defect of the server").into_http(),
        };
        let Some(measured) = self.measured.take() else {
            return Poll::Ready(Ok(response));
        };
        let code = code_of(&response);
        let response = match code {
            0 => response,
            _ => {
                let limit = measured.dispatch.0.message_bytes_max;
                oversize_message::translate(response, code, limit)
            }
        };
        measured.end(code_of(&response));
        Poll::Ready(Ok(response))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(measured) = self.measured.take() {
            measured.end(Code::Cancelled as i32);
        }
    }
}

/// The code of an answer: errors are in the headers, and an answer without one there is a success.
fn code_of(response: &Response<Body>) -> i32 {
    let code = response
        .headers()
        .get("grpc-status")
        .and_then(|code| code.to_str().ok());
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
}
