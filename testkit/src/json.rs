//! A client of the JSON protocol at `/ws`, with a record of what it has received.

use crate::SOON;
use crate::link::{End, Link, Owed, Record};
use crate::websocket::{Frame, TEXT, Terms};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

/// All that has been received on one connection.
#[derive(Debug, Default)]
pub struct Received {
    /// Answers: messages with an id, or with only a body.
    pub replies: Vec<Value>,
    /// Pushes: messages with a route or an offset.
    pub pushes: Vec<Value>,
    /// The text of every message.
    pub texts: Vec<String>,
    end: Option<End>,
}

impl Record for Received {
    fn message(&mut self, frame: &Frame) -> Result<Option<Owed>, String> {
        if frame.opcode != TEXT {
            return Err("a binary frame on the JSON protocol".into());
        }
        let text = String::from_utf8(frame.payload.to_vec()).map_err(|error| error.to_string())?;
        let message: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if message.get("route").is_some() || message.get("offset").is_some() {
            self.pushes.push(message);
        } else {
            self.replies.push(message);
        }
        self.texts.push(text);
        Ok(None)
    }

    fn end(&self) -> &Option<End> {
        &self.end
    }

    fn set_end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }
}

/// A client of the JSON protocol. [`Link`] has the helpers for its socket.
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
    /// Connects.
    ///
    /// # Panics
    /// If it can't connect.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_on(address, Terms::default()).await
    }

    /// Connects with these options.
    ///
    /// # Panics
    /// If it can't connect.
    pub async fn connect_on(address: SocketAddr, terms: Terms) -> Self {
        Self::dial(address, "/ws", terms).await
    }

    /// Connects at this path, which may have a query: `/ws?token=…`.
    ///
    /// # Panics
    /// If it can't connect.
    pub async fn connect_at(address: SocketAddr, path: &str) -> Self {
        Self::dial(address, path, Terms::default()).await
    }

    async fn dial(address: SocketAddr, path: &str, terms: Terms) -> Self {
        Self {
            link: Link::dial(address, path, terms).await,
            last_id: AtomicU64::new(0),
        }
    }

    /// Sends a text frame.
    pub async fn text(&self, text: &str) {
        self.frame(TEXT, text.as_bytes()).await;
    }

    /// Sends a request and waits for the body of the answer.
    ///
    /// # Panics
    /// If there is no answer in time.
    pub async fn request(&self, route: &str, body: Value) -> Value {
        self.ask(json!({ "route": route, "body": body })).await
    }

    /// Sends a whole request with a new id, and waits for the body of the answer.
    ///
    /// # Panics
    /// If there is no answer in time.
    pub async fn ask(&self, mut request: Value) -> Value {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        request["id"] = id.into();
        self.text(&request.to_string()).await;
        let reply = self.inbox().until(SOON, |received| {
            let reply = received.replies.iter().find(|reply| reply["id"] == id)?;
            Some(reply["body"].clone())
        });
        let reply = reply.await;
        reply.unwrap_or_else(|| {
            panic!(
                "not answered: {request}; the connection: {:?}",
                self.ended()
            )
        })
    }

    /// Waits until this many pushes have come, and returns all pushes.
    ///
    /// # Panics
    /// If they don't come in time.
    pub async fn until_pushes(&self, count: usize) -> Vec<Value> {
        let came = self.inbox().until(SOON, |received| {
            (received.pushes.len() >= count).then_some(())
        });
        let came = came.await;
        let pushes = self.inbox().read().pushes.clone();
        assert!(came.is_some(), "{count} pushes wanted, came: {pushes:?}");
        pushes
    }

    /// Waits for an answer without an id.
    ///
    /// # Panics
    /// If there is no answer in time.
    pub async fn until_reply_without_id(&self) -> Value {
        let reply = self.inbox().until(SOON, |received| {
            let reply = received
                .replies
                .iter()
                .find(|reply| reply.get("id").is_none())?;
            Some(reply.clone())
        });
        reply.await.expect("an answer without an id")
    }
}
