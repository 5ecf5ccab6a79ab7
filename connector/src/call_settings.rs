//! Settings for calls over TLS: to chat, and to handlers of the operator.

use crate::dial::{ALPN, is_encrypted};
use http::Uri;
use runtime::tls::{Called, ClientFiles, ClientTls, TlsError};
use std::path::PathBuf;
use std::sync::Arc;

/// Whom a connector trusts as a chat, and as what it comes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ChatTls {
    /// PEM file with the certificate authorities of chats with https:// addresses, instead of the public ones
    #[arg(id = "chat_ca", long = "chat-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// PEM file with this connector's own certificate, for chats that ask for one (chat's --tls-client-ca)
    #[arg(
        id = "chat_certificate",
        long = "chat-certificate",
        value_name = "FILE"
    )]
    pub certificate: Option<PathBuf>,

    /// PEM file with the private key of --chat-certificate
    #[arg(id = "chat_key", long = "chat-key", value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Whom a connector trusts as a handler of the operator.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RouteTls {
    /// PEM file with the certificate authorities of handlers with https:// addresses, instead of the public ones
    #[arg(id = "route_ca", long = "route-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl ChatTls {
    fn files(&self, uris: &[Uri]) -> Result<Option<ClientFiles>, TlsError> {
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                return Err(TlsError::Settings(
                    "--chat-certificate and --chat-key need each other: a certificate and its private key".to_owned(),
                ));
            }
        };
        let files = ClientFiles {
            ca: self.ca.clone(),
            identity,
        };
        used(
            files,
            uris,
            "--chat-ca, --chat-certificate and --chat-key",
            "--chat",
        )
    }

    /// Checks the files.
    pub(crate) fn check(&self, uris: &[Uri]) -> Result<(), TlsError> {
        self.files(uris)?.map_or(Ok(()), |files| files.check())
    }

    /// TLS for calls to chat, if one of its addresses asks for that. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`] if the files can't be used.
    pub fn begin(&self, uris: &[Uri]) -> Result<Option<Arc<ClientTls>>, TlsError> {
        let files = self.files(uris)?;
        files
            .map(|files| ClientTls::begin_to(Called::Chat, files, ALPN))
            .transpose()
    }
}

impl RouteTls {
    fn files(&self, uris: &[Uri]) -> Result<Option<ClientFiles>, TlsError> {
        let files = ClientFiles {
            ca: self.ca.clone(),
            identity: None,
        };
        used(files, uris, "--route-ca", "--route")
    }

    /// Checks the files.
    pub(crate) fn check(&self, uris: &[Uri]) -> Result<(), TlsError> {
        self.files(uris)?.map_or(Ok(()), |files| files.check())
    }

    /// TLS for calls to handlers, if one of their addresses asks for that. Needs a tokio runtime.
    pub(crate) fn begin(&self, uris: &[Uri]) -> Result<Option<Arc<ClientTls>>, TlsError> {
        let files = self.files(uris)?;
        files
            .map(|files| ClientTls::begin_to(Called::Routes, files, ALPN))
            .transpose()
    }
}

/// The files if an address asks for TLS. If none does, files have no use, and somebody believes that calls are encrypted.
pub(crate) fn used(
    files: ClientFiles,
    uris: &[Uri],
    flags: &str,
    addresses: &str,
) -> Result<Option<ClientFiles>, TlsError> {
    if uris.iter().any(is_encrypted) {
        Ok(Some(files))
    } else if files == ClientFiles::default() {
        Ok(None)
    } else {
        Err(TlsError::Settings(format!(
            "{flags} have no effect, because no address of {addresses} begins with https://; write https:// there, or leave \
             the files out"
        )))
    }
}
