//! A client of the JSON protocol at `/ws`: the twenty lines that a browser needs, and a record of what came.

use crate::SOON;
use crate::link::{End, Link, Owed, Record};
use crate::websocket::{Frame, TEXT, Terms};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

/// All that has come on one connection.
#[derive(Debug, Default)]
pub struct Received {
    /// Messages with an id, or with a body alone: answers.
    pub replies: Vec<Value>,
    /// Messages with a route or a position: unasked.
    pub pushes: Vec<Value>,
    /// Every message as it came.
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

/// A client that speaks JSON; the socket's own helpers are [`Link`]'s.
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
    /// When there is no connector.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_on(address, Terms::default()).await
    }

    /// Connects on these terms.
    ///
    /// # Panics
    /// When there is no connector.
    pub async fn connect_on(address: SocketAddr, terms: Terms) -> Self {
        Self {
            link: Link::dial(address, "/ws", terms).await,
            last_id: AtomicU64::new(0),
        }
    }

    /// Sends a text as it is.
    pub async fn text(&self, text: &str) {
        self.frame(TEXT, text.as_bytes()).await;
    }

    /// Asks and waits for the answer's body.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn request(&self, route: &str, body: Value) -> Value {
        self.ask(json!({ "route": route, "body": body })).await
    }

    /// Sends a request made by hand, under an id of its own, and waits for the answer's body.
    ///
    /// # Panics
    /// When there is none in time.
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

    /// Waits until so many pushes have come; all of them.
    ///
    /// # Panics
    /// When they don't come in time.
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
    /// When there is none in time.
    pub async fn until_nameless_reply(&self) -> Value {
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
