//! What a client may do: the handlers `connector.handler.login` and `chat.handler.send`, and the end of it all.
//!
//! A connection's commands take effect and are answered in order: sends follow each other down one flow, and any other
//! command waits until they are answered.

use crate::chat::{Answered, CALL, CallError, Chat, Flow, Outcome};
use crate::codec::{Request, RequestBody};
use crate::connection::Connection;
use crate::departures::{Departure, Departures};
use crate::disconnect::Disconnect;
use crate::hub::{Hub, Judgement, Member};
use crate::lease::{Lease, Membership};
use crate::login::{Login, LoginError};
use crate::random::unguessable;
use crate::recovery::{Recovered, Recovery};
use crate::registry::{Admission, Registration, Registry};
use bytes::Bytes;
use channel_store::{ChannelName, Epoch, IdempotencyKey, Place, Position, SessionId, User};
use proto::v1::send_request::Content;
use proto::v1::{JoinResponse, SendRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

const LOGGED_IN: &str = r#"{"code":0,"message":"登录成功"}"#;
const MISSING: &str = r#"{"code":1,"message":"缺少参数"}"#;
const INVALID: &str = r#"{"code":1,"message":"参数无效"}"#;
const TAKEN: &str = r#"{"code":1,"message":"用户已登录"}"#;
const SENT: &str = r#"{"message":"发送成功","code":0}"#;
const NOT_LOGGED_IN: &str = r#"{"code":1,"message":"用户未登录"}"#;
const FAILED: &str = r#"{"code":500}"#;

/// How long all may take that comes before the join, so that time is left for that.
const PREPARE: Duration = Duration::from_millis(1_000);

/// What all sessions of a connector share.
pub(crate) struct Services {
    /// Says whose sessions these are.
    pub lease: Arc<Lease>,
    /// Local fan-out.
    pub hub: Arc<Hub>,
    /// Where channels are written.
    pub chat: Arc<Chat>,
    /// Leaves that must land.
    pub departures: Departures,
    /// Who is logged in.
    pub registry: Arc<Registry>,
}

/// One connection's side of the handlers.
pub(crate) struct Client {
    services: Arc<Services>,
    connection: Arc<Connection>,
    session: Option<Session>,
}

/// Why nobody was let in.
enum Refused {
    Taken,
    Failed,
}

/// A session that has just joined.
struct Entry {
    session: Session,
    /// Where its pushes begin.
    begin: Judgement,
    /// What its reply tells of that.
    recovered: Option<Recovered>,
}

/// A connection bound to a user, in the channel of its login.
struct Session {
    membership: Arc<Membership>,
    /// None where nothing is registered.
    registration: Option<Arc<Registration>>,
    flow: Arc<Flow>,
    keys: u64,
    member: Member,
}

impl Client {
    /// Not logged in yet.
    #[must_use]
    pub(crate) fn new(services: Arc<Services>, connection: Arc<Connection>) -> Self {
        Self {
            services,
            connection,
            session: None,
        }
    }

    /// True from a successful login on.
    #[must_use]
    pub(crate) fn is_logged_in(&self) -> bool {
        self.session.is_some()
    }

    /// Carries out one command. Returns when the next one may begin.
    pub(crate) async fn handle(&mut self, request: Request) {
        // Who was cut off is not served any more; what clients sent before they went away themselves is (K3).
        if (self.connection.closing()).is_some_and(|reason| reason != Disconnect::Client) {
            return;
        }
        if &*request.route == "chat.handler.send" {
            return self.send(request).await;
        }
        if let Some(session) = &self.session {
            session.flow.settled().await;
        }
        let answer = match &*request.route {
            // Logins are rare, and their future is large: it lives only as long as it is needed.
            "connector.handler.login" => Box::pin(self.login(&request)).await,
            _ => Some(FAILED),
        };
        if let Some(answer) = answer {
            self.answer(request.id, answer);
        }
    }

    /// `None` if it was answered already, because the reply must come before the first push.
    async fn login(&mut self, request: &Request) -> Option<&'static str> {
        if matches!(request.body, RequestBody::Unusable) {
            return Some(FAILED);
        }
        let login = match Login::parse(&request.body) {
            Ok(login) => login,
            Err(LoginError::Missing) => return Some(MISSING),
            Err(LoginError::Invalid) => return Some(INVALID),
        };
        // Whatever the uid: one connection, one user (F5).
        if self.session.is_some() {
            return Some(TAKEN);
        }
        let Some(id) = new_session_id().filter(|_| self.services.departures.has_room()) else {
            return Some(FAILED);
        };
        let deadline = Instant::now() + CALL;
        let mut departure = Departure::default();
        let entered = self.enter(&login, &id, deadline, &mut departure).await;
        let entry = match entered {
            Ok(entry) => entry,
            Err(refused) => {
                self.end(departure);
                return Some(match refused {
                    Refused::Taken => TAKEN,
                    Refused::Failed => FAILED,
                });
            }
        };
        match &entry.recovered {
            Some(recovered) => self.answer(request.id, &recovered.add_to(LOGGED_IN)),
            None => self.answer(request.id, LOGGED_IN),
        }
        let Entry { session, begin, .. } = entry;
        if let Some(moved) = begin.lost {
            session.member.tell(&begin.start, moved);
        }
        session.member.begin(begin.start);
        self.session = Some(session);
        None
    }

    /// Follows the channel first, then joins: so the own onJoin is among what the hub delivers (K2). It is indexed first,
    /// too: so whatever becomes of this process, login and member are found. What was missed is judged last, when nothing
    /// can be missed any more. What has to be undone if this goes wrong is noted on the way.
    async fn enter(
        &self,
        login: &Login,
        id: &SessionId,
        deadline: Instant,
        departure: &mut Departure,
    ) -> Result<Entry, Refused> {
        let Login { user, channel, .. } = login;
        let mut format = self.connection.format();
        if login.recovery.is_wanted() {
            format = format.with_positions();
        }
        let member = self.services.hub.attach(channel, &self.connection, format);
        let registered = self.register(user, channel, id, departure);
        let prepared = async { tokio::join!(member.followed(), registered) };
        let Ok(((), membership)) = timeout(PREPARE, prepared).await else {
            if let Some(registration) = &departure.registration {
                registration.is_uncertain();
            }
            return Err(Refused::Failed);
        };
        let membership = membership?;
        let join = self.services.chat.join(membership.join());
        let joined = timeout_at(deadline, join).await;
        match joined.unwrap_or(Err(CallError::Unknown)) {
            Ok(Answered { answer, repeated }) => {
                membership.joined(repeated);
                departure.membership = Some(Arc::clone(&membership));
                let placed = place(&member, &login.recovery, &answer);
                let placed = timeout_at(deadline, placed).await.ok().flatten();
                let (begin, recovered) = placed.ok_or(Refused::Failed)?;
                let session = Session {
                    membership,
                    registration: departure.registration.take(),
                    flow: Arc::default(),
                    keys: 0,
                    member,
                };
                Ok(Entry {
                    session,
                    begin,
                    recovered,
                })
            }
            Err(error) => {
                tracing::debug!(%error, "join failed");
                match &error {
                    CallError::Unknown => {
                        membership.is_uncertain();
                        departure.membership = Some(membership);
                    }
                    CallError::Refused { reason } if reason == "CONNECTOR_DEAD" => {
                        membership.condemn();
                    }
                    CallError::Refused { .. } | CallError::Unreachable => {}
                }
                Err(Refused::Failed)
            }
        }
    }

    /// Indexes and registers a session.
    async fn register(
        &self,
        user: &User,
        channel: &ChannelName,
        id: &SessionId,
        departure: &mut Departure,
    ) -> Result<Arc<Membership>, Refused> {
        let Services {
            lease, registry, ..
        } = &*self.services;
        if !*registry.agreed().borrow() {
            return Err(Refused::Failed);
        }
        let mut places = vec![Place::Channel(channel.clone())];
        places.extend(registry.place(&user.id));
        let stay = lease.enter(places).await.ok_or(Refused::Failed)?;
        let stay = Arc::new(stay);
        departure.registration = registry.begin(&stay, &user.id, id, &self.connection);
        if let Some(registration) = &departure.registration {
            match registry.login(registration).await {
                Ok(Admission::Yes) => {}
                Ok(Admission::Taken) => return Err(Refused::Taken),
                Err(error) => {
                    tracing::debug!(%error, "login failed");
                    return Err(Refused::Failed);
                }
            }
        }
        let (channel, user) = (channel.clone(), user.clone());
        Ok(Membership::begin(stay, channel, user, id.clone()))
    }

    /// Undoes what may have taken effect.
    fn end(&self, mut departure: Departure) {
        departure.registration = (departure.registration).filter(|it| !it.is_nowhere());
        if departure.registration.is_some() || departure.membership.is_some() {
            self.services.departures.add(departure);
        }
    }

    async fn send(&mut self, request: Request) {
        let Some(session) = &mut self.session else {
            return self.answer(request.id, NOT_LOGGED_IN);
        };
        let body = match request.body {
            RequestBody::Object(body) => body,
            RequestBody::Empty => Bytes::from_static(b"{}"),
            RequestBody::Unusable => {
                session.flow.settled().await;
                return self.answer(request.id, FAILED);
            }
        };
        session.keys += 1;
        let key = match request.key {
            Some(key) if IdempotencyKey::new(&*key).is_ok() => key.into_string(),
            Some(_) => {
                session.flow.settled().await;
                return self.answer(request.id, FAILED);
            }
            None => format!("{}-{}", session.membership.session(), session.keys),
        };
        let membership = &session.membership;
        let send = SendRequest {
            channel: membership.channel().to_string(),
            user: membership.user().id.to_string(),
            user_is_number: membership.user().is_number,
            route: String::new(),
            content: Some(Content::BodyJson(body)),
            idempotency_key: key,
            session: membership.session().to_string(),
        };
        session.flow.room().await;
        let connection = Arc::clone(&self.connection);
        let membership = Arc::clone(membership);
        let id = request.id;
        self.services
            .chat
            .send(&session.flow, send, move |outcome| {
                let answer = match outcome {
                    Outcome::Sent(_) => SENT,
                    Outcome::Refused(reason) => {
                        tracing::debug!(reason, "send refused");
                        if reason == "NOT_MEMBER" {
                            membership.suspect();
                        }
                        FAILED
                    }
                    Outcome::Unknown => FAILED,
                };
                if let Some(id) = id {
                    connection.reply(id, answer.as_bytes());
                }
            });
    }

    fn answer(&self, id: Option<u64>, body: &str) {
        if let Some(id) = id {
            self.connection.reply(id, body.as_bytes());
        }
    }

    /// The connection is over: what it sent comes first, then its leave (K3, K4).
    pub(crate) async fn close(mut self) {
        if let Some(session) = self.session.take() {
            session.flow.settled().await;
            self.services.departures.add(Departure {
                membership: Some(session.membership),
                registration: session.registration,
            });
        }
    }
}

/// Where a member that has joined begins, and what it is told of that if it has asked. `None`: the log did not answer.
async fn place(
    member: &Member,
    recovery: &Recovery,
    joined: &JoinResponse,
) -> Option<(Judgement, Option<Recovered>)> {
    let joined_at = joined.position.as_ref()?;
    let end = Position {
        epoch: Epoch::new(&joined_at.epoch),
        offset: joined_at.offset,
    };
    if let Recovery::Since(since) = recovery {
        let judged = member.judge(since, &end).await;
        let judgement = judged
            .inspect_err(|error| tracing::debug!(%error, "position not judged"))
            .ok()?;
        let recovered = Recovered::judged(&judgement, &end);
        return Some((judgement, Some(recovered)));
    }
    // Right before its own onJoin, so that it gets it; without one, where the join found the log's end.
    let start = Position {
        offset: end.offset - u64::from(joined.published && end.offset > 0),
        ..end
    };
    let recovered = recovery.is_wanted().then(|| Recovered::fresh(&start));
    Some((Judgement { start, lost: None }, recovered))
}

/// 128 random bits: never used again, and not to be guessed.
fn new_session_id() -> Option<SessionId> {
    use base64::Engine;
    let random = unguessable::<16>().ok()?;
    SessionId::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random)).ok()
}

#[cfg(test)]
mod tests;
