//! What every RPC handler shares: the server behind it, the limits, and how a request's
//! namespace is found (engine contract 11).

use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::NamespaceState;
use tidemill_server::namespaces::Namespace;
use tidemill_server::{Server, TaskToken};
use tokio::sync::watch;

use crate::validate::Limits;

/// The state of the gRPC face; its RPCs are in [`crate::rpc`], a file per family.
pub(crate) struct Handler {
    pub(crate) server: Server,
    pub(crate) limits: Limits,
    /// Becomes true when the server drains.
    pub(crate) draining: watch::Receiver<bool>,
}

const OPEN: [NamespaceState; 2] = [NamespaceState::Registered, NamespaceState::Deprecated];
const NEW_WORK: [NamespaceState; 1] = [NamespaceState::Registered];

impl Handler {
    /// The namespace of a request that works on what exists.
    pub(crate) fn namespace(&self, name: &str) -> Result<Namespace, Error> {
        in_state(self.server.namespaces().by_name(name)?, &OPEN)
    }

    /// The namespace of a request that starts something.
    pub(crate) fn namespace_for_new_work(&self, name: &str) -> Result<Namespace, Error> {
        in_state(self.server.namespaces().by_name(name)?, &NEW_WORK)
    }

    /// The namespace of a request that carries a task token: the token's, which must not
    /// contradict a name beside it.
    pub(crate) fn namespace_of_token(&self, name: &str, token: &[u8]) -> Result<Namespace, Error> {
        let owner = TaskToken::namespace_of(token)?;
        let namespace = self.server.namespaces().by_id(&owner)?;
        if !name.is_empty() && namespace.name != name {
            self.server.namespaces().by_name(name)?;
            return Err(Error::invalid(
                "Operation requested with a token from a different namespace.",
            ));
        }
        in_state(namespace, &OPEN)
    }
}

fn in_state(namespace: Namespace, allowed: &[NamespaceState]) -> Result<Namespace, Error> {
    if allowed.contains(&namespace.state) {
        return Ok(namespace);
    }
    Err(Error::NamespaceInvalidState {
        namespace: namespace.name.clone(),
        state: namespace.state,
        allowed: allowed.to_vec(),
    })
}
