//! Where chat is: the addresses of `--chat`, or the same process.

use super::token::ChatToken;
use crate::grpc::{AddressError, GrpcService, uri};
use http::Uri;
use runtime::tls::ClientTls;
use std::sync::Arc;

/// Takes calls of chat: a connection to a chat, or the service of a chat in the same process.
pub type ChatService = GrpcService;

/// What a connector shows to chats, and whom it trusts as one.
#[derive(Clone, Default)]
pub struct Credentials {
    /// TLS for addresses that begin with `https`.
    pub tls: Option<Arc<ClientTls>>,
    /// The token.
    pub token: Option<Arc<ChatToken>>,
}

/// Where a connector finds chat.
pub enum Source {
    /// Chats in other processes, behind these names, and what is shown to them.
    Addresses(Vec<Uri>, Credentials),
    /// A chat in the same process.
    InProcess(ChatService),
}

impl Source {
    /// Reads `--chat`. The token is shown to each of these chats.
    ///
    /// # Errors
    /// [`AddressError`] names the first address that can't be used.
    pub fn parse(addresses: &[String]) -> Result<Vec<Uri>, AddressError> {
        addresses.iter().map(|address| uri(address)).collect()
    }
}
