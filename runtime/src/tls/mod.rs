//! TLS for ports and for calls: settings, certificates from files, and new certificates without a restart.
//!
//! Everything is rustls with ring, in TLS 1.3 and 1.2. [`ServerTls`] is for a port, [`ClientTls`] for calls to other services.
//! Both watch their files. What they find is used for new connections; connections that are open keep what
//! they began with.

mod certificate;
mod client;
pub(crate) mod expiry;
mod pem;
mod plain;
mod server;
mod settings;
mod watched;

pub use certificate::ClientCertificate;
pub use client::{Called, ClientFiles, ClientTls};
pub use pem::TlsError;
pub use plain::{HANDSHAKE, may_be_http, refuse_http};
pub use server::{ServerFiles, ServerTls};
pub use settings::TlsSettings;

#[cfg(test)]
mod tests;
