//! The way from a connector to the chats: several endpoints that come and go. Any of them can do any call.
//!
//! Joins and leaves are unary calls to whichever endpoint is up. Sends go through ordered streams
//! (`ordered_stream.rs`): one for each endpoint, and in a cluster one for each endpoint and shard. A call takes at most
//! a second with one endpoint, and two in all. If an endpoint does not answer, the next one gets the same call with the
//! same key, session and operation number, so nothing happens twice.

mod call;
mod chat;
mod endpoint;
mod line;
mod ordered_stream;
mod proof;
mod prover;
mod resolver;
mod settings;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod token;
mod window;

pub use crate::grpc::TransportError;
pub(crate) use call::CALL;
pub use call::{Answered, CallError};
pub use chat::Chat;
pub use line::Outcome;
pub use proof::OwnSettings;
pub use settings::ChatAccess;
pub use source::{ChatService, Credentials, Source};
pub use token::{ChatToken, TokenError};
pub use window::Window;

use channel_store::probe::ProbeFeed;
use proof::Prover;
use std::sync::Arc;

impl Chat {
    /// Connects to the endpoints of the source, in the background and for ever.
    #[must_use]
    pub fn new(source: Source) -> Arc<Self> {
        let chat = Self::nowhere(None);
        resolver::follow(source, &chat);
        chat
    }

    /// Does the same as [`Chat::new`], but uses an endpoint only while it is known to write where `feed` listens.
    #[must_use]
    pub fn proven(source: Source, feed: Arc<dyn ProbeFeed>, own: OwnSettings) -> Arc<Self> {
        let chat = Self::nowhere(Some(Arc::new(Prover { feed, own })));
        resolver::follow(source, &chat);
        chat
    }
}
