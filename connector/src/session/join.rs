//! How a session joins a channel, and leaves it.

use super::parameters::{self, JoinChannel};
use super::recovery::{Recovered, Recovery};
use super::replies::{self, Answer, DONE};
use super::start::{Placed, place, position};
use super::{CHANNELS, Handlers, JoinedChannel};
use crate::access::Rights;
use crate::chat_client::CallError;
use crate::membership::{Admission, Logins, Membership, Registration, Rollback, Shown};
use channel_store::{ChannelName, Forbidden, Place, Position, SessionId, User};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use wire::{Carrier, Disconnect, Reason, Refusal, Request, RequestBody, sse};

/// The longest time for everything before the join. It gets half of the time that is left at most, because the join
/// needs the other half.
const PREPARE: Duration = Duration::from_millis(1_000);

/// Why a client of Server-Sent Events cannot be in a further channel.
const TOO_LONG: &str = "The names of your channels are so long together that the id of an event has no room for another one. \
    Leave one first, or use a WebSocket.";

/// Why a session was not let in.
pub(super) enum Refused {
    /// The user is logged in elsewhere.
    Taken,
    /// Something did not work or did not answer. The client may try again.
    Failed,
    /// Chat refused, for this reason.
    ByChat(Reason),
    /// This connector refused.
    Here(Refusal),
    /// The user is blocked, or the token was revoked.
    Forbidden(Forbidden),
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Taken => Reason::UserLoggedIn.into(),
            // If something was done before the failure, it will be undone.
            Refused::Failed => Reason::Unavailable.into(),
            Refused::ByChat(reason) => reason.into(),
            Refused::Here(refusal) => refusal,
            Refused::Forbidden(Forbidden::Blocked(block)) => {
                Self::blocked(block.until, &block.reason)
            }
            Refused::Forbidden(Forbidden::TokenRevoked) => Reason::TokenRevoked.into(),
        }
    }
}

/// A session that has just joined.
pub(super) struct Entry {
    joined: JoinedChannel,
    placed: Placed,
}

impl Handlers {
    /// Joins a further channel. `None`: the answer was sent already.
    pub(super) async fn join(&mut self, request: &Request, deadline: Instant) -> Option<Answer> {
        let Some(session) = &mut self.session else {
            return Some(Err(Reason::NotLoggedIn.into()));
        };
        let JoinChannel { channel, recovery } = match JoinChannel::parse(&request.body) {
            Ok(join) => join,
            Err(refusal) => return Some(Err(refusal)),
        };
        // From here on it counts what the client says now.
        session.take_earlier(&channel);
        if session.joined(Some(&channel)).is_some() {
            return Some(Err(Reason::AlreadyJoined.into()));
        }
        let registration = Arc::clone(&session.registration);
        if let Err(refusal) = self.may_join_further(&channel, &[], deadline).await {
            return Some(Err(refusal));
        }
        let mut paces = self.paces.take().unwrap_or_default();
        let paced = || paces.join(Instant::now());
        let welcome = |this: &Self, entry| this.welcome(request.id, DONE.into(), entry);
        let entered = self.enter_further(&channel, &recovery, deadline, paced, welcome);
        let entered = entered.await;
        self.paces = Some(paces);
        let refused = entered.err()?;
        let place = Place::Channel(channel);
        let comes_back = matches!(refused, Refused::Failed)
            && registration.can_come_back()
            && (self.services.lease).is_better_off_anew(registration.guard(), &place);
        if !comes_back {
            return Some(Err(refused.into()));
        }
        // A connection that is closing still replies, and then says farewell.
        self.connection.close(Disconnect::Moved);
        Some(Err(refused.into()))
    }

    /// Joins a channel in which the session is not. Once it is a member, `tell` tells the client, and lets the pushes begin.
    /// `may` is asked shortly before the join begins.
    pub(super) async fn enter_further(
        &mut self,
        channel: &ChannelName,
        recovery: &Recovery,
        deadline: Instant,
        may: impl FnOnce() -> Result<(), Refusal>,
        tell: impl FnOnce(&Self, Entry) -> JoinedChannel,
    ) -> Result<(), Refused> {
        let Some(session) = &self.session else {
            return Err(Refused::Here(Reason::NotLoggedIn.into()));
        };
        if session.channels.len() >= CHANNELS {
            return Err(Refused::Here(Reason::TooManyChannels.into()));
        }
        if self.connection.format().carrier() == Carrier::Events {
            // Each of its events names all of them.
            let joined = session.channels.iter().map(|it| it.membership.channel());
            if !sse::fits(joined.chain([channel])) {
                let refusal = Refusal::because(Reason::TooManyChannels, TOO_LONG);
                return Err(Refused::Here(refusal));
            }
        }
        let place = Place::Channel(channel.clone());
        let queue = self.services.admission.of([&place, &place]);
        let _turn = queue.turn(deadline).await.map_err(Refused::Here)?;
        if !self.services.leaves.has_room() {
            return Err(Refused::Here(Reason::Unavailable.into()));
        }
        may().map_err(Refused::Here)?;
        let mut rollback = Rollback::new(&self.services.leaves);
        let (user, id) = (session.user.clone(), session.id.clone());
        let registration = Arc::clone(&session.registration);
        let membership = async {
            let (present, places) = (registration.guard(), vec![place.clone()]);
            let guard = self.services.lease.enter_beside(present, places).await;
            let guard = Arc::new(guard.ok_or(Refused::Failed)?);
            Ok(Membership::begin(
                self.services.lease.roster(),
                guard,
                channel.clone(),
                user,
                id,
                Some(Arc::clone(&registration)),
            ))
        };
        let memberships = &mut rollback.ended.memberships;
        let entered = self.enter(channel, recovery, membership, memberships, deadline);
        let entry = entered.await?;
        rollback.keep();
        let mut joined = tell(self, entry);
        if let Some(session) = &mut self.session {
            joined.judge(&self.services.access, session);
            session.channels.push(joined);
        }
        self.keep_decisions();
        Ok(())
    }

    /// Leaves a channel because the client has asked for it.
    pub(super) async fn leave(&mut self, body: &RequestBody, deadline: Instant) -> Answer {
        if self.session.is_none() {
            return Err(Reason::NotLoggedIn.into());
        }
        let channel = parameters::leave_channel(body)?;
        self.leave_channel(&channel, deadline).await?;
        Ok(DONE.into())
    }

    /// Leaves a channel. Returns when the leave has landed. If it fails, it is repeated until it lands.
    ///
    /// # Errors
    /// [`Reason::NotJoined`]; [`Reason::LeavePending`] if it fails.
    pub(super) async fn leave_channel(
        &mut self,
        channel: &ChannelName,
        deadline: Instant,
    ) -> Result<(), Reason> {
        let session = self.session.as_mut().ok_or(Reason::NotLoggedIn)?;
        let mut channels = session.channels.iter();
        let Some(place) = channels.position(|it| it.membership.channel() == channel) else {
            return Err(Reason::NotJoined);
        };
        let JoinedChannel { membership, .. } = session.channels.swap_remove(place);
        let leave = membership.leave();
        let rollback = Rollback::of(&self.services.leaves, membership);
        if self.services.chat.leave(leave, deadline).await.is_ok() {
            rollback.keep();
            return Ok(());
        }
        Err(Reason::LeavePending)
    }

    /// Joins a channel, in this order:
    /// - The hub follows the channel before the join is sent. So the member's own onJoin is delivered to it (K2).
    /// - The `membership` future indexes the channel before the join is sent. So if this process dies, its members are
    ///   found.
    /// - The membership stands in `rollback` before the join is sent. So an abandoned join is undone.
    /// - The client's position is checked after the join, because from then on it misses nothing.
    pub(super) async fn enter(
        &self,
        channel: &ChannelName,
        recovery: &Recovery,
        membership: impl Future<Output = Result<Arc<Membership>, Refused>>,
        rollback: &mut Vec<Arc<Membership>>,
        deadline: Instant,
    ) -> Result<Entry, Refused> {
        let mut format = self.connection.format();
        if recovery.is_wanted() {
            format = format.with_positions();
            self.connection.enable_positions();
        }
        let member = self.services.hub.attach(channel, &self.connection, format);
        let prepared = async { tokio::join!(member.followed(), membership) };
        let left = deadline.saturating_duration_since(Instant::now());
        let prepared = timeout(PREPARE.min(left / 2), prepared).await;
        let ((), membership) = prepared.map_err(|_| Refused::Failed)?;
        let membership = membership?;
        rollback.push(Arc::clone(&membership));
        let join = membership.send(&self.services.chat, membership.join(), deadline);
        match join.await {
            Ok(answered) => {
                membership.joined(&answered);
                let answer = &answered.answer;
                if let Some(end) = position(answer) {
                    member.has_joined_at(&end);
                }
                let rule = self.services.access.recover(channel, &membership.user().id);
                let placed = place(&member, recovery, rule, answer);
                let placed = timeout_at(deadline, placed).await.ok().flatten();
                let placed = placed.ok_or(Refused::Failed)?;
                Ok(Entry {
                    joined: JoinedChannel {
                        membership,
                        member,
                        rights: Rights::NONE,
                        judged: 0,
                        is_added: false,
                        kept: None,
                    },
                    placed,
                })
            }
            Err(error) => {
                tracing::debug!(%error, "join failed");
                match &error {
                    CallError::Unknown => {}
                    // Chat has done nothing, so there is nothing to undo.
                    CallError::Refused { .. } | CallError::Late { .. } | CallError::Unreachable => {
                        drop(rollback.pop());
                    }
                }
                match &error {
                    CallError::Refused { reason } if reason == "CONNECTOR_DEAD" => {
                        membership.found_dead();
                    }
                    CallError::Refused { reason } if reason == "STALE_OPERATION" => {
                        self.displaced(&membership, deadline).await;
                    }
                    _ => {}
                }
                Err(match error {
                    CallError::Refused { reason } => Refused::ByChat(Reason::of_chat(&reason)),
                    CallError::Late { .. } | CallError::Unreachable | CallError::Unknown => {
                        Refused::Failed
                    }
                })
            }
        }
    }

    /// Another session has taken this session's place in a channel. So the whole session is closed.
    async fn displaced(&self, membership: &Membership, deadline: Instant) {
        if let Some(registration) = membership.replaced() {
            let displaced = self.services.logins.displace(registration);
            if !matches!(timeout_at(deadline, displaced).await, Ok(Ok(()))) {
                self.connection.close(Disconnect::Displaced);
            }
        }
    }

    /// Indexes a session and logs it in. Stores the registration in `noted` before the login is sent, so that it can be
    /// undone.
    pub(super) async fn register(
        &self,
        user: &User,
        channel: Option<&ChannelName>,
        id: &SessionId,
        shown: Shown,
        noted: &mut Option<Arc<Registration>>,
    ) -> Result<Arc<Registration>, Refused> {
        let (lease, logins) = (&self.services.lease, &self.services.logins);
        if !*logins.policy_in_force().borrow() {
            return Err(Refused::Failed);
        }
        let mut places = Vec::from_iter(channel.cloned().map(Place::Channel));
        places.push(Logins::place(&user.id));
        let guard = lease.enter(places).await.ok_or(Refused::Failed)?;
        let guard = Arc::new(guard);
        let registration = logins.begin(&guard, &user.id, id, &self.connection, shown);
        *noted = Some(Arc::clone(&registration));
        // An incarnation that is found dead closes the sockets that it knows. This one may have come too late for that.
        if guard.is_over() {
            return Err(Refused::Failed);
        }
        match logins.login(&registration).await {
            Ok(Admission::Yes) => Ok(registration),
            Ok(Admission::Taken) => Err(Refused::Taken),
            Ok(Admission::Full) => Err(Refused::Here(Reason::TooManyConnections.into())),
            Ok(Admission::Forbidden(forbidden)) => {
                let why = match &forbidden {
                    Forbidden::Blocked(_) => "the user is blocked",
                    Forbidden::TokenRevoked => "the token was revoked",
                };
                let (user, peer) = (user.id.as_str(), self.connection.peer());
                let peer = peer.map(|it| it.to_string());
                tracing::info!(user, peer, why, "login refused");
                Err(Refused::Forbidden(forbidden))
            }
            Err(error) => {
                tracing::debug!(%error, "login failed");
                Err(Refused::Failed)
            }
        }
    }

    /// Answers the request, and then lets the pushes begin.
    pub(super) fn welcome(
        &self,
        id: Option<u64>,
        answer: Cow<'static, str>,
        entry: Entry,
    ) -> JoinedChannel {
        let answer = match entry.recovered() {
            Some(recovered) => recovered.add_to(&answer).into(),
            None => answer,
        };
        replies::reply(&self.connection, id, Ok(answer));
        entry.begin()
    }
}

impl Entry {
    /// The position after which its pushes begin.
    pub(super) fn start(&self) -> &Position {
        &self.placed.begin.start
    }

    /// What the client is told about positions, if it has asked.
    pub(super) fn recovered(&self) -> Option<&Recovered> {
        self.placed.recovered.as_ref()
    }

    /// Lets the pushes begin. The client was told before that it is a member.
    pub(super) fn begin(self) -> JoinedChannel {
        let Self { joined, placed } = self;
        let Placed { begin, newest, .. } = placed;
        if let Some((publication, since)) = &newest {
            joined.member.give(publication, since);
        }
        if let Some(moved) = begin.lost {
            joined.member.tell(&begin.start, moved);
        }
        joined.member.begin(begin.start);
        joined
    }
}
