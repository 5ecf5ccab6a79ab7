//! Where chat is: the addresses of `--chat`, or the same process.

use super::token::ChatToken;
use crate::grpc::{AddressError, GrpcService, uri};
use http::Uri;
use std::sync::Arc;

/// Takes calls of chat: a connection to a chat, or the service of a chat in the same process.
pub type ChatService = GrpcService;

/// Where a connector finds chat.
pub enum Source {
    /// Chats in other processes, behind these names, and the token that is shown to them.
    Addresses(Vec<Uri>, Option<Arc<ChatToken>>),
    /// A chat in the same process.
    InProcess(ChatService),
}

impl Source {
    /// Reads `--chat`. The token is shown to each of these chats.
    ///
    /// # Errors
    /// [`AddressError`] names the first address that can't be used.
    pub fn parse(
        addresses: &[String],
        token: Option<Arc<ChatToken>>,
    ) -> Result<Self, AddressError> {
        let uris = addresses.iter().map(|address| uri(address));
        Ok(Self::Addresses(uris.collect::<Result<_, _>>()?, token))
    }
}
