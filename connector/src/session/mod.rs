//! What a client may do: the handlers of its requests, and the end of its session.
//!
//! `connector.handler.login` and `chat.handler.send` are those of the original. In addition, a session may be in
//! further channels, list their members, read their history, and send to any of them. The commands of one connection
//! take effect and are answered in order: all sends go through one in-flight window, and any other command waits until
//! they are answered. The operator's own handlers answer further routes, in the same order.

pub(crate) mod admission_queue;
mod commanded;
mod earlier_positions;
mod handler_call;
mod hook_calls;
mod hooked;
mod identity;
mod join;
mod paces;
mod parameters;
mod queries;
pub(crate) mod read_turns;
mod recovery;
mod replies;
mod request_step;
mod secret;
mod send;
mod start;

use crate::access::{self, AccessControl, Claims, Right, Rights};
use crate::chat_client::{CALL, Chat, Window};
use crate::hub::{Hub, Member};
use crate::limits::SessionRates;
use crate::membership::{
    Commands, EndedSession, LeaseKeeper, Logins, Membership, PendingLeaves, Registration, Rollback,
    Shown,
};
use crate::metering::{Asked, LoginStep, RequestUnderWay, Requests, count_refused_login};
use crate::random::unguessable;
use crate::routes::Routes;
use crate::transport::Connection;
use admission_queue::AdmissionQueues;
use channel_store::{ChannelName, Inboxes, Place, Position, SessionId, User};
use hooked::Kept;
use identity::Identity;
use join::Refused;
use paces::{GoesOn, Paces};
use parameters::Login;
use read_turns::{ReadTurns, Reader};
pub(crate) use recovery::position;
use replies::{Answer, DONE};
use request_step::request_step;
use runtime::log::{self, About};
pub(crate) use secret::Secret;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use wire::{Disconnect, Protocol, Reason, Refusal, Request, RequestBody};

/// The most channels that a session may be in at once.
const CHANNELS: usize = 100;

/// What all sessions of a connector share.
pub(crate) struct Services {
    /// The incarnations to which the sessions belong.
    pub lease: Arc<LeaseKeeper>,
    /// Delivers to the local members.
    pub hub: Arc<Hub>,
    /// The way to the chats, which write the channels.
    pub chat: Arc<Chat>,
    /// Leaves that have not landed yet.
    pub leaves: PendingLeaves,
    /// The logins of this connector's sessions.
    pub logins: Arc<Logins>,
    /// Does what chats ask for.
    pub commands: Commands,
    /// The queues in which logins and joins wait for their turn.
    pub admission: AdmissionQueues,
    /// The queue in which requests for pages wait for their turn.
    pub reads: Arc<ReadTurns>,
    /// The handlers of the operator.
    pub routes: Arc<Routes>,
    /// Who may log in, and what sessions may do.
    pub access: Arc<AccessControl>,
    /// Measures the requests of clients.
    pub requests: Arc<Requests>,
}

/// What the operator has set for all sessions.
pub(crate) struct Terms {
    /// The handlers of the operator.
    pub routes: Arc<Routes>,
    /// Who may log in, and what sessions may do.
    pub access: Arc<AccessControl>,
    /// How long a session whose client is gone stays a member.
    pub grace: Duration,
}

impl Services {
    /// Puts these parts together.
    pub(crate) fn new(
        lease: Arc<LeaseKeeper>,
        logins: Arc<Logins>,
        hub: Arc<Hub>,
        chat: Arc<Chat>,
        inboxes: Arc<dyn Inboxes>,
        terms: Terms,
    ) -> Arc<Self> {
        let Terms {
            routes,
            access,
            grace,
        } = terms;
        Arc::new(Self {
            access,
            commands: Commands::new(&logins, lease.roster(), inboxes),
            admission: AdmissionQueues::new(lease.shards()),
            reads: Arc::default(),
            requests: Requests::new(),
            routes,
            leaves: PendingLeaves::new(&chat, &logins, lease.shards(), grace),
            lease,
            logins,
            hub,
            chat,
        })
    }

    /// Renews the leases, closes the sockets of an incarnation that was declared dead, announces the login policy of this
    /// connector, and keeps the keys of issuers fresh, until the handles are dropped.
    pub(crate) fn keep(self: &Arc<Self>) -> [AbortOnDropHandle<()>; 3] {
        let this = Arc::clone(self);
        let leases = tokio::spawn(async move {
            let Self {
                lease,
                chat,
                logins,
                commands,
                ..
            } = &*this;
            match lease.keep(chat, logins, commands).await {}
        });
        let logins = Arc::clone(&self.logins);
        let policy = tokio::spawn(async move { match logins.keep_announcing_policy().await {} });
        let access = Arc::clone(&self.access);
        let access = tokio::spawn(async move { match access.keep().await {} });
        [leases, policy, access].map(AbortOnDropHandle::new)
    }
}

/// The handlers of one connection.
pub(crate) struct Handlers {
    services: Arc<Services>,
    connection: Arc<Connection>,
    session: Option<Session>,
    reader: Reader,
    /// Made with the first join, if nothing else is limited.
    paces: Option<Box<Paces>>,
}

/// A connection bound to a user.
struct Session {
    id: SessionId,
    user: User,
    /// The channel of the login. Commands that name no channel mean this one. `None`: the login named no channel.
    home: Option<ChannelName>,
    registration: Arc<Registration>,
    window: Arc<Window>,
    channels: Vec<JoinedChannel>,
    /// What the user's token says, what the hook has decided, and where the client was before it came back.
    identity: Option<Box<Identity>>,
}

/// A channel that a session is in.
struct JoinedChannel {
    membership: Arc<Membership>,
    member: Member,
    /// What the session may do here. It is judged when the session joins, and when its grants or the rules change, so that a
    /// message needs one comparison.
    rights: Rights,
    /// The number of the rules that were in force when the rights were judged.
    judged: u32,
    /// A back end has added the session. Then the rules do not decide whether it may be here.
    is_added: bool,
    /// Keeps what the hook decides about this channel up to date.
    kept: Option<Box<Kept>>,
}

impl JoinedChannel {
    /// True if the channel was deleted after the session had joined it.
    fn is_deleted(&self) -> bool {
        self.member.is_out() || self.membership.is_deleted()
    }
}

impl Session {
    /// The channel that is named, or else that of the login, if the session is in it.
    fn joined(&self, channel: Option<&ChannelName>) -> Option<&JoinedChannel> {
        let channel = channel.or(self.home.as_ref())?;
        let mut channels = self.channels.iter();
        channels.find(|joined| joined.membership.channel() == channel)
    }

    /// Where the client was in a channel that it is about to join, if it has said so at its login. This counts once.
    fn take_earlier(&mut self, channel: &ChannelName) -> Option<Position> {
        self.identity.as_mut()?.earlier.take(channel)
    }
}

impl Handlers {
    #[must_use]
    pub(crate) fn new(services: Arc<Services>, connection: Arc<Connection>) -> Self {
        Self {
            services,
            connection,
            session: None,
            reader: Reader::default(),
            paces: None,
        }
    }

    /// The session may do things this often.
    #[must_use]
    pub(crate) fn paced(mut self, rates: SessionRates) -> Self {
        self.paces = (rates != SessionRates::default()).then(|| Box::new(Paces::new(rates)));
        self
    }

    /// True from a successful login on.
    #[must_use]
    pub(crate) fn is_logged_in(&self) -> bool {
        self.session.is_some()
    }

    /// Carries out one command. Returns when the next one may begin.
    ///
    /// The command is answered within [`CALL`] of the moment at which it was received, however long it had to wait for
    /// its turn. A command whose time is over when its turn comes is refused without asking anybody.
    pub(crate) async fn handle(&mut self, request: Request, received: Instant) {
        let asked = Asked::of(&request.route);
        match request_step(asked, &self.connection) {
            None => self.carry_out(asked, request, received).await,
            Some(step) => traces::within(step, self.carry_out(asked, request, received)).await,
        }
    }

    async fn carry_out(&mut self, asked: Asked, request: Request, received: Instant) {
        let deadline = received + CALL;
        // A client that we cut off is not served any more. If the client closed the connection, what it sent before is
        // still carried out (K3).
        if (self.connection.closing()).is_some_and(|reason| reason != Disconnect::CLOSED) {
            return;
        }
        let mut measured = self.services.requests.begin(asked, received);
        if let Some(paces) = &mut self.paces
            && let Err((refusal, goes_on)) = paces.request(&request, received)
        {
            return Box::pin(self.slow_down(request.id, measured, refusal, goes_on)).await;
        }
        match asked {
            Asked::Send => return self.send(request, deadline, measured).await,
            Asked::Publish => return self.publish(request, deadline, measured).await,
            _ => {}
        }
        if let Some(session) = &self.session {
            session.window.settled().await;
        }
        // All commands but sends are rare, and their futures are large. Boxed, so that a connection holds one only
        // while it runs.
        let of = self.about(request.id);
        let answer = log::about(of, self.answer_to(asked, &request, deadline)).await;
        match &answer {
            Some(answer) => measured.answered(answer),
            None if matches!(asked, Asked::Login | Asked::Join) => measured.done(),
            // Nobody gets an answer of a handler any more.
            None => {}
        }
        if let Some(answer) = answer {
            // Counted here, where every way to refuse a login ends. One without an id is refused, too, without a reply.
            if let Err(refusal) = &answer
                && asked == Asked::Login
            {
                count_refused_login(refusal.reason());
            }
            replies::reply(&self.connection, request.id, answer);
        }
    }

    /// Counts bytes that the client has sent beside the bodies of its requests: the rest of their messages, and whole messages that
    /// are no requests, or whose bodies are not kept. If there are far too many, the client is closed.
    pub(crate) fn heard(&mut self, bytes: usize, now: Instant) {
        if let Some(paces) = &mut self.paces
            && bytes > 0
            && let Err(GoesOn) = paces.heard(bytes, now)
        {
            self.connection.close(Disconnect::TooFast);
        }
    }

    /// Refuses a request because there are too many. If the client goes on all the same, it is closed.
    async fn slow_down(
        &mut self,
        id: Option<u64>,
        measured: RequestUnderWay,
        refusal: Refusal,
        goes_on: Option<GoesOn>,
    ) {
        self.answered().await;
        replies::conclude(measured, &self.connection, id, Err(refusal));
        if let Some(GoesOn) = goes_on {
            self.connection.close(Disconnect::TooFast);
        }
    }

    /// `None`: the answer was sent already, because it must come before the first push, or nobody can get it any more.
    async fn answer_to(
        &mut self,
        asked: Asked,
        request: &Request,
        deadline: Instant,
    ) -> Option<Answer> {
        let body = &request.body;
        if matches!(body, RequestBody::Unusable) {
            return Some(Err(Reason::InvalidBody.into()));
        }
        match asked {
            Asked::Login => self.login(request, deadline).await,
            Asked::Refresh if self.wants_tokens() => Some(self.refresh(body, deadline).await),
            // Some clients, such as pages in browsers, do not see the protocol's heartbeats. They ask, and notice a
            // missing answer.
            Asked::Ping => Some(Ok(DONE.into())),
            Asked::Join => self.join(request, deadline).await,
            Asked::Leave => Some(self.leave(body, deadline).await),
            Asked::Members => Some(self.members(body, deadline).await),
            Asked::History => Some(self.history(body, deadline).await),
            Asked::Refresh | Asked::Send | Asked::Publish | Asked::Handler => {
                self.call_handler(request, deadline).await
            }
        }
    }

    /// What the log says of each line that a request leads to.
    fn about(&self, request: Option<u64>) -> About {
        let session = self.session.as_ref().map(|it| it.id.to_string());
        About { session, request }
    }

    /// Returns the same as [`answer_to`](Self::answer_to).
    async fn login(&mut self, request: &Request, deadline: Instant) -> Option<Answer> {
        let protocol = self.connection.format().protocol();
        let steps = Arc::clone(&self.services.requests);
        // Some steps are boxed, because they are large, and the future around a step keeps room for it twice.
        let identified = Box::pin(self.identify(&request.body, deadline));
        let (login, claims) = match steps.step(LoginStep::Identify, identified).await {
            Ok(login) => login,
            Err(refusal) => return Some(Err(refusal)),
        };
        // A connection has one user, so a second login is refused whatever its user is (F5).
        if self.session.is_some() {
            return Some(Err(Reason::AlreadyLoggedIn.into()));
        }
        let Login {
            user,
            channel,
            recovery,
            earlier,
            resume,
        } = login;
        let Some(id) = new_session_id() else {
            return Some(Err(Reason::Unavailable.into()));
        };
        let mut decisions = None;
        if let Some(channel) = &channel {
            let left = self.services.access.to_decide(channel, &user.id);
            let decided = if left.has(Right::Join) {
                // About all channels that the session is about to join, so that the hook is asked once.
                let named = claims.iter().flat_map(|it| &it.channels);
                let channels = std::iter::once(channel).chain(named);
                let who = (&user.id, &id);
                self.decide(&mut decisions, who, channels, deadline).await
            } else {
                Ok(())
            };
            let grants = claims.as_ref().map(|it| &it.grants);
            let allowed = decided
                .and_then(|()| self.may_join(channel, &user.id, grants, decisions.as_deref()));
            if let Err(refusal) = allowed {
                return Some(Err(refusal));
            }
        }
        let queue = {
            let place = Logins::place(&user.id);
            let channel = channel.clone().map(Place::Channel);
            let places = [&place, channel.as_ref().unwrap_or(&place)];
            self.services.admission.of(places)
        };
        let _turn = match steps.step(LoginStep::Admit, queue.turn(deadline)).await {
            Ok(turn) => turn,
            Err(refusal) => return Some(Err(refusal)),
        };
        if !self.services.leaves.has_room() {
            return Some(Err(Reason::Unavailable.into()));
        }
        // Clients of the original get the recorded answer, without a secret (K1). A client that asks for positions or
        // shows a secret is newer.
        let has_one = protocol == Protocol::Json || recovery.is_wanted() || resume.is_some();
        let secret = match resume {
            // A secret that matches no entry becomes the session's own, because the store may have lost the entry.
            Some(shown) => Some(shown),
            None if has_one => Secret::random().ok(),
            None => None,
        };
        let shown = Shown {
            proof: secret.as_ref().map(Secret::proof),
            token: claims.as_ref().map(Claims::token),
            info: claims.as_ref().and_then(|it| it.info.clone()),
        };
        let mut rollback = Rollback::new(&self.services.leaves);
        let EndedSession {
            memberships,
            registration,
            ..
        } = &mut rollback.ended;
        let registered = self.register(&user, channel.as_ref(), &id, shown, registration);
        let registered = steps.step(LoginStep::Register, registered);
        let entered = match &channel {
            Some(channel) => {
                let membership = async {
                    let registration = registered.await?;
                    Ok(Membership::begin(
                        self.services.lease.roster(),
                        Arc::clone(registration.guard()),
                        channel.clone(),
                        user.clone(),
                        id.clone(),
                        Some(registration),
                    ))
                };
                let entered = self.enter(channel, &recovery, membership, memberships, deadline);
                let entered = Box::pin(entered);
                steps.step(LoginStep::Enter, entered).await.map(Some)
            }
            None => match timeout_at(deadline, registered).await {
                Ok(registered) => registered.map(|_| None),
                Err(_) => Err(Refused::Failed),
            },
        };
        let entry = match entered {
            Ok(entry) => entry,
            Err(refused) => return Some(Err(refused.into())),
        };
        let Some(registration) = rollback.ended.registration.clone() else {
            return Some(Err(Reason::Unavailable.into()));
        };
        let claimed = self.services.logins.claim(&registration, deadline);
        steps.step(LoginStep::Claim, claimed).await;
        rollback.keep();
        self.connection.belongs_to(&user.id, &id);
        let answer = replies::logged_in(secret.as_ref(), claims.as_ref().and_then(access::ttl));
        let joined = match entry {
            Some(entry) => Some(self.welcome(request.id, answer, entry)),
            None => {
                replies::reply(&self.connection, request.id, Ok(answer));
                None
            }
        };
        registration.answered();
        let mut identity = claims.map(|claims| {
            let access = &self.services.access;
            Box::new(Identity::begin(access, claims, &self.connection))
        });
        if identity.as_ref().is_some_and(|it| it.is_to_join()) {
            self.connection.note_out();
        }
        if decisions.is_some() {
            identity.get_or_insert_default().decisions = decisions;
        }
        if !earlier.is_empty() {
            identity.get_or_insert_default().earlier = earlier;
        }
        let mut session = Session {
            id,
            user,
            home: channel,
            registration,
            window: Arc::default(),
            // Most sessions are in one channel.
            channels: Vec::with_capacity(1),
            identity,
        };
        if let Some(mut joined) = joined {
            joined.judge(&self.services.access, &session);
            session.channels.push(joined);
        }
        self.session = Some(session);
        self.keep_decisions();
        None
    }

    /// Returns when everything that was carried out is answered.
    pub(crate) async fn answered(&self) {
        if let Some(session) = &self.session {
            session.window.settled().await;
        }
    }

    /// Ends the session. What the client has sent is carried out before the leaves (K3, K4).
    pub(crate) async fn close(self) {
        if let Some(session) = &self.session {
            session.window.settled().await;
        }
    }
}

/// The session leaves however the connection ended, also if its task panicked or was aborted.
impl Drop for Handlers {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let channels = session.channels.into_iter();
            let closing = self.connection.closing();
            let registration = Arc::clone(&session.registration);
            let ended = EndedSession {
                memberships: channels.map(|joined| joined.membership).collect(),
                registration: Some(session.registration),
                succeeded: matches!(closing, Some(Disconnect::Replaced | Disconnect::Moved)),
            };
            match closing {
                // A back end does not want the client back.
                Some(
                    Disconnect::ByBackEnd { reconnect: false }
                    | Disconnect::Blocked
                    | Disconnect::TokenRevoked,
                ) => {
                    self.services.leaves.land(ended);
                }
                _ => self.services.leaves.add(ended),
            }
            // Last, because a back end that wants this session to leave a channel then looks for memberships that have ended.
            registration.session_is_over();
        }
    }
}

/// 128 random bits. Such an id is never used again, and nobody can guess it.
fn new_session_id() -> Option<SessionId> {
    use base64::Engine;
    let random = unguessable::<16>().ok()?;
    SessionId::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random)).ok()
}

#[cfg(test)]
pub(crate) mod tests;
