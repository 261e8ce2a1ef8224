//! Connecting to a server, for tools. Workers use Temporal's SDKs.

use std::time::Duration;

pub use tonic::transport::Channel;
use tonic::transport::{Endpoint, Error};
pub use tonic::{Code, Request, Status};

use crate::maintenance::MaintenanceServiceClient;
use crate::workflow_service::WorkflowServiceClient;

/// Under this name Temporal's servers answer histories as tools want them, without the events of
/// attempts that may yet be undone.
const CLIENT_NAME: &str = "temporal-cli";
const CLIENT_VERSION: &str = "1.5.0";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one answer: histories can be large.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A connected client of the workflow service.
pub type Client = WorkflowServiceClient<Channel>;
/// A connected client of Tidemill's own service for operators.
pub type Maintenance = MaintenanceServiceClient<Channel>;

/// Connects to `host:port`, or to a URL.
pub async fn connect(address: &str) -> Result<Client, Error> {
    let channel = channel(address).await?;
    Ok(Client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// The same for operators. A Temporal server answers its calls with UNIMPLEMENTED.
pub async fn connect_maintenance(address: &str) -> Result<Maintenance, Error> {
    let channel = channel(address).await?;
    Ok(Maintenance::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

async fn channel(address: &str) -> Result<Channel, Error> {
    let url = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let endpoint = Endpoint::from_shared(url)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    endpoint.connect().await
}

/// A request with its deadline and the name of the client.
pub fn request<M>(message: M, timeout: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    let metadata = request.metadata_mut();
    metadata.insert(
        "client-name",
        CLIENT_NAME.parse().expect("a constant header is valid"),
    );
    metadata.insert(
        "client-version",
        CLIENT_VERSION.parse().expect("a constant header is valid"),
    );
    request
}
