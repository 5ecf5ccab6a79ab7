//! Closes sessions that are forbidden: their user is blocked, or their tokens were revoked.
//!
//! The store checks each login and claim. A session that is in already is closed by a command of the chat that has written the
//! restriction, and if the command is lost, by the reconciler, which reads the restrictions of a user with the entries.

use super::logins::Logins;
use super::registration::Registration;
use channel_store::{Forbidden, Restrictions, ShownToken, UserInfo};
use tokio::time::{Instant, timeout_at};
use wire::{Disconnect, Notice};

impl Logins {
    /// The client of a session shows a newer token. It replaces the one before, unless it is forbidden. `info` is what the newer
    /// one tells everybody about the user: the channels that the session joins from now on show it.
    ///
    /// While the store does not answer, the token is accepted: the session is there in any case, and otherwise an outage would
    /// close all sessions whose tokens expire meanwhile. The reconciler looks at the user as soon as the store is back.
    ///
    /// # Errors
    /// Why the token is forbidden. The session goes on with the one before.
    pub(crate) async fn renew_token(
        &self,
        registration: &Registration,
        token: ShownToken,
        info: Option<UserInfo>,
        deadline: Instant,
    ) -> Result<(), Forbidden> {
        // First it is noted, and then the store is asked. A restriction that is written meanwhile either stands in the answer,
        // or its command finds the token here.
        registration.state.lock().next_token = Some(Box::new(token));
        let user = std::slice::from_ref(registration.user());
        let looks = self.entries(registration.guard().incarnation(), user);
        let forbidden = match timeout_at(deadline, looks).await {
            Ok(Ok(looks)) => {
                let mut looks = looks.iter();
                looks.find_map(|look| look.restrictions.forbid(Some(&token)))
            }
            unknown => {
                tracing::debug!(?unknown, "not known whether a token was revoked");
                registration.suspect();
                None
            }
        };
        let mut state = registration.state.lock();
        state.next_token = None;
        match forbidden {
            Some(forbidden) => Err(forbidden),
            None => {
                state.token = Some(token);
                state.info = info;
                Ok(())
            }
        }
    }
}

impl Registration {
    /// Why this session is forbidden, if it is.
    pub(super) fn forbidden_by(&self, restrictions: &Restrictions) -> Option<Forbidden> {
        let state = self.state.lock();
        let next = state.next_token.as_deref();
        let forbidden = restrictions.forbid(state.token.as_ref());
        forbidden.or_else(|| restrictions.forbid(Some(next?)))
    }

    /// Closes the connection because the session is forbidden, and says so.
    pub(super) fn close_forbidden(&self, forbidden: &Forbidden) {
        let connection = self.connection.upgrade();
        let Some(connection) = connection.filter(|_| !self.state.lock().undone) else {
            return;
        };
        match forbidden {
            Forbidden::Blocked(block) => {
                let reason = (!block.reason.is_empty()).then(|| block.reason.as_str().into());
                let notice = Notice {
                    reason,
                    ..Notice::default()
                };
                connection.close_saying(Disconnect::Blocked, &notice);
            }
            Forbidden::TokenRevoked => connection.close(Disconnect::TokenRevoked),
        }
    }
}
