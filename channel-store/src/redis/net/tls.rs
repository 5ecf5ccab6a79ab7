//! Opening a byte stream to a server, encrypted or not.

use super::address::{Address, OpenError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A stream of bytes in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Opens streams, all of them encrypted or none.
#[derive(Clone)]
pub(crate) struct Dialer {
    encryption: Option<TlsConnector>,
}

impl Dialer {
    /// Trusts servers whose certificate is signed by an authority in `certificates` (a PEM file). Without such a file the
    /// public authorities are trusted.
    pub(crate) fn new(encrypted: bool, certificates: Option<&Path>) -> Result<Self, OpenError> {
        let unusable = |file: &Path, reason: String| OpenError::Certificates {
            file: file.display().to_string(),
            reason,
        };
        if !encrypted {
            return match certificates {
                None => Ok(Self { encryption: None }),
                Some(file) => Err(unusable(
                    file,
                    "certificates are used with rediss:// only".into(),
                )),
            };
        }
        let mut trusted = RootCertStore::empty();
        match certificates {
            None => trusted.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(file) => {
                let failed = |error| unusable(file, error);
                let found =
                    CertificateDer::pem_file_iter(file).map_err(|it| failed(it.to_string()))?;
                for certificate in found {
                    let certificate = certificate.map_err(|it| failed(it.to_string()))?;
                    trusted
                        .add(certificate)
                        .map_err(|it| failed(it.to_string()))?;
                }
                if trusted.is_empty() {
                    return Err(failed("the file holds none".into()));
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| OpenError::Url(error.to_string()))?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self {
            encryption: Some(TlsConnector::from(Arc::new(config))),
        })
    }

    /// Connects. It has no time-out of its own: the caller sets one.
    pub(super) async fn connect(&self, address: &Address) -> io::Result<Box<dyn Duplex>> {
        match address {
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let Some(encryption) = &self.encryption else {
                    return Ok(Box::new(stream));
                };
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Ok(Box::new(encryption.connect(name, stream).await?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_cannot_be_read_or_are_given_without_tls_are_refused() {
        let none = Path::new("/nowhere/ca.pem");
        let reason = |encrypted| match Dialer::new(encrypted, Some(none)).err() {
            Some(OpenError::Certificates { reason, .. }) => reason,
            other => panic!("{:?}", other.map(|it| it.to_string())),
        };
        assert!(!reason(true).contains("rediss://"), "the file is missing");
        assert!(reason(false).contains("rediss://"), "they have no use here");
    }
}
