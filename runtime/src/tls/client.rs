//! TLS for calls to other services.

use super::expiry::Role;
use super::pem::{Contents, TlsError, identity, mismatch};
use super::watched::{Watched, once};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The files that a caller uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// PEM: the authorities that are trusted, instead of the public ones.
    pub ca: Option<PathBuf>,
    /// PEM: the caller's own certificate and its private key, for services that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// Checks that the files can be used now.
    ///
    /// # Errors
    /// [`TlsError`] says which file can't be used, and why.
    pub fn check(&self) -> Result<(), TlsError> {
        self.connector(&[]).map(drop)
    }

    /// Connects with what the files hold now. `alpn` are the protocols that are offered in a handshake.
    ///
    /// # Errors
    /// [`TlsError`] says which file can't be used, and why.
    pub fn connector(&self, alpn: &[&[u8]]) -> Result<TlsConnector, TlsError> {
        let config = once(&self.list(), |contents| self.config(contents, alpn))?;
        Ok(Arc::new(config).into())
    }

    fn list(&self) -> Vec<PathBuf> {
        let own = self.identity.iter().flat_map(|(one, two)| [one, two]);
        self.ca.iter().chain(own).cloned().collect()
    }

    /// Builds the configuration of what [`list`](Self::list) has named.
    fn config(&self, contents: &[Contents<'_>], alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let (authorities, own) = contents.split_at(self.ca.iter().len());
        let trusted = match authorities.first() {
            Some(authorities) => authorities.authorities()?,
            None => RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Settings(error.to_string()))?
            .with_root_certificates(trusted);
        let mut config = match own {
            [certificate, key] => {
                let (chain, private) = identity(*certificate, *key)?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| mismatch(certificate.file, key.file, &error))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

/// Who is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// Chats.
    Chat,
    /// The hook of the operator.
    Hook,
    /// The handlers of the operator.
    Routes,
}

/// TLS for calls, with authorities and the own certificate as they are in the files now. The files are watched while this
/// lives.
pub struct ClientTls(Watched<ClientConfig>);

impl ClientTls {
    /// Reads the files. `alpn` are the protocols that are offered in a handshake. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`] says which file can't be used, and why. If files can't be used later, that is logged and the old
    /// content stays in use.
    pub fn begin(
        files: ClientFiles,
        alpn: &'static [&'static [u8]],
    ) -> Result<Arc<Self>, TlsError> {
        Self::watching(files, alpn, None, None)
    }

    /// Does the same, and tells when the certificates in the files end: in a metric, and in the log when that is soon.
    ///
    /// # Errors
    /// The same.
    pub fn begin_to(
        called: Called,
        files: ClientFiles,
        alpn: &'static [&'static [u8]],
    ) -> Result<Arc<Self>, TlsError> {
        match called {
            Called::Chat => {
                Self::watching(files, alpn, Some(Role::ChatCa), Some(Role::ChatCertificate))
            }
            Called::Hook => Self::watching(files, alpn, Some(Role::HookCa), None),
            Called::Routes => Self::watching(files, alpn, Some(Role::RouteCa), None),
        }
    }

    fn watching(
        files: ClientFiles,
        alpn: &'static [&'static [u8]],
        ca: Option<Role>,
        own: Option<Role>,
    ) -> Result<Arc<Self>, TlsError> {
        let roles = files.ca.iter().map(|_| ca).chain([own, None]);
        let list = files.list().into_iter().zip(roles).collect();
        let build = move |contents: &[Contents<'_>]| files.config(contents, alpn);
        Ok(Arc::new(Self(Watched::begin(
            "certificate for calls",
            list,
            build,
        )?)))
    }

    /// Connects with what the files hold at this moment.
    #[must_use]
    pub fn connector(&self) -> TlsConnector {
        self.0.current().into()
    }
}
