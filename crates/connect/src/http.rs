//! The HTTP client that all connections share: one pool, one TLS set-up.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The shared client. TLS is rustls with ring and the system's root certificates; where there are
/// none, plain `http:` still works and `https:` fails with a certificate error. It has no timeout
/// for a whole request: set one on each.
pub fn client() -> reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(build).clone()
}

fn build() -> reqwest::Client {
    reqwest::Client::builder()
        .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .tls_backend_preconfigured(tls())
        .build()
        // It fails on contradicting settings only, and these are constant.
        .expect("the HTTP client's settings are valid")
}

fn tls() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(
            errors = ?found.errors,
            "the system has no root certificates: https addresses cannot be reached"
        );
    }
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        // ring supports both versions that rustls defaults to.
        .expect("ring supports the default TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
