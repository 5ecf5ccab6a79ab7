//! Certificates and keys in PEM, as they are in files.

use crate::files::ReadError;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

/// The most bytes that a file may have. A chain of certificates has some thousands, and all public authorities together have a
/// few hundred thousand.
pub(super) const LARGEST: u64 = 4 << 20;

/// A certificate or a key can't be used. The words name the file. They hold nothing of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("cannot read {}: {reason}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file does not hold what it should.
    #[error("{} {reason}", .file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong, as the rest of a sentence.
        reason: String,
    },
    /// The certificate and the key do not fit together, or the key is of a kind that is not supported.
    #[error("{} and {} do not fit together: {reason}", .certificate.display(), .key.display())]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What rustls says.
        reason: String,
    },
    /// One of two settings that need each other is missing, or one is given that has no use.
    #[error("{0}")]
    Settings(String),
}

/// A file and what it holds.
#[derive(Clone, Copy)]
pub(super) struct Contents<'a> {
    pub(super) file: &'a Path,
    pub(super) bytes: &'a [u8],
}

impl From<ReadError> for TlsError {
    fn from(ReadError { file, error }: ReadError) -> Self {
        Self::Unreadable {
            file,
            reason: error.to_string(),
        }
    }
}

impl Contents<'_> {
    fn unusable(&self, reason: impl Into<String>) -> TlsError {
        TlsError::Unusable {
            file: self.file.to_owned(),
            reason: reason.into(),
        }
    }

    /// All certificates in the file, of which there must be one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.bytes).collect();
        let all = all.map_err(|error| self.unusable(format!("is not valid PEM: {error}")))?;
        match all.is_empty() {
            true => Err(self.unusable("holds no certificate in PEM (BEGIN CERTIFICATE)")),
            false => Ok(all),
        }
    }

    /// The first private key in the file.
    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(self.bytes).map_err(|error| {
            self.unusable(match error {
                PemError::NoItemsFound => {
                    "holds no private key in PEM (BEGIN PRIVATE KEY). A key with a \
                    passphrase has to be stored without it"
                        .to_owned()
                }
                // The words of other errors could hold a part of the key.
                _ => "is not valid PEM".to_owned(),
            })
        })
    }

    /// The certificates in the file, as authorities.
    pub(super) fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut trusted = RootCertStore::empty();
        for certificate in self.certificates()? {
            let added = trusted.add(certificate);
            added.map_err(|error| {
                self.unusable(format!("holds a certificate that can't be used: {error}"))
            })?;
        }
        Ok(trusted)
    }
}

/// A certificate with its chain, and the key that belongs to it.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a certificate and its key.
pub(super) fn identity(certificate: Contents<'_>, key: Contents<'_>) -> Result<Identity, TlsError> {
    Ok((certificate.certificates()?, key.key()?))
}

/// What rustls says if a certificate and its key can't be used together.
pub(super) fn mismatch(certificate: &Path, key: &Path, error: &rustls::Error) -> TlsError {
    TlsError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason: match error {
            rustls::Error::InconsistentKeys(_) => {
                "the key belongs to another certificate".to_owned()
            }
            error => error.to_string(),
        },
    }
}
