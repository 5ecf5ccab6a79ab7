//! The settings of a port with TLS.

use super::{ServerFiles, ServerTls, TlsError};
use std::path::PathBuf;
use std::sync::Arc;

/// The certificate of a port. Without one the port speaks no TLS; with one it speaks nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct TlsSettings {
    /// PEM file with the certificate of this port, and after it those that lead to its authority. The port then speaks TLS
    /// alone. A changed file is used within 10 s
    #[arg(id = "tls.certificate", long = "tls-certificate", value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// PEM file with the private key of --tls-certificate
    #[arg(id = "tls.key", long = "tls-key", value_name = "FILE")]
    pub key: Option<PathBuf>,
}

impl TlsSettings {
    /// The files, if the port shall speak TLS.
    ///
    /// # Errors
    /// One line if only one of the two files is given.
    pub fn files(&self, client_ca: Option<PathBuf>) -> Result<Option<ServerFiles>, TlsError> {
        let needs = |flag, other| {
            Err(TlsError::Settings(format!(
                "{flag} needs {other}: a port needs a certificate and its private key"
            )))
        };
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Ok(Some(ServerFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca,
            })),
            (Some(_), None) => needs("--tls-certificate", "--tls-key"),
            (None, Some(_)) => needs("--tls-key", "--tls-certificate"),
            (None, None) if client_ca.is_some() => Err(TlsError::Settings(
                "an authority for clients' certificates needs --tls-certificate and --tls-key beside it: only a port with TLS \
                 asks for certificates"
                    .to_owned(),
            )),
            (None, None) => Ok(None),
        }
    }

    /// Checks that the files can be used now.
    ///
    /// # Errors
    /// One line that names the flag or the file.
    pub fn check(&self) -> Result<(), TlsError> {
        self.files(None)?.map_or(Ok(()), |files| files.check())
    }

    /// TLS for the port, if there is a certificate. `what` names the certificate in the log. Needs a tokio runtime.
    ///
    /// # Errors
    /// The same as [`check`](Self::check).
    pub fn begin(
        &self,
        what: &'static str,
        alpn: &'static [&'static [u8]],
    ) -> Result<Option<Arc<ServerTls>>, TlsError> {
        let files = self.files(None)?;
        files
            .map(|files| ServerTls::begin(what, files, alpn))
            .transpose()
    }
}
