//! The server that commands talk to.

use std::time::Duration;

use tidemill_proto::client::{self, Client, Code, Request, Status};

use crate::exit::Failure;

/// The deadline of calls that do not wait for anything.
const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const ADDRESS: &str = "127.0.0.1:7233";
const NAMESPACE: &str = "default";

/// Where the server is and what of it is meant.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// Server's address [env: TIDEMILL_ADDRESS, TEMPORAL_ADDRESS] [default: 127.0.0.1:7233]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Namespace [env: TIDEMILL_NAMESPACE, TEMPORAL_NAMESPACE] [default: default]
    #[arg(long, short, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    json: bool,
}

/// An open connection.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) identity: String,
    pub(crate) json: bool,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self, Failure> {
        let address = setting(&target.address, "ADDRESS", ADDRESS);
        let namespace = setting(&target.namespace, "NAMESPACE", NAMESPACE);
        Self::to(&address, namespace, target.json).await
    }

    /// Connects to the server at an address.
    pub(crate) async fn to(address: &str, namespace: String, json: bool) -> Result<Self, Failure> {
        let client = client::connect(address)
            .await
            .map_err(|error| unreachable(address, &error))?;
        Ok(Self {
            client,
            namespace,
            identity: format!("tidemill-cli:{}", std::process::id()),
            json,
        })
    }
}

/// What to say when nothing answers at an address.
pub(crate) fn unreachable(address: &str, error: &dyn std::error::Error) -> Failure {
    let cause = error.source().map(|cause| format!(": {cause}"));
    Failure::general(format!(
        "cannot connect to a server at {address}: {error}{}. Start one with `tidemill engine`, or \
         name another with --address.",
        cause.unwrap_or_default()
    ))
}

/// A setting from its flag, else from the environment, else the default.
pub(crate) fn setting(flag: &Option<String>, name: &str, default: &str) -> String {
    let variable = |prefix: &str| {
        std::env::var(format!("{prefix}_{name}"))
            .ok()
            .filter(|value| !value.is_empty())
    };
    let variable = || variable("TIDEMILL").or_else(|| variable("TEMPORAL"));
    flag.clone()
        .or_else(variable)
        .unwrap_or_else(|| default.to_owned())
}

/// A request that is answered at once.
pub(crate) fn quick<M>(message: M) -> Request<M> {
    client::request(message, TIMEOUT)
}

/// A request that may wait.
pub(crate) fn waiting<M>(message: M, most: Duration) -> Request<M> {
    client::request(message, most)
}

/// What a refused call says to people.
pub(crate) fn refused(status: Status) -> Failure {
    let text = match (status.message(), status.code()) {
        ("", code) => code.description().to_owned(),
        (message, Code::InvalidArgument | Code::NotFound) => message.to_owned(),
        (message, code) => format!("{message} ({code:?})"),
    };
    Failure::General(text)
}
