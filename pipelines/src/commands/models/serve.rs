//! `millstream models serve`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use millstream_connectors::tls::TlsConfig;
use millstream_engine::time::SystemClock;
use millstream_engine::{Fault, Result};
use millstream_operators::registry::Registry;
use millstream_pipelines::definition::Reference;
use millstream_pipelines::registry_api::{Server, Settings};
use millstream_pipelines::run::user;

use super::Place;

/// Arguments of `models serve`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) place: Place,
    /// The address and port to listen at; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Where the token is that clients must send: `${env:NAME}` or `${file:PATH}`. It is needed where other machines can reach
    /// the address.
    #[arg(long, value_name = "REFERENCE", value_parser = reference)]
    token: Option<Reference>,
    /// Where the certificate is with which TLS is spoken, and those that lead from it to one that clients trust, in PEM:
    /// `${file:server.pem}`.
    #[arg(long, value_name = "REFERENCE", value_parser = reference, requires = "tls_key")]
    tls_certificate: Option<Reference>,
    /// Where its private key is.
    #[arg(long, value_name = "REFERENCE", value_parser = reference, requires = "tls_certificate")]
    tls_key: Option<Reference>,
    /// Where the certificates are that must have signed those of clients: then nobody else is heard, and no token is needed.
    #[arg(long, value_name = "REFERENCE", value_parser = reference, requires = "tls_certificate")]
    tls_clients: Option<Reference>,
}

/// What stands on a command line can be read by everyone on the machine: a token never does.
fn reference(text: &str) -> Result<Reference, String> {
    match Reference::parse(text) {
        Ok(Some(reference)) => Ok(reference),
        Ok(None) => Err("a command line is no place for a secret: write '${env:NAME}' or '${file:PATH}'".to_owned()),
        Err((_, message, help)) => Err(format!("{message}: {help}")),
    }
}

impl Arguments {
    pub(super) fn run(&self, registry: Registry) -> Result<String> {
        let folder = self.place.file.parent().unwrap_or(Path::new(""));
        let look_up = |reference: &Option<Reference>| {
            let found = reference.as_ref().map(|reference| reference.look_up(folder)).transpose();
            found.map_err(|(message, help)| Fault::definition(format!("{message}: {help}")))
        };
        let (certificate, key) = (look_up(&self.tls_certificate)?, look_up(&self.tls_key)?);
        let clients = look_up(&self.tls_clients)?;
        let tls = certificate.zip(key).map(|(certificate, key)| TlsConfig { certificate, key, clients });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let token = look_up(&self.token)?;
        let settings = Settings { listen: self.listen, token, tls, user: user(), clock: Arc::new(SystemClock) };
        let server = Server::start(registry, settings)?;
        eprintln!("MLflow's clients find the registry at {scheme}://{}", server.address());
        server.until_stopped()?;
        Ok(String::new())
    }
}
