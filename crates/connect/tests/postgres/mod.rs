//! A PostgreSQL server with pgvector for the tests of this process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

#[path = "../support/servers.rs"]
mod servers;

use servers::Server;

/// Where the server is.
pub(crate) fn url() -> &'static str {
    static SERVER: OnceLock<Server> = OnceLock::new();
    &SERVER
        .get_or_init(|| Server::start(".venv", "postgres", "TIDEMILL_TEST_POSTGRES"))
        .url
}

/// A name that no other test of this process or of another has for its table.
pub(crate) fn table() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("test_{}_{next}", std::process::id())
}
