//! Where chat is: the addresses of `--chat`, or the same process.

use crate::grpc::{AddressError, GrpcService, uri};
use http::Uri;
use runtime::tls::ClientTls;
use std::sync::Arc;

/// Takes calls of chat: a connection to a chat, or the service of a chat in the same process.
pub type ChatService = GrpcService;

/// Where a connector finds chat.
pub enum Source {
    /// Chats in other processes, behind these names, and TLS for those that begin with `https`.
    Addresses(Vec<Uri>, Option<Arc<ClientTls>>),
    /// A chat in the same process.
    InProcess(ChatService),
}

impl Source {
    /// Reads `--chat`.
    ///
    /// # Errors
    /// [`AddressError`] names the first address that can't be used.
    pub fn parse(addresses: &[String]) -> Result<Vec<Uri>, AddressError> {
        addresses.iter().map(|address| uri(address)).collect()
    }
}
