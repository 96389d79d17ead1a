//! TLS on listeners: who listens proves who it is, and where that is wanted, so do its clients.

use std::sync::Arc;

use millstream_engine::catalogue::{Problem, Problems};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// Encrypts what is sent (TLS 1.2 and 1.3). All are PEM, written as references to files: `${file:server.pem}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The listener's certificate, and those that lead from it to one that clients trust.
    pub certificate: String,
    /// The certificate's private key.
    pub key: String,
    /// The certificates that may have signed those of clients. With them only clients that show such a certificate are heard (mutual
    /// TLS), and no token is needed.
    pub clients: Option<String>,
}

/// A checked [`TlsConfig`].
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    /// Whether clients have to show certificates.
    pub asks_clients: bool,
}

impl TlsConfig {
    /// Notes what is wrong, below `tls`; `None` if anything is.
    pub fn check(&self, problems: &mut Problems) -> Option<Tls> {
        let help = |key: &str| format!("name the file: `{key}: ${{file:{key}.pem}}`");
        let wrong = |key: &str, message: &str| Problem::new(&format!("tls.{key}"), "bad-tls", message).help(help(key));
        let certificates = |key: &str, pem: &str| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            let read = read.ok().filter(|read| !read.is_empty());
            read.ok_or_else(|| wrong(key, "these are no certificates in PEM"))
        };
        let certificate = problems.take(certificates("certificate", &self.certificate));
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let key = problems.take(key.map_err(|_| wrong("key", "this is no private key in PEM")));
        let clients = self.clients.as_ref().map(|pem| problems.take(certificates("clients", pem)));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = problems.take(builder.map_err(|_| wrong("certificate", "no version of TLS can be spoken")))?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                let (_, ignored) = roots.add_parsable_certificates(authorities?);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let verifier = verifier.ok().filter(|_| ignored == 0);
                let message = "these certificates cannot have signed others";
                builder.with_client_cert_verifier(problems.take(verifier.ok_or_else(|| wrong("clients", message)))?)
            }
        };
        let config = builder.with_single_cert(certificate?, key?);
        let config = problems.take(config.map_err(|_| wrong("key", "this is not the key of the certificate")))?;
        Some(Tls { config: Arc::new(config), asks_clients: self.clients.is_some() })
    }
}

impl Tls {
    /// What accepts connections over which this is spoken, by its name in the handshake: `h2`.
    pub(crate) fn acceptor(&self, protocol: &[u8]) -> TlsAcceptor {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config).into()
    }
}
