//! What the operator's hook is asked about a session and its messages.

use super::identity::not_allowed;
use super::{Handlers, Session};
use crate::access::{HookError, LARGEST_TOKEN, Rejected, Right};
use bytes::Bytes;
use channel_store::{ChannelName, User};
use proto::access::v1::{AuthorizeSendRequest, LoginRequest, RefreshRequest};
use tokio::time::Instant;
use wire::{Reason, Refusal};

impl Handlers {
    pub(super) fn login_request(
        &self,
        token: Option<String>,
        user: Option<User>,
    ) -> Result<LoginRequest, Refusal> {
        Ok(LoginRequest {
            token: self.shown(token)?,
            user_is_number: user.as_ref().is_some_and(|it| it.is_number),
            user: user.map(|it| it.id.to_string()).unwrap_or_default(),
            address: self.address(),
            protocol: self.protocol(),
            connector: self.services.routes.connector().to_owned(),
        })
    }

    pub(super) fn refresh_request(
        &self,
        token: Option<String>,
        session: &Session,
    ) -> Result<RefreshRequest, Refusal> {
        Ok(RefreshRequest {
            token: self.shown(token)?,
            user: session.user.id.to_string(),
            session: session.id.to_string(),
            address: self.address(),
            protocol: self.protocol(),
            connector: self.services.routes.connector().to_owned(),
        })
    }

    /// What the client has shown, if that is short enough to be passed on.
    fn shown(&self, token: Option<String>) -> Result<String, Refusal> {
        let token = token.unwrap_or_default();
        if token.len() > LARGEST_TOKEN {
            return Err(self.reject(&Rejected::TooLong));
        }
        Ok(token)
    }

    fn address(&self) -> String {
        let peer = self.connection.peer().map(|it| it.to_canonical());
        peer.map(|it| it.to_string()).unwrap_or_default()
    }

    fn protocol(&self) -> String {
        self.connection.format().name().to_owned()
    }

    /// Logs why the hook has not let somebody in. The client is told no more than the reason.
    pub(super) fn not_let_in(&self, error: &HookError) -> Refusal {
        let reason = error.reason();
        if let HookError::Denied { .. } = error {
            let peer = self.connection.peer().map(|it| it.to_string());
            tracing::info!(peer, reason = %error, "login refused");
        }
        match reason {
            Reason::NotAllowed => Refusal::because(reason, "You may not log in."),
            _ => reason.into(),
        }
    }

    /// Asks the hook whether a message may be sent. Returns what is sent: the message, or what the hook has made of it.
    ///
    /// `None`: the connector has ended the connection, or the socket has broken. Then the question is cancelled. What a client sent
    /// before it closed in the usual way is carried out, as everything else is (K3).
    pub(super) async fn ask_to_send(
        &self,
        session: &Session,
        channel: &ChannelName,
        body: Bytes,
        key: Option<&str>,
        ephemeral: bool,
        deadline: Instant,
    ) -> Option<Result<Bytes, Refusal>> {
        let Some(hook) = self.services.access.hook() else {
            return Some(Err(Reason::Unavailable.into()));
        };
        if Instant::now() >= deadline {
            return Some(Err(Reason::Unavailable.into()));
        }
        let request = AuthorizeSendRequest {
            user: session.user.id.to_string(),
            user_is_number: session.user.is_number,
            session: session.id.to_string(),
            channel: channel.to_string(),
            body_json: body.clone(),
            idempotency_key: key.unwrap_or_default().to_owned(),
            ephemeral,
            connector: self.services.routes.connector().to_owned(),
        };
        tokio::select! {
            biased;
            _ = self.connection.closed() => None,
            asked = hook.send(request, deadline) => Some(match asked {
                Ok(changed) => Ok(changed.unwrap_or(body)),
                Err(error) => Err(match error.reason() {
                    Reason::NotAllowed => not_allowed(Right::Send),
                    reason => reason.into(),
                }),
            }),
        }
    }
}
