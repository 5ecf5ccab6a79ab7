//! How a stream begins: with a login, and joins of all channels, through the same handlers as everywhere. Only if all of them are let in,
//! the answer begins. Otherwise the request is refused.

use super::refused::Refused;
use super::request::Asked;
use super::{ON_SESSION, post::Stream};
use crate::limits::QueueLimits;
use crate::session::{Secret, position};
use crate::transport::Connection;
use crate::transport::event_outlet::EventOutlet;
use crate::transport::inlet::Posted;
use channel_store::{ChannelName, Position};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;
use wire::sse::{self, EventId};
use wire::{Disconnect, Reason, WireFormat};

/// Milliseconds that a client waits before it comes back, and as many more at most, by chance.
const PAUSE: u32 = 1_000;

/// A connection whose stream has not begun. If it never does, the connection is closed.
pub(super) struct Opening {
    pub(super) connection: Arc<Connection>,
    outlet: Arc<EventOutlet>,
    posted: mpsc::Sender<Posted>,
    channels: Vec<ChannelName>,
    id: EventId,
    has_begun: bool,
}

/// What the first events of a stream tell about the session.
#[derive(Default)]
struct Told {
    channels: Vec<Value>,
    /// Channels in which it was, and may not be any more.
    removed: Vec<ChannelName>,
    ttl: Option<Value>,
}

impl Opening {
    /// Makes the connection. Returns it with the way in.
    pub(super) fn new(
        asked: &Asked,
        queues: &Arc<QueueLimits>,
    ) -> Result<(Self, mpsc::Receiver<Posted>), Refused> {
        let id = match asked.id.clone() {
            Some(id) => id,
            None => EventId {
                secret: Secret::random()
                    .map_err(|_| Reason::Unavailable)?
                    .to_string(),
                positions: Vec::new(),
                is_last: false,
            },
        };
        let pause = PAUSE + fastrand::u32(..PAUSE);
        let outlet = EventOutlet::new(&id, pause, queues);
        let connection = Connection::new(Arc::clone(&outlet), WireFormat::SSE, Arc::clone(queues));
        let (posted, posts) = mpsc::channel(1);
        let opening = Self {
            connection,
            outlet,
            posted,
            channels: asked.channels.clone(),
            id,
            has_begun: false,
        };
        Ok((opening, posts))
    }

    /// What posts need.
    pub(super) fn stream(&self) -> Arc<Stream> {
        Arc::new(Stream {
            outlet: Arc::clone(&self.outlet),
            posted: self.posted.clone(),
        })
    }

    /// The id that the client shows if it comes back now.
    pub(super) fn id(&self) -> String {
        self.outlet.stream(|stream| stream.id())
    }

    /// Logs in and joins. Then everything waits for the stream to begin, and its first event is the result.
    pub(super) async fn enter(
        &self,
        user: Option<&str>,
        (session, connector): (&str, &str),
    ) -> Result<Vec<u8>, Refused> {
        let entered = self.log_in(user).await;
        if let Err(Refused {
            retry_after: Some(_),
            ..
        }) = &entered
        {
            // If the login has succeeded, and a join has not, the client keeps its place until it is back.
            self.connection.close(Disconnect::Moved);
        }
        let Told {
            channels,
            removed,
            ttl,
        } = entered?;
        let user = self.connection.user();
        let mut body = json!({
            "session": session,
            "connector": connector,
            "userId": user,
            "channels": channels,
        });
        if let Some(ttl) = ttl {
            body["ttl"] = ttl;
        }
        let (pause, id) = self.outlet.stream(|stream| {
            for channel in &removed {
                stream.forget(channel);
            }
            (stream.pause(), stream.id())
        });
        let mut events = format!("retry: {pause}\nid: {id}\n").into_bytes();
        sse::lines(ON_SESSION, &body.to_string(), &mut events);
        events.push(b'\n');
        for channel in removed {
            let body = json!({ "channel": channel.as_str() });
            events.extend_from_slice(format!("id: {id}\n").as_bytes());
            sse::lines("onRemoved", &body.to_string(), &mut events);
            events.push(b'\n');
        }
        Ok(events)
    }

    async fn log_in(&self, user: Option<&str>) -> Result<Told, Refused> {
        let home = self.channels.first();
        // A token may make the session a member before it can be asked.
        let positions = self.id.positions.iter();
        let positions = positions.map(|(channel, at)| (channel.to_string(), json_of(at)));
        let mut body = Map::new();
        body.insert("resume".to_owned(), self.id.secret.as_str().into());
        body.insert("positions".to_owned(), Value::Object(positions.collect()));
        if let Some(user) = user {
            body.insert("userId".to_owned(), user.into());
        }
        if let Some(home) = home {
            body.insert("lessonId".to_owned(), home.as_str().into());
        }
        let mut told = Told::default();
        let reply = self.ask("connector.handler.login", body).await?;
        told.ttl = reply.get("ttl").cloned();
        if let Some(home) = home {
            self.has_joined(home, reply, &mut told);
        }
        for channel in self.channels.iter().skip(1) {
            if let Some(reply) = self.join(channel).await? {
                self.has_joined(channel, reply, &mut told);
            }
        }
        let named = |channel: &ChannelName| self.channels.contains(channel);
        for (channel, _) in self.id.positions.iter().filter(|(it, _)| !named(it)) {
            match self.join(channel).await {
                Ok(Some(reply)) => self.has_joined(channel, reply, &mut told),
                Ok(None) => {}
                // It had joined this channel while it was connected, and may not any more.
                Err(Refused {
                    retry_after: None, ..
                }) => told.removed.push(channel.clone()),
                Err(refused) => return Err(refused),
            }
        }
        Ok(told)
    }

    /// `None`: the session is in the channel already, because its token names it. Its stream will tell.
    async fn join(&self, channel: &ChannelName) -> Result<Option<Map<String, Value>>, Refused> {
        let mut body = Map::new();
        body.insert("channel".to_owned(), channel.as_str().into());
        let (name, value) = match self.shown(channel) {
            Some(position) => ("since", json_of(position)),
            None => ("positions", true.into()),
        };
        body.insert(name.to_owned(), value);
        match self.ask("chat.handler.join", body).await {
            Ok(reply) => Ok(Some(reply)),
            Err(refused) if refused.is_for(Reason::AlreadyJoined) => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    fn shown(&self, channel: &ChannelName) -> Option<&Position> {
        let mut positions = self.id.positions.iter();
        Some(&positions.find(|(it, _)| it == channel)?.1)
    }

    /// Notes what a reply says of a channel.
    fn has_joined(&self, channel: &ChannelName, mut reply: Map<String, Value>, told: &mut Told) {
        // One who comes back is where it was, until it is told otherwise.
        if self.shown(channel).is_none()
            && let Some(position) = reply.get("position").and_then(position)
        {
            self.outlet.stream(|stream| stream.set(channel, &position));
        }
        for other in ["code", "message", "resume", "ttl"] {
            reply.remove(other);
        }
        reply.insert("channel".to_owned(), channel.as_str().into());
        told.channels.push(reply.into());
    }

    /// The reply to a request.
    async fn ask(
        &self,
        route: &str,
        body: Map<String, Value>,
    ) -> Result<Map<String, Value>, Refused> {
        let mut waiting = self.outlet.ask();
        let message = json!({ "id": waiting.id, "route": route, "body": body });
        let packets = Posted::Packets(vec![message.to_string()]);
        let sent = self.posted.send(packets).await;
        // The connection is over, because the connector stops, or because the client would be too slow.
        sent.map_err(|_| Reason::Unavailable)?;
        let reply = waiting.reply().await.ok_or(Reason::Unavailable)?;
        Refused::unless_ok(&reply)
    }

    /// The stream begins.
    pub(super) fn has_begun(mut self) {
        self.has_begun = true;
    }
}

fn json_of(Position { epoch, offset }: &Position) -> Value {
    json!({ "epoch": epoch.as_str(), "offset": offset })
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.has_begun {
            self.connection.close_plainly();
        }
    }
}
