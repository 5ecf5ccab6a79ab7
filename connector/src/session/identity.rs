//! What a session knows of its user's token: what it grants, and when it expires.

use super::earlier_positions::EarlierPositions;
use super::hooked::Decisions;
use super::join::Refused;
use super::parameters::{self, Login};
use super::replies::{Answer, DONE};
use super::{Handlers, JoinedChannel, Session};
use crate::access::{AccessControl, Claims, Grants, Rejected, Right, Rights, ttl};
use crate::membership::EndedSession;
use crate::transport::Connection;
use channel_store::{ChannelName, UserId};
use serde_json::Value;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use wire::{Disconnect, Reason, Refusal, RequestBody};

/// The token of the session has expired.
const ON_EXPIRED: &str = "onExpired";

/// What a token said when it was shown last, what the hook has decided, and what the client said of the time before.
#[derive(Default)]
pub(super) struct Identity {
    pub(super) grants: Grants,
    /// Channels that the session is still to join, because its token names them.
    pub(super) to_join: VecDeque<ChannelName>,
    /// Where the client was before it came back.
    pub(super) earlier: EarlierPositions,
    /// `None`: the token does not expire.
    expiry: Option<Expiry>,
    /// What the operator's hook has decided about channels, once it was asked.
    pub(super) decisions: Option<Box<Decisions>>,
}

/// The end of the session's token.
struct Expiry {
    /// Tells the client when the token has expired, and closes its connection if it does not refresh it.
    _task: AbortOnDropHandle<()>,
    /// The permit to close the connection. A refresh holds it while it is under way.
    closing: Arc<Semaphore>,
}

impl Identity {
    /// True if the token names channels that the session has not joined yet.
    pub(super) fn is_to_join(&self) -> bool {
        !self.to_join.is_empty()
    }

    /// The identity of a session that begins with this token.
    pub(super) fn begin(
        access: &AccessControl,
        claims: Claims,
        connection: &Arc<Connection>,
    ) -> Self {
        let expiry = access.lasts(&claims).map(|lasts| {
            let closing = Arc::new(Semaphore::new(1));
            let (connection, permits) = (Arc::clone(connection), Arc::clone(&closing));
            let expiring = expire(connection, lasts, access.expiry_grace(), permits);
            Expiry {
                _task: AbortOnDropHandle::new(tokio::spawn(expiring)),
                closing,
            }
        });
        Self {
            grants: claims.grants,
            to_join: claims.channels.into(),
            earlier: EarlierPositions::default(),
            expiry,
            decisions: None,
        }
    }
}

/// Lets a client know that its token has expired, and closes its connection some time later.
async fn expire(
    connection: Arc<Connection>,
    after: Duration,
    grace: Duration,
    closing: Arc<Semaphore>,
) {
    sleep(after).await;
    let body = format!(r#"{{"closesIn":{}}}"#, grace.as_secs());
    let mut frames = Vec::new();
    wire::direct(
        connection.format(),
        ON_EXPIRED,
        body.as_bytes(),
        &mut frames,
    );
    connection.send(&frames, &mut None);
    sleep(grace).await;
    // A refresh that came in time may still wait for the store, for two seconds at most. If it succeeds, it aborts this task. The
    // next one does not get the permit before this task does.
    let _permit = closing.acquire().await;
    connection.close(Disconnect::TokenExpired);
}

impl Session {
    /// What the user's token grants.
    pub(super) fn grants(&self) -> Option<&Grants> {
        Some(&self.identity.as_ref()?.grants)
    }

    /// What the hook has decided about channels.
    pub(super) fn decisions(&self) -> Option<&Decisions> {
        self.identity.as_ref()?.decisions.as_deref()
    }
}

impl Handlers {
    /// True if clients must prove who they are.
    pub(super) fn wants_tokens(&self) -> bool {
        self.services.access.wants_proof()
    }

    /// Reads the parameters of a login, and checks the token, if clients must show one: that in the body, or else the one
    /// that was shown when the connection was opened. The hook is asked about it, if it decides about logins.
    pub(super) async fn identify(
        &self,
        body: &RequestBody,
        deadline: Instant,
    ) -> Result<(Login, Option<Claims>), Refusal> {
        let protocol = self.connection.format().protocol();
        if !self.wants_tokens() {
            return Ok((Login::parse(body, protocol)?, None));
        }
        // A connection has one user, so a second login is refused whatever its user is (F5).
        if self.session.is_some() {
            return Err(Reason::AlreadyLoggedIn.into());
        }
        let token = parameters::token(body)?.or_else(|| self.connection.shown_token());
        let claims = match self.services.access.login_hook() {
            Some(hook) => {
                let request = self.login_request(token, parameters::user(body)?)?;
                let asked = hook.login(request, deadline).await;
                asked.map_err(|error| self.not_let_in(&error))?
            }
            None => self.check(token.as_deref(), deadline).await?,
        };
        let login = Login::parse_for(body, protocol, Some(&claims.user))?;
        if login.user.id != claims.user {
            return Err(self.reject(&Rejected::OtherUser));
        }
        Ok((login, Some(claims)))
    }

    /// Handles `connector.handler.refresh`: the session goes on with a newer token of the same user.
    pub(super) async fn refresh(&mut self, body: &RequestBody, deadline: Instant) -> Answer {
        let session = self.session.as_ref().ok_or(Reason::NotLoggedIn)?;
        let identity = session.identity.as_ref();
        let expiry = identity.and_then(|it| it.expiry.as_ref());
        // Until this function returns, the connection is not closed because the old token has expired.
        let _permit = expiry.map(|it| Arc::clone(&it.closing).try_acquire_owned());
        let token = parameters::token(body)?;
        let mut claims = match self.services.access.login_hook() {
            Some(hook) => {
                let request = self.refresh_request(token, session)?;
                let asked = hook.refresh(request, deadline).await;
                asked.map_err(|error| self.not_let_in(&error))?
            }
            None => self.check(token.as_deref(), deadline).await?,
        };
        if claims.user != session.user.id {
            return Err(self.reject(&Rejected::OtherUser));
        }
        let registration = &session.registration;
        let renewed = self.services.logins.renew_token(
            registration,
            claims.token(),
            claims.info.take(),
            deadline,
        );
        renewed.await.map_err(Refused::Forbidden)?;
        // The channels of a token are joined at a login. A session that has left one since then stays out.
        claims.channels.clear();
        let ttl = ttl(&claims);
        let mut identity = Identity::begin(&self.services.access, claims, &self.connection);
        if let Some(session) = &mut self.session {
            // What the hook has decided about channels stays, and the expiry of the old token does not.
            if let Some(before) = session.identity.take() {
                identity.decisions = before.decisions;
                identity.earlier = before.earlier;
            }
            session.identity = Some(Box::new(identity));
        }
        self.judge_again();
        Ok(match ttl {
            Some(ttl) => format!(r#"{{"code":0,"ttl":{ttl}}}"#).into(),
            None => DONE.into(),
        })
    }

    /// Checks a token that an issuer has signed.
    async fn check(&self, token: Option<&str>, deadline: Instant) -> Result<Claims, Refusal> {
        let verifier = self.services.access.verifier();
        let verifier = verifier.ok_or(Reason::Unavailable)?;
        let checked = AccessControl::check(verifier, token, deadline).await;
        checked.map_err(|rejected| self.reject(&rejected))
    }

    /// Logs why a token is not accepted. The client is told no more than that.
    pub(super) fn reject(&self, rejected: &Rejected) -> Refusal {
        let peer = self.connection.peer().map(|it| it.to_string());
        tracing::info!(peer, reason = %rejected, "token rejected");
        rejected.reason().into()
    }

    /// Refuses if the rules do not let this user join a channel.
    pub(super) fn may_join(
        &self,
        channel: &ChannelName,
        user: &UserId,
        grants: Option<&Grants>,
        decisions: Option<&Decisions>,
    ) -> Result<(), Refusal> {
        let grants = grants.cloned().unwrap_or_default();
        let decided = decisions.map(|it| it.allowed(channel, Rights::NONE));
        let decided = decided.unwrap_or(Rights::NONE);
        let (rights, _) = self.services.access.judge(channel, user, &grants, decided);
        if rights.has(Right::Join) {
            Ok(())
        } else {
            Err(not_allowed(Right::Join))
        }
    }

    /// Refuses if the session may not join a further channel. If the hook decides about that, it is asked about these others, too.
    pub(super) async fn may_join_further(
        &mut self,
        channel: &ChannelName,
        others: &[ChannelName],
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let session = self.session.as_ref().ok_or(Reason::NotLoggedIn)?;
        let user = session.user.id.clone();
        let left = self.services.access.to_decide(channel, &user);
        if left.has(Right::Join) {
            let channels: Vec<_> = std::iter::once(channel).chain(others).collect();
            self.decide_about(&channels, deadline).await?;
        }
        let session = self.session.as_ref().ok_or(Reason::NotLoggedIn)?;
        self.may_join(channel, &user, session.grants(), session.decisions())
    }

    /// Judges what the session may do in each of its channels, because its grants or the rules have changed. It leaves those
    /// that it may not be in any more, as if a back end had removed it, unless a back end has added it. Sends must be
    /// settled before this.
    pub(super) fn judge_again(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let mut channels = mem::take(&mut session.channels);
        for joined in &mut channels {
            joined.judge(&self.services.access, session);
        }
        let (revoked, rest): (Vec<_>, _) =
            (channels.into_iter()).partition(JoinedChannel::is_revoked);
        session.channels = rest;
        for JoinedChannel { membership, .. } in revoked {
            let named = Value::from(membership.channel().as_str());
            self.tell_client(
                super::commanded::ON_REMOVED,
                &format!(r#"{{"channel":{named}}}"#),
            );
            self.services.leaves.land(EndedSession {
                memberships: vec![membership],
                ..EndedSession::default()
            });
        }
        self.keep_decisions();
    }

    /// True if the rules have changed since the session's rights were judged, or what the hook has decided.
    pub(super) fn is_judged_by_old_rules(&self) -> bool {
        let now = self.services.access.generation();
        let session = self.session.as_ref();
        // A channel that was joined just when the rules changed may be one that the new rules forbid.
        let is_old = |joined: &JoinedChannel| joined.judged != now || joined.is_revoked();
        session.is_some_and(|it| {
            let decisions = it.decisions();
            let has_changed = decisions.is_some_and(Decisions::take_change);
            has_changed || it.channels.iter().any(is_old)
        })
    }

    /// The next channel to join because the session's token names it.
    pub(super) fn next_to_join(&mut self) -> Option<ChannelName> {
        let identity = self.session.as_mut()?.identity.as_mut()?;
        identity.to_join.pop_front()
    }

    /// Joins a channel because the session's token names it. If that fails, the client may join by itself.
    pub(super) async fn join_named(&mut self, channel: &ChannelName, deadline: Instant) {
        let Some(session) = &self.session else {
            return;
        };
        if session.joined(Some(channel)).is_some() {
            return;
        }
        let others: Vec<_> = (session.identity.iter())
            .flat_map(|it| it.to_join.iter().cloned())
            .collect();
        let allowed = self.may_join_further(channel, &others, deadline).await;
        let joined = match allowed {
            Ok(()) => self.add_to(channel, deadline, false).await.map(drop),
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = joined {
            let reason = refusal.reason().name();
            tracing::debug!(%channel, reason, "a channel of a token is not joined");
            if refusal.reason() == Reason::Unavailable {
                // The others would each take as long to fail.
                while self.next_to_join().is_some() {}
            }
        }
    }
}

impl JoinedChannel {
    /// True if the session may not be here any more.
    fn is_revoked(&self) -> bool {
        !self.rights.has(Right::Join) && !self.is_added
    }

    /// Judges what the session may do here.
    pub(super) fn judge(&mut self, access: &AccessControl, session: &Session) {
        let none = Grants::default();
        let grants = session.grants().unwrap_or(&none);
        let channel = self.membership.channel();
        let decisions = session.decisions();
        // As long as the hook was not asked, the session keeps what it has.
        let decided = decisions.map(|it| it.allowed(channel, self.rights));
        let decided = decided.unwrap_or(self.rights);
        (self.rights, self.judged) = access.judge(channel, &session.user.id, grants, decided);
    }

    /// Refuses if the session does not have this right here.
    pub(super) fn allow(&self, right: Right) -> Result<&Self, Refusal> {
        if self.rights.has(right) {
            Ok(self)
        } else {
            Err(not_allowed(right))
        }
    }
}

/// The refusal of what somebody has no right to.
pub(super) fn not_allowed(right: Right) -> Refusal {
    let message = format!("You do not have the right \"{right}\" in this channel.");
    Refusal::because(Reason::NotAllowed, message)
}
