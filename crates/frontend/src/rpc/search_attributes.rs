//! Which search attributes exist, over all namespaces.

use std::collections::HashMap;

use tidemill_engine::Error;
use tidemill_proto::api::workflowservice::v1::{
    GetSearchAttributesRequest, GetSearchAttributesResponse,
};
use tidemill_server::search_attributes::to_proto;
use tidemill_store::visibility::Schema;

use crate::handler::Handler;
use tidemill_server::Call;

pub(crate) async fn get_search_attributes(
    handler: &Handler,
    _: GetSearchAttributesRequest,
    _: Call,
) -> Result<GetSearchAttributesResponse, Error> {
    let mut keys: HashMap<String, i32> = HashMap::new();
    for namespace in handler.server.namespaces().after(None, usize::MAX) {
        let custom = &namespace.custom_search_attributes;
        keys.extend(
            custom
                .iter()
                .map(|(name, ty)| (name.clone(), to_proto(*ty) as i32)),
        );
    }
    keys.extend(system());
    Ok(GetSearchAttributesResponse { keys })
}

/// The attributes that every namespace has.
pub(crate) fn system() -> impl Iterator<Item = (String, i32)> {
    Schema::system().map(|(name, ty)| (name.to_owned(), to_proto(ty) as i32))
}
