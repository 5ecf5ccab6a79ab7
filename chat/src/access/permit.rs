//! What a caller may do, as its token says. It goes with the request, and the fields of the request are checked against it.

use super::audit::Record;
use super::scope::Scope;
use super::tokens::Token;
use channel_store::{ChannelName, UserId};
use futures_util::future::{self, Either};
use http::Extensions;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What one call may do. The default may do everything: it is for callers in this process, and for all callers if there is no
/// file of tokens.
#[derive(Clone, Default)]
pub(crate) struct Permit(Option<Arc<Granted>>);

struct Granted {
    token: Arc<Token>,
    record: Arc<Record>,
}

impl Granted {
    fn answer(&self, is_allowed: bool) -> bool {
        if !is_allowed {
            self.record.note_denied();
        }
        is_allowed
    }
}

impl Permit {
    pub(super) fn new(token: Arc<Token>, record: Arc<Record>) -> Self {
        Self(Some(Arc::new(Granted { token, record })))
    }

    /// The one that goes with a request with these extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// True if the call may name this channel. It is noted for the audit log in any case.
    pub(crate) fn allows(&self, channel: &ChannelName) -> bool {
        let Some(granted) = &self.0 else { return true };
        granted.record.note_channel(channel.as_str());
        granted.answer(granted.token.line.allows(channel.as_str()))
    }

    /// The same for every channel that begins so.
    pub(crate) fn allows_prefix(&self, prefix: &str) -> bool {
        let Some(granted) = &self.0 else { return true };
        granted.record.note_channel(prefix);
        granted.answer(granted.token.line.allows_prefix(prefix))
    }

    /// True if a channel that chat has found may be shown. Nothing is noted.
    pub(crate) fn shows(&self, channel: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|it| it.token.line.allows(channel))
    }

    /// True if the token has no patterns of channels.
    pub(crate) fn is_for_all_channels(&self) -> bool {
        let granted = self.0.as_ref();
        granted.is_none_or(|it| it.token.line.patterns.is_empty())
    }

    /// True if the token is one of connectors.
    pub(crate) fn is_for_connectors(&self) -> bool {
        let granted = self.0.as_ref();
        granted.is_some_and(|it| it.token.line.scopes.contains(&Scope::Connector))
    }

    /// Notes a user that the call is about, for the audit log.
    pub(crate) fn note_user(&self, user: &UserId) {
        if let Some(granted) = &self.0 {
            granted.record.note_user(user.as_str());
        }
    }

    /// Returns when the token is not valid any more. Never, if there is none.
    pub(crate) fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        let token = self.0.as_ref().map(|it| it.token.revoked.clone());
        match token.map(CancellationToken::cancelled_owned) {
            Some(revoked) => Either::Left(revoked),
            None => Either::Right(future::pending()),
        }
    }
}
