//! A client of Pomelo's binary protocol. Its parser was written from the recordings: packages consist of a type, three
//! bytes of length and a body, and the body of a data package is a message of flag, id, route and body.

use crate::link::{End, Link, Owed, Record};
use crate::websocket::{BINARY, Frame, Terms};
use crate::{ANSWERED, SOON, pace};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Package type: a handshake, the first package in both directions.
pub const HANDSHAKE: u8 = 1;
/// Package type: the client has read the answer to its handshake.
pub const HANDSHAKE_ACK: u8 = 2;
/// Package type: a heartbeat.
pub const HEARTBEAT: u8 = 3;
/// Package type: a message.
pub const DATA: u8 = 4;
/// Package type: the server closes the connection.
pub const KICK: u8 = 5;

/// The answer to a successful login (K1).
pub const LOGGED_IN: &str = r#"{"code":0,"message":"登录成功"}"#;
/// The answer to a login in which a name is missing or falsy (K1).
pub const MISSING: &str = r#"{"code":1,"message":"缺少参数"}"#;
/// The answer to a login with a value that is not a valid name.
pub const INVALID: &str = r#"{"code":1,"message":"参数无效"}"#;
/// The answer to a login of a connection that is already logged in (K1).
pub const LOGGED_IN_ALREADY: &str = r#"{"code":1,"message":"用户已登录"}"#;
/// The answer to a send before the login (K1).
pub const NOT_LOGGED_IN: &str = r#"{"code":1,"message":"用户未登录"}"#;
/// The answer to a successful send (K1).
pub const SENT: &str = r#"{"message":"发送成功","code":0}"#;
/// The answer to a request that failed for a reason outside the client, or that is not a valid request.
pub const FAILED: &str = r#"{"code":500}"#;

/// The route of login.
pub const LOGIN: &str = "connector.handler.login";
/// The route of send.
pub const SEND: &str = "chat.handler.send";

/// The body of a client's handshake.
pub const HELLO: &str = r#"{"sys":{"type":"js-websocket","version":"0.0.1"},"user":{}}"#;

/// An answer to a request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// The whole package.
    pub package: Bytes,
    /// The JSON in the package.
    pub body: Bytes,
    /// How many packages came before it on this connection.
    pub place: usize,
    /// When it came.
    pub at: Instant,
}

impl Reply {
    /// The JSON as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A push of the server.
#[derive(Debug, Clone)]
pub struct Push {
    /// The whole package.
    pub package: Bytes,
    /// The route.
    pub route: Bytes,
    /// The JSON in the package.
    pub body: Bytes,
    /// How many packages came before it on this connection.
    pub place: usize,
}

impl Push {
    /// The route and the JSON as one line, which tests compare.
    #[must_use]
    pub fn text(&self) -> String {
        let (route, body) = (&self.route, &self.body);
        format!(
            "{} {}",
            String::from_utf8_lossy(route),
            String::from_utf8_lossy(body)
        )
    }
}

/// All that has been received on one connection.
#[derive(Debug, Default)]
pub struct Received {
    /// The replies, in order.
    pub replies: Vec<Reply>,
    /// The pushes, in order.
    pub pushes: Vec<Push>,
    /// The whole packages of all other types, in order.
    pub others: Vec<Bytes>,
    /// The index in `replies` of the reply to each request.
    by_id: HashMap<u64, usize>,
    end: Option<End>,
    /// The interval in the answer to the handshake.
    heartbeat: Option<Duration>,
    silent: bool,
}

impl Received {
    /// The reply to this request, if it has come.
    #[must_use]
    pub fn reply(&self, id: u64) -> Option<&Reply> {
        self.by_id.get(&id).map(|&index| &self.replies[index])
    }

    fn package(&mut self, whole: &Bytes) -> Result<Option<Owed>, String> {
        let (kind, body) = (whole[0], whole.slice(4..));
        let place = self.replies.len() + self.pushes.len() + self.others.len();
        if kind == DATA {
            match Message::parse(&body)? {
                Message::Response { id, body } => {
                    if self.by_id.insert(id, self.replies.len()).is_some() {
                        return Err(format!("request {id} was answered twice"));
                    }
                    self.replies.push(Reply {
                        id,
                        package: whole.clone(),
                        body,
                        place,
                        at: Instant::now(),
                    });
                }
                Message::Push { route, body } => self.pushes.push(Push {
                    package: whole.clone(),
                    route,
                    body,
                    place,
                }),
            }
            return Ok(None);
        }
        self.others.push(whole.clone());
        match kind {
            HANDSHAKE => {
                let answer: serde_json::Value =
                    serde_json::from_slice(&body).map_err(|error| error.to_string())?;
                self.heartbeat = answer["sys"]["heartbeat"].as_u64().map(Duration::from_secs);
                Ok(None)
            }
            HEARTBEAT if self.silent => Ok(None),
            HEARTBEAT => Ok(self.heartbeat.map(|after| Owed {
                after,
                opcode: BINARY,
                payload: package(HEARTBEAT, &[]),
            })),
            KICK => Ok(None),
            other => Err(format!("a package of type {other} from a server")),
        }
    }
}

impl Record for Received {
    fn message(&mut self, frame: &Frame) -> Result<Option<Owed>, String> {
        if frame.opcode != BINARY {
            return Err("a text frame from a server that got binary frames".into());
        }
        let mut owed = None;
        for whole in packages(&frame.payload)? {
            owed = self.package(&whole)?.or(owed);
        }
        Ok(owed)
    }

    fn end(&self) -> &Option<End> {
        &self.end
    }

    fn set_end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }
}

/// A client of Pomelo's protocol. [`Link`] has the helpers for its socket.
pub struct Client {
    link: Link<Received>,
    last_id: AtomicU64,
}

impl Deref for Client {
    type Target = Link<Received>;

    fn deref(&self) -> &Self::Target {
        &self.link
    }
}

impl Client {
    /// Connects, and sends nothing.
    ///
    /// # Panics
    /// If it can't connect.
    pub async fn dial(address: SocketAddr) -> Self {
        Self::dial_on(address, Terms::default()).await
    }

    /// Like [`Client::dial`], with these options.
    ///
    /// # Panics
    /// Like [`Client::dial`].
    pub async fn dial_on(address: SocketAddr, terms: Terms) -> Self {
        Self {
            link: Link::dial(address, "/", terms).await,
            last_id: AtomicU64::new(0),
        }
    }

    /// Like [`Client::dial`], on another path.
    ///
    /// # Panics
    /// Like [`Client::dial`].
    pub async fn dial_path(address: SocketAddr, path: &str) -> Self {
        Self {
            link: Link::dial(address, path, Terms::default()).await,
            last_id: AtomicU64::new(0),
        }
    }

    /// Connects and performs the handshake.
    ///
    /// # Panics
    /// If it can't connect, or the handshake is refused.
    pub async fn connect(address: SocketAddr) -> Self {
        let client = Self::dial(address).await;
        client.shake_hands().await;
        client
    }

    /// Like [`Client::connect`], with a small receive buffer, for clients that stop reading.
    ///
    /// # Panics
    /// Like [`Client::connect`].
    pub async fn connect_with_small_buffer(address: SocketAddr) -> Self {
        let terms = Terms {
            receive_buffer: Some(4096),
            ..Terms::default()
        };
        let client = Self::dial_on(address, terms).await;
        client.shake_hands().await;
        client
    }

    /// Connects and logs in. It returns when the client has received its own onJoin.
    ///
    /// # Panics
    /// If any of this fails.
    pub async fn join(address: SocketAddr, user: &str, channel: &str) -> Self {
        let client = Self::connect(address).await;
        client.enter(user, channel).await;
        client
    }

    /// Logs in. It returns when the client has received its own onJoin.
    ///
    /// # Panics
    /// If any of this fails.
    pub async fn enter(&self, user: &str, channel: &str) {
        assert_eq!(self.login(user, channel).await, LOGGED_IN);
        self.until_push(&format!("onJoin {{\"userId\":\"{user}\"}}"))
            .await;
    }

    /// Sends the handshake, waits for the answer and acknowledges it.
    ///
    /// # Panics
    /// If the handshake is refused.
    pub async fn shake_hands(&self) {
        self.package(HANDSHAKE, HELLO.as_bytes()).await;
        let answer = self.inbox().until(SOON, |received| {
            let first = received.others.first()?;
            Some((first[0], first.slice(4..)))
        });
        let (kind, body) = answer.await.expect("the handshake is answered");
        assert_eq!(kind, HANDSHAKE);
        assert!(
            body.starts_with(br#"{"code":200,"#),
            "the handshake is refused: {body:?}"
        );
        self.package(HANDSHAKE_ACK, &[]).await;
    }

    /// Sends one package in a frame of its own.
    pub async fn package(&self, kind: u8, body: &[u8]) {
        self.frame(BINARY, &package(kind, body)).await;
    }

    /// Sends a request without waiting for the answer, and returns its id.
    pub async fn start(&self, route: &str, body: &str) -> u64 {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        self.start_as(id, route, body).await;
        id
    }

    /// Sends a request with this id, and does not wait for the answer.
    pub async fn start_as(&self, id: u64, route: &str, body: &str) {
        self.package(DATA, &request(id, route, body.as_bytes()))
            .await;
    }

    /// Sends a notification, which gets no answer.
    pub async fn notify(&self, route: &str, body: &str) {
        self.package(DATA, &notification(route, body.as_bytes()))
            .await;
    }

    /// Waits for the answer to a request.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn reply(&self, id: u64) -> Reply {
        let reply = self
            .inbox()
            .until(SOON, |received| received.reply(id).cloned());
        let reply = reply.await;
        reply.unwrap_or_else(|| {
            panic!(
                "request {id} is not answered within {SOON:?}; the connection: {:?}",
                self.ended()
            )
        })
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn request(&self, route: &str, body: &str) -> String {
        let id = self.start(route, body).await;
        self.reply(id).await.text()
    }

    /// Sends a request, waits for the answer, and checks that it came within 2 s, as the connector promises.
    ///
    /// # Panics
    /// If it takes longer.
    pub async fn request_in_time(&self, route: &str, body: &str) -> String {
        let asked = Instant::now();
        let id = self.start(route, body).await;
        let reply = self.reply(id).await;
        let took = pace::between(asked, reply.at);
        assert!(took <= ANSWERED, "{route} was answered only after {took:?}");
        reply.text()
    }

    /// Logs in and returns the answer.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn login(&self, user: &str, channel: &str) -> String {
        self.request(LOGIN, &login_body(user, channel)).await
    }

    /// Sends `{"content":…}` and returns the answer.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn say(&self, content: &str) -> String {
        self.request(SEND, &said(content)).await
    }

    /// All pushes so far, as lines.
    #[must_use]
    pub fn pushes(&self) -> Vec<String> {
        self.inbox().read().pushes.iter().map(Push::text).collect()
    }

    /// How many pushes have come so far.
    #[must_use]
    pub fn push_count(&self) -> usize {
        self.inbox().read().pushes.len()
    }

    /// Waits until this many pushes have come, and returns all pushes.
    ///
    /// # Panics
    /// If they don't come in time.
    pub async fn until_pushes(&self, count: usize) -> Vec<String> {
        self.until_pushes_within(count, SOON).await
    }

    /// Like [`Client::until_pushes`], with another limit of time.
    ///
    /// # Panics
    /// If they don't come in time.
    pub async fn until_pushes_within(&self, count: usize, within: Duration) -> Vec<String> {
        let came = self.inbox().until(within, |received| {
            (received.pushes.len() >= count).then_some(())
        });
        let came = came.await;
        let pushes = self.pushes();
        assert!(
            came.is_some(),
            "{} of {count} pushes came within {within:?}; the connection: {:?}; the last ones: {:?}",
            pushes.len(),
            self.ended(),
            &pushes[pushes.len().saturating_sub(5)..]
        );
        pushes
    }

    /// Waits for this push.
    ///
    /// # Panics
    /// If it doesn't come in time.
    pub async fn until_push(&self, text: &str) {
        let mut seen = 0;
        let found = self.inbox().until(SOON, |received| {
            let new = &received.pushes[seen..];
            seen = received.pushes.len();
            new.iter().any(|push| push.text() == text).then_some(())
        });
        let found = found.await;
        let pushes = self.pushes();
        assert!(
            found.is_some(),
            "no push {text} within {SOON:?}; the connection: {:?}; the last ones: {:?}",
            self.ended(),
            &pushes[pushes.len().saturating_sub(5)..]
        );
    }

    /// From now on it answers no heartbeat.
    pub fn stop_heartbeats(&self) {
        self.inbox().write(|received| received.silent = true);
    }

    /// The reason in the KICK package, if there was one.
    #[must_use]
    pub fn kicked(&self) -> Option<String> {
        let received = self.inbox().read();
        let kick = received.others.iter().find(|package| package[0] == KICK)?;
        let body: serde_json::Value = serde_json::from_slice(&kick[4..]).ok()?;
        Some(body["reason"].as_str()?.to_owned())
    }

    /// Resets the TCP connection.
    pub async fn reset(self) {
        self.link.reset().await;
    }
}

/// The body of a login.
#[must_use]
pub fn login_body(user: &str, channel: &str) -> String {
    serde_json::json!({ "userId": user, "lessonId": channel }).to_string()
}

/// The body of a send.
#[must_use]
pub fn said(content: &str) -> String {
    serde_json::json!({ "content": content }).to_string()
}

/// The push that members receive when [`Client::say`] sends this, in the form of [`Push::text`].
#[must_use]
pub fn heard(user: &str, content: &str) -> String {
    format!(r#"onMessage {{"content":"{content}","userId":"{user}"}}"#)
}

/// The push when a user's first session joins, in the form of [`Push::text`].
#[must_use]
pub fn joined(user: &str) -> String {
    format!(r#"onJoin {{"userId":"{user}"}}"#)
}

/// The push when a user's last session leaves, in the form of [`Push::text`].
#[must_use]
pub fn left(user: &str) -> String {
    format!(r#"onLeave {{"userId":"{user}"}}"#)
}

/// Packs a body into a package.
///
/// # Panics
/// If it is too long.
#[must_use]
pub fn package(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a package of 32 bits");
    let [0, length @ ..] = length.to_be_bytes() else {
        panic!("a package has three bytes of length");
    };
    let mut package = vec![kind];
    package.extend(length);
    package.extend(body);
    package
}

/// Packs a request into a message.
#[must_use]
pub fn request(id: u64, route: &str, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    let mut rest = id;
    while rest >= 0x80 {
        message.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    message.push(u8::try_from(rest).expect("seven bits"));
    with_route(message, route, body)
}

/// Packs a notification into a message.
#[must_use]
pub fn notification(route: &str, body: &[u8]) -> Vec<u8> {
    with_route(vec![1 << 1], route, body)
}

fn with_route(mut message: Vec<u8>, route: &str, body: &[u8]) -> Vec<u8> {
    message.push(u8::try_from(route.len()).expect("a route of at most 255 bytes"));
    message.extend(route.as_bytes());
    message.extend(body);
    message
}

/// Splits a frame into its packages, with their headers.
///
/// # Errors
/// If the frame does not consist of whole packages.
pub fn packages(frame: &Bytes) -> Result<Vec<Bytes>, String> {
    let mut packages = Vec::new();
    let mut rest = frame.clone();
    while !rest.is_empty() {
        let [_, a, b, c, ..] = rest[..] else {
            return Err(format!("only {} bytes where a package begins", rest.len()));
        };
        let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        if rest.len() < whole {
            return Err(format!(
                "a package of {whole} bytes, but only {} bytes are left",
                rest.len()
            ));
        }
        packages.push(rest.split_to(whole));
    }
    if packages.is_empty() {
        return Err("an empty frame".into());
    }
    Ok(packages)
}

/// A message as a server sends it.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The answer to a request.
    Response {
        /// The request's id.
        id: u64,
        /// JSON.
        body: Bytes,
    },
    /// A push.
    Push {
        /// The route.
        route: Bytes,
        /// JSON.
        body: Bytes,
    },
}

impl Message {
    /// Parses a message.
    ///
    /// # Errors
    /// If a server must not send it to a client that uses no dictionary.
    pub fn parse(message: &Bytes) -> Result<Self, String> {
        let mut rest = message.clone();
        let mut byte = |what: &str| {
            if rest.is_empty() {
                return Err(format!("a message that ends before its {what}"));
            }
            Ok(rest.split_to(1)[0])
        };
        match byte("flag")? {
            0x04 => {
                let mut id = 0;
                for shift in (0..).step_by(7).take(5) {
                    let next = byte("id")?;
                    id |= u64::from(next & 0x7f) << shift;
                    if next & 0x80 == 0 {
                        return Ok(Self::Response { id, body: rest });
                    }
                }
                Err("an id of more than five bytes".into())
            }
            0x06 => {
                let length = usize::from(byte("route's length")?);
                if rest.len() < length {
                    return Err("a route that ends too early".into());
                }
                let route = rest.split_to(length);
                Ok(Self::Push { route, body: rest })
            }
            flag => Err(format!("a message with flag {flag:#04x} from a server")),
        }
    }
}
