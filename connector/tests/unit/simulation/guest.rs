//! A client of the simulation: one connection that logs in, and joins and leaves channels.
//!
//! The client believes its answers: after a success it is a member, after a failed join it is not. At rest, the store
//! must agree.

use crate::limits::QueueLimits;
use crate::session::{Handlers, Services};
use crate::testing::client::{Told, frame_in, of_json};
use crate::transport::Connection;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout_at};
use wire::{Disconnect, Request, RequestBody, WireFormat};

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The request took effect.
    Done,
    /// The request was refused for good.
    Refused,
    /// The request failed, or its outcome is unknown. It may be repeated.
    Failed,
}

/// One connection to a connector.
pub(super) struct Guest {
    pub(super) connection: Arc<Connection>,
    client: Handlers,
    /// What the connector has written and nobody has read yet.
    wire: Arc<Mutex<Vec<u8>>>,
    requests: u64,
    /// The channels that it was taken out of, and does not know yet.
    removed: Vec<String>,
    /// The secret from the client's last login. It is shown at the next one.
    secret: Arc<Mutex<Option<String>>>,
}

impl Guest {
    pub(super) fn connect(services: &Arc<Services>, queues: &Arc<QueueLimits>) -> Self {
        let wire = Arc::<Mutex<Vec<u8>>>::default();
        let connection = Connection::new(Arc::clone(&wire), WireFormat::JSON, Arc::clone(queues));
        Self {
            client: Handlers::new(Arc::clone(services), Arc::clone(&connection)),
            connection,
            wire,
            requests: 0,
            removed: Vec::new(),
            secret: Arc::default(),
        }
    }

    /// The same connection, for a client that has this secret.
    pub(super) fn with(self, secret: Arc<Mutex<Option<String>>>) -> Self {
        Self { secret, ..self }
    }

    pub(super) async fn login(&mut self, user: &str, channel: &str) -> Answer {
        let mut body = json!({"userId": user, "lessonId": channel});
        if let Some(secret) = &*self.secret.lock() {
            body["resume"] = json!(secret);
        }
        self.ask("connector.handler.login", body).await
    }

    pub(super) async fn join(&mut self, channel: &str) -> Answer {
        let body = json!({"channel": channel});
        self.ask("chat.handler.join", body).await
    }

    pub(super) async fn leave(&mut self, channel: &str) -> Answer {
        let body = json!({"channel": channel});
        self.ask("chat.handler.leave", body).await
    }

    async fn ask(&mut self, route: &str, body: Value) -> Answer {
        self.requests += 1;
        let id = self.requests;
        let request = Request {
            id: Some(id),
            route: route.into(),
            body: RequestBody::Object(body.to_string().into()),
            key: None,
        };
        self.client.handle(request, Instant::now()).await;
        loop {
            // A closed connection answers nothing.
            if self.connection.closing().is_some() {
                return Answer::Failed;
            }
            if let Some(code) = self.reply(id) {
                return match code {
                    0 => Answer::Done,
                    500 => Answer::Failed,
                    _ => Answer::Refused,
                };
            }
            yield_now().await;
        }
    }

    /// Does what a client's loop does between requests, for this time at most. Returns the channels that the client was taken
    /// out of.
    pub(super) async fn idle(&mut self, time: Duration) -> Vec<String> {
        let until = Instant::now() + time;
        loop {
            while let Some(command) = self.client.next_command() {
                self.client.obey(command).await;
            }
            self.reply(0);
            if !self.removed.is_empty() {
                return mem::take(&mut self.removed);
            }
            let wanted = self.connection.closed_or(|| self.client.is_commanded());
            if let Ok(Some(_)) | Err(_) = timeout_at(until, wanted).await {
                sleep_until(until).await;
                return Vec::new();
            }
        }
    }

    /// The code in the answer to a request, once that has come.
    fn reply(&mut self, asked: u64) -> Option<u64> {
        let mut wire = self.wire.lock();
        let mut found = None;
        while let Some((opcode, start, end)) = frame_in(&wire) {
            match (opcode == 1).then(|| of_json(&wire[start..end])) {
                Some(Told::Reply { id, body }) if id == asked => {
                    found = body["code"].as_u64();
                    if let Some(secret) = body["resume"].as_str() {
                        *self.secret.lock() = Some(secret.to_owned());
                    }
                }
                Some(Told::Push { route, body }) if route == "onRemoved" => {
                    let channel = body["channel"].as_str();
                    self.removed.push(channel.expect("a channel").to_owned());
                }
                _ => {}
            }
            wire.drain(..end);
        }
        found
    }

    /// The client goes.
    pub(super) async fn close(self) {
        self.connection.close(Disconnect::CLOSED);
        self.client.close().await;
    }
}
