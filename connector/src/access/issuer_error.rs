//! Why issuers of tokens cannot be used.

use super::keys::KeyError;
use runtime::tls::TlsError;
use std::path::PathBuf;

/// Why issuers cannot be used. One line, which names the issuer and the key of the settings.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// No issuer is named.
    #[error(
        "auth.mode is jwt, but there is no [[auth.issuer]], so nobody could log in. Name one in the configuration file (that of standalone: [[connector.auth.issuer]])"
    )]
    None,
    /// Settings that contradict each other.
    #[error("[[auth.issuer]] {issuer}: {what}")]
    Settings {
        /// The issuer.
        issuer: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A file that cannot be read.
    #[error("[[auth.issuer]] {issuer}: cannot read {}: {error}", file.display())]
    File {
        /// The issuer.
        issuer: String,
        /// The file.
        file: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Keys that cannot be used.
    #[error("[[auth.issuer]] {issuer}: {}: {error}", file.display())]
    Keys {
        /// The issuer.
        issuer: String,
        /// The file.
        file: PathBuf,
        /// Why not.
        error: KeyError,
    },
    /// Authorities that cannot be used.
    #[error("[[auth.issuer]] {issuer}: jwks_ca_file: {error}")]
    Trust {
        /// The issuer.
        issuer: String,
        /// Why not.
        error: TlsError,
    },
}
