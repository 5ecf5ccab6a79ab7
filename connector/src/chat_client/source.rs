//! Where chat is: the addresses of `--chat`, or the same process.

use http::Uri;
use runtime::cli::redact;
use tower::util::BoxCloneSyncService;

/// Takes gRPC calls: a connection to a chat, or the service of a chat in the same process.
pub type ChatService = BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    TransportError,
>;

/// The connection to a chat failed. This is a type of its own because futures that name a boxed error are hard to prove
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

/// Where a connector finds chat.
pub enum Source {
    /// Chats in other processes, behind these names.
    Addresses(Vec<Uri>),
    /// A chat in the same process.
    InProcess(ChatService),
}

/// An address in `--chat` that can't be used. No message shows a user or a password.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address is not of the form `http://host:port`.
    #[error("{0:?} is not a chat address such as http://127.0.0.1:4001")]
    NoAddress(String),
    /// The address asks for TLS.
    #[error(
        "{0:?}: connectors speak to chat without TLS; use http:// as in http://127.0.0.1:4001, inside a network that you trust, or \
         that encrypts"
    )]
    Encrypted(String),
    /// The address names a user.
    #[error(
        "{0:?}: chat asks for no user and no password; use an address such as http://127.0.0.1:4001"
    )]
    Credentials(String),
}

impl Source {
    /// Reads `--chat`.
    ///
    /// # Errors
    /// [`SourceError`] names the first address that can't be used.
    pub fn parse(addresses: &[String]) -> Result<Self, SourceError> {
        let uris = addresses.iter().map(|address| uri(address));
        Ok(Self::Addresses(uris.collect::<Result<_, _>>()?))
    }
}

fn uri(address: &str) -> Result<Uri, SourceError> {
    let shown = redact(address);
    let Ok(uri) = address.parse::<Uri>() else {
        return Err(SourceError::NoAddress(shown));
    };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(SourceError::Credentials(shown))
        }
        (Some("http"), Some(authority)) if !authority.host().is_empty() => Ok(uri),
        (Some("https"), _) => Err(SourceError::Encrypted(shown)),
        _ => Err(SourceError::NoAddress(shown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> String {
        let parsed = Source::parse(&[address.to_owned()]);
        parsed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_reason_and_an_example() {
        for (wrong, reason) in [
            ("https://chat:4001", "without TLS"),
            ("http://user:secret@chat:4001", "no user and no password"),
            ("https://user:secret@chat", "no user and no password"),
            ("chat:4001", "is not a chat address"),
            ("", "is not a chat address"),
            ("ftp://chat", "is not a chat address"),
        ] {
            let text = refused(wrong);
            assert!(text.contains(reason), "{wrong}: {text}");
            assert!(text.contains("http://127.0.0.1:4001"), "{wrong}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
        for right in ["http://chat:4001", "http://[::1]:4001", "http://chat"] {
            assert_eq!(refused(right), "");
        }
    }
}
