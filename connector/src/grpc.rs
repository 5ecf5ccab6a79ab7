//! gRPC services in other processes, as a connector finds and reaches them: chats, and the handlers of operators.

use crate::dial::{is_encrypted, server_name};
use http::Uri;
use http::uri::Authority;
use runtime::cli::redact;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use tower::util::BoxCloneSyncService;

/// How often a name is resolved again.
pub(crate) const RESOLVE_AGAIN: Duration = Duration::from_secs(10);

/// Takes gRPC calls: a connection to a service, or a service in the same process.
pub type GrpcService = BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    TransportError,
>;

/// The connection to a service failed. This is a type of its own because futures that name a boxed error are hard to prove
/// `Send`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl TransportError {
    /// Wraps the error of any transport.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// An address in the settings that can't be used. No message shows a user or a password.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The address is not of the form `http://host:port` or `https://host:port`.
    #[error("{0:?} is not an address such as http://127.0.0.1:4001")]
    NoAddress(String),
    /// The address names a user.
    #[error(
        "{0:?}: connectors send no user and no password; use an address such as http://127.0.0.1:4001"
    )]
    Credentials(String),
}

/// Reads an address.
///
/// # Errors
/// [`AddressError`] says why it can't be used.
pub(crate) fn uri(address: &str) -> Result<Uri, AddressError> {
    let shown = redact(address);
    let Ok(uri) = address.parse::<Uri>() else {
        return Err(AddressError::NoAddress(shown));
    };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(AddressError::Credentials(shown))
        }
        (Some("http"), Some(authority)) if is_host_and_port(authority) && is_bare(&uri) => Ok(uri),
        (Some("https"), Some(authority))
            if is_host_and_port(authority) && is_bare(&uri) && server_name(&uri).is_some() =>
        {
            Ok(uri)
        }
        _ => Err(AddressError::NoAddress(shown)),
    }
}

/// True if there is a host, and a port that is one if it is there.
fn is_host_and_port(authority: &Authority) -> bool {
    let after = authority.as_str().strip_prefix(authority.host());
    !authority.host().is_empty() && (after == Some("") || authority.port_u16().is_some())
}

/// True if nothing follows the port.
fn is_bare(uri: &Uri) -> bool {
    uri.path().trim_matches('/').is_empty() && uri.query().is_none()
}

/// Asks for all addresses behind the name in this URI.
///
/// # Errors
/// Why the name can't be resolved now.
pub(crate) async fn resolve(uri: &Uri) -> io::Result<Vec<SocketAddr>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16();
    let port = port.unwrap_or(if is_encrypted(uri) { 443 } else { 80 });
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// The settings of a connection to one of the addresses behind a name.
pub(crate) fn transport(uri: &Uri, address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap_or_else(|_| Endpoint::from_static("http://0.0.0.0:0"))
        .origin(uri.clone())
}

/// A request that names the trace that the task works on, if one is kept.
pub(crate) fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let traceparent = traces::current().and_then(|span| {
        let text = span.context().traceparent();
        text.parse().ok()
    });
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent);
    }
    request
}

/// Why a call failed, in words: the innermost cause, which is the system's if the network failed.
pub(crate) fn words(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut last = None;
    while let Some(error) = source {
        last = Some(error.to_string());
        source = error.source();
    }
    let words = last.unwrap_or_else(|| status.message().to_owned());
    if words.is_empty() {
        format!("{:?}", status.code())
    } else {
        words
    }
}

/// True if the failure is one of the connection, and was not told by the service.
pub(crate) fn is_of_the_network(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> String {
        uri(address).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_reason_and_an_example() {
        for (wrong, reason) in [
            ("https://chat:4001/path", "is not an address"),
            ("https://no name", "is not an address"),
            ("https://a..b:4001", "is not an address"),
            ("http://user:secret@chat:4001", "no user and no password"),
            ("https://user:secret@chat", "no user and no password"),
            ("chat:4001", "is not an address"),
            ("", "is not an address"),
            ("ftp://chat", "is not an address"),
            ("http://chat:99999", "is not an address"),
            ("http://chat:4001/path", "is not an address"),
            ("http://chat:4001?a=b", "is not an address"),
        ] {
            let text = refused(wrong);
            assert!(text.contains(reason), "{wrong}: {text}");
            assert!(text.contains("http://127.0.0.1:4001"), "{wrong}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
        for right in [
            "http://chat:4001",
            "http://chat:4001/",
            "http://[::1]:4001",
            "http://[::1]",
            "http://chat",
            "https://chat:4001",
            "https://[::1]:4001",
            "https://chat",
        ] {
            assert_eq!(refused(right), "");
        }
    }
}
