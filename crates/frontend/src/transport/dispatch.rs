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
use tidemill_proto::{METHODS, maintenance, operator_service, workflow_service};
use tidemill_server::metrics::{Metrics, Operation};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Service;

use super::reflection::Reflection;
use super::unary::{self, Body};
use crate::handler::Handler;
use crate::services::{Inflight, OPERATOR_SERVICE, Rpc, WORKFLOW_SERVICE};

const HEALTH: &str = "grpc.health.v1.Health";

/// All services behind one port.
#[derive(Clone)]
pub(super) struct Dispatch(Arc<Inner>);

struct Inner {
    handler: Arc<Handler>,
    maintenance: MaintenanceServiceServer<Handler>,
    health: HealthServer<HealthService>,
    reflection: Reflection,
    metrics: Arc<Metrics>,
    /// In the order of [`METHODS`].
    methods: Vec<Method>,
    by_path: HashMap<&'static str, usize>,
}

struct Method {
    /// `None`: not implemented, or not served here.
    rpc: Option<Rpc>,
    /// An RPC is measured from its first call on.
    measured: OnceLock<Operation>,
}

impl Dispatch {
    pub(super) fn new(handler: Handler, health: HealthReporter) -> Self {
        let limit = handler.limits.message_bytes;
        let metrics = handler.server.metrics().clone();
        let handler = Arc::new(handler);
        let maintenance = MaintenanceServiceServer::from_arc(handler.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(unary::ANSWER_BYTES_MAX);
        let methods = METHODS.iter().map(|(path, name)| Method {
            rpc: find(path, name),
            measured: OnceLock::new(),
        });
        Self(Arc::new(Inner {
            handler,
            maintenance,
            health: HealthServer::new(HealthService::from_health_reporter(health))
                .accept_compressed(Gzip),
            reflection: Reflection::default(),
            metrics,
            methods: methods.collect(),
            by_path: METHODS
                .iter()
                .enumerate()
                .map(|(i, (path, _))| (*path, i))
                .collect(),
        }))
    }

    fn operation(&self, place: usize) -> &Operation {
        let inner = &*self.0;
        let measured = &inner.methods[place].measured;
        measured.get_or_init(|| inner.metrics.operation(METHODS[place].1))
    }
}

/// The function that serves a method of [`METHODS`].
fn find(path: &str, name: &str) -> Option<Rpc> {
    let rpcs = match service_of(path) {
        workflow_service::SERVICE_NAME => WORKFLOW_SERVICE,
        operator_service::SERVICE_NAME => OPERATOR_SERVICE,
        _ => return None,
    };
    let named = rpcs
        .iter()
        .find(|(request, _)| request.strip_suffix("Request") == Some(name));
    named.map(|(_, rpc)| *rpc)
}

fn service_of(path: &str) -> &str {
    let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    parts.map_or("", |(service, _)| service)
}

impl hyper::service::Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let inner = &self.0;
        let path = request.uri().path();
        let Some(&method) = inner.by_path.get(path) else {
            return Answer {
                inflight: self.call_beside(request),
                measured: None,
            };
        };
        self.operation(method).begin();
        Answer {
            inflight: match inner.methods[method].rpc {
                Some(rpc) => rpc(inner.handler.clone(), request),
                None => self.call_beside(request),
            },
            measured: Some(Measured {
                dispatch: self.clone(),
                method,
                started: Instant::now(),
            }),
        }
    }
}

impl Dispatch {
    /// What is not an RPC of Temporal's services, or one that is not served.
    fn call_beside(&self, request: Request<Incoming>) -> Inflight {
        let inner = &self.0;
        let path = request.uri().path();
        match service_of(path) {
            maintenance::SERVICE_NAME => by_tonic(inner.maintenance.clone(), request),
            HEALTH => by_tonic(inner.health.clone(), request),
            service @ (workflow_service::SERVICE_NAME | operator_service::SERVICE_NAME) => {
                let method = path.rsplit('/').next().unwrap_or_default();
                let text = format!("{method} of {service} is not implemented");
                refused(Status::unimplemented(text))
            }
            other => match inner.reflection.find(other) {
                Some(service) => by_tonic(service, request),
                None => refused(Status::unimplemented(format!("unknown service {other}"))),
            },
        }
    }
}

fn by_tonic<S>(mut service: S, request: Request<Incoming>) -> Inflight
where
    S: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let inflight = service.call(request);
    Box::pin(async move {
        let Ok(response) = inflight.await;
        response.map(Body::Tonic)
    })
}

fn refused(status: Status) -> Inflight {
    Box::pin(std::future::ready(unary::refuse(status)))
}

/// A request on its way. Dropping it, as when the client goes away, counts it as cancelled.
pub(super) struct Answer {
    inflight: Inflight,
    measured: Option<Measured>,
}

struct Measured {
    dispatch: Dispatch,
    method: usize,
    started: Instant,
}

impl Measured {
    fn end(self, code: i32) {
        self.dispatch
            .operation(self.method)
            .end(code, self.started.elapsed());
    }
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.inflight.as_mut().poll(cx)));
        let response = match polled {
            Ok(polled) => ready!(polled),
            // The panic's text and place have been logged by its hook.
            Err(_) => unary::refuse(Status::internal("the request met a defect of the server")),
        };
        if let Some(measured) = self.measured.take() {
            measured.end(code_of(&response));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_serves_a_method() {
        let served = METHODS
            .iter()
            .filter(|(path, name)| find(path, name).is_some())
            .count();
        assert_eq!(served, WORKFLOW_SERVICE.len() + OPERATOR_SERVICE.len());
    }
}
