//! TLS for a port.

use super::expiry::Role;
use super::pem::{Contents, TlsError, identity, mismatch};
use super::watched::{Watched, once};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::{self, Ticketer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

/// The files of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// PEM: the certificate, and after it those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: the private key of the certificate.
    pub key: PathBuf,
    /// PEM: the authorities of clients' certificates. If this is given, clients need a certificate of one of them.
    pub client_ca: Option<PathBuf>,
}

impl ServerFiles {
    /// Checks that the files can be used now.
    ///
    /// # Errors
    /// [`TlsError`] says which file can't be used, and why.
    pub fn check(&self) -> Result<(), TlsError> {
        once(&self.list(), |contents| self.config(contents, &[])).map(drop)
    }

    fn list(&self) -> Vec<PathBuf> {
        let own = [&self.certificate, &self.key];
        own.into_iter().chain(&self.client_ca).cloned().collect()
    }

    /// Builds the configuration of what [`list`](Self::list) has named.
    fn config(&self, contents: &[Contents<'_>], alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        let (own, clients) = contents.split_at(2);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Settings(error.to_string()))?;
        let builder = match clients.first() {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let trusted = Arc::new(authorities.authorities()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider);
                let verifier = verifier.build().map_err(|error| TlsError::Unusable {
                    file: authorities.file.to_owned(),
                    reason: error.to_string(),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (chain, key) = identity(own[0], own[1])?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| mismatch(&self.certificate, &self.key, &error))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        if clients.is_empty() {
            // A client that comes back with a ticket spares both sides the costly part of the handshake. The tickets end
            // with this configuration, so a new certificate is seen by all.
            config.ticketer =
                Ticketer::new().map_err(|error| TlsError::Settings(error.to_string()))?;
        } else {
            // A ticket would let a client in whose certificate is not valid any more.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

/// TLS for a port, with the certificate as it is in the files now. The files are watched while this lives.
pub struct ServerTls(Watched<ServerConfig>);

impl ServerTls {
    /// Reads the files. `what` names the certificate in the log, such as "certificate of the clients' port". `alpn` are the
    /// protocols that are offered in a handshake, the best one first. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`] says which file can't be used, and why. If files can't be used later, that is logged and the old
    /// certificate stays.
    pub fn begin(
        what: &'static str,
        files: ServerFiles,
        alpn: &'static [&'static [u8]],
    ) -> Result<Arc<Self>, TlsError> {
        let roles = [Some(Role::Port), None, Some(Role::PortClientCa)];
        let list = files.list().into_iter().zip(roles).collect();
        let build = move |contents: &[Contents<'_>]| files.config(contents, alpn);
        Ok(Arc::new(Self(Watched::begin(what, list, build)?)))
    }

    /// Accepts connections with the certificate of this moment.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.0.current().into()
    }
}
