//! Closes the connections of sessions because a back end has asked for it, or because they are forbidden.

use super::Commands;
use crate::membership::Registration;
use crate::transport::Connection;
use channel_store::{Block, Incarnation, Restrictions, TokenId};
use futures_util::future::join_all;
use proto::connector::v1::{
    DisconnectAction, Disconnected, DisconnectedSession, RestrictAction, UserSessions,
};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use wire::Notice;

/// How long the sessions have to answer what their clients have asked for, and to leave their channels.
const END: Duration = Duration::from_millis(500);
/// How long a client then has to take the farewell. Both times together are shorter than that for which a chat waits.
const FAREWELL: Duration = Duration::from_millis(200);

impl Commands {
    /// Closes connections because a back end has asked for it.
    pub(super) async fn disconnect(
        &self,
        whose: &Incarnation,
        action: DisconnectAction,
    ) -> Disconnected {
        let notice = Notice {
            code: u16::try_from(action.code).ok().filter(|code| *code != 0),
            reason: (!action.reason.is_empty()).then(|| action.reason.into()),
            ..Notice::default()
        };
        let except = action.except_sessions;
        let close = |registration: &Registration, connection: &Connection| {
            let stays = except.iter().any(|it| it == registration.session.as_str());
            if !stays {
                connection.close_for_back_end(action.reconnect, &notice);
            }
            !stays
        };
        self.close(whose, action.of, close).await
    }

    /// Closes the connections of those sessions that are forbidden.
    pub(super) async fn restrict(
        &self,
        whose: &Incarnation,
        action: RestrictAction,
    ) -> Disconnected {
        let tokens = action.revoked_tokens.iter();
        let tokens = tokens.filter_map(|id| <[u8; 16]>::try_from(&**id).ok());
        let restrictions = Restrictions {
            block: (action.blocked_until > 0).then_some(Block {
                until: action.blocked_until,
                reason: action.block_reason,
            }),
            issued_before: (action.issued_before > 0).then_some(action.issued_before),
            revoked: tokens.map(TokenId::from_bytes).collect(),
        };
        let close = |registration: &Registration, _: &Connection| {
            let forbidden = registration.forbidden_by(&restrictions);
            if let Some(forbidden) = &forbidden {
                registration.close_forbidden(forbidden);
            }
            forbidden.is_some()
        };
        self.close(whose, action.of, close).await
    }

    /// Closes connections, also those whose sessions are still logging in. Returns when nothing is exchanged with the
    /// clients any more. The leaves go on if they have not landed by then. `close` says whether it has closed this one.
    async fn close(
        &self,
        whose: &Incarnation,
        of: Vec<UserSessions>,
        close: impl Fn(&Registration, &Connection) -> bool,
    ) -> Disconnected {
        let (mut names, mut sessions, mut connections) = (Vec::new(), Vec::new(), Vec::new());
        for registration in self.sessions(whose, of) {
            let connection = registration.connection.upgrade();
            // A session without a connection is over already, and its leaves are on their way.
            let Some(connection) = connection.filter(|it| !it.is_concluded()) else {
                continue;
            };
            if !close(&registration, &connection) {
                continue;
            }
            names.push(registration.name());
            // Weak, because a login is closed when nobody holds it any more.
            sessions.push(Arc::downgrade(&registration));
            connections.push(Arc::downgrade(&connection));
        }
        let until = Instant::now() + END;
        let _ = timeout_at(until, self.logins.known.closed(&sessions)).await;
        let open: Vec<_> = connections.iter().filter_map(Weak::upgrade).collect();
        end(&open).await;
        let sessions = names.into_iter().zip(&sessions);
        let sessions = sessions.map(|(name, session)| DisconnectedSession {
            name: Some(name),
            leaves_pending: session.strong_count() > 0,
        });
        Disconnected {
            sessions: sessions.collect(),
        }
    }
}

/// Says farewell where that was not done yet. A client that does not take it is cut off.
async fn end(connections: &[Arc<Connection>]) {
    let open = connections.iter().filter(|it| !it.is_concluded());
    let open: Vec<_> = open.collect();
    open.iter().for_each(|it| it.conclude());
    let flushed = join_all(open.iter().map(|it| it.flushed()));
    if timeout_at(Instant::now() + FAREWELL, flushed)
        .await
        .is_err()
    {
        let stuck = open.iter().filter(|it| !it.is_concluded());
        stuck.for_each(|it| it.abort());
    }
}
