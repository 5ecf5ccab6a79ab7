//! The client of chat, with chats that do what the test says. Everything runs in one process, so that time can be
//! paused.

mod addresses;
mod calls;
mod faults;
mod lines;
mod probes;
mod tokens;

use super::resolver::start;
use super::{CALL, Chat, Outcome, Window};
use crate::testing::chat::Instance;
use crate::testing::soon;
use proto::connector::v1::SessionMessage;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

/// A client of these chats. None of them is up yet.
pub(crate) fn chat_of(instances: &[&Instance]) -> Arc<Chat> {
    let chat = Chat::nowhere(None);
    for (index, instance) in instances.iter().enumerate() {
        let name = index.to_string();
        let endpoint = start(name.clone(), &name, instance.service.clone(), &chat);
        chat.endpoints.write().push(endpoint);
    }
    chat
}

/// The deadline of a request that is received now.
pub(crate) fn in_time() -> Instant {
    Instant::now() + CALL
}

/// A session's window, and the answers that it gets.
struct Sender {
    chat: Arc<Chat>,
    window: Arc<Window>,
    answered: mpsc::UnboundedSender<(String, Outcome)>,
    answers: mpsc::UnboundedReceiver<(String, Outcome)>,
}

impl Sender {
    fn new(chat: &Arc<Chat>) -> Self {
        let (answered, answers) = mpsc::unbounded_channel();
        Self {
            chat: Arc::clone(chat),
            window: Arc::default(),
            answered,
            answers,
        }
    }

    fn send(&self, key: &str) {
        self.send_sized(key, 2);
    }

    fn send_sized(&self, key: &str, bytes: usize) {
        self.send_to("room", key, bytes);
    }

    fn send_to(&self, channel: &str, key: &str, bytes: usize) {
        self.send_to_by(channel, key, bytes, in_time());
    }

    /// Sends with another deadline than usual.
    fn send_by(&self, key: &str, deadline: Instant) {
        self.send_to_by("room", key, 2, deadline);
    }

    fn send_to_by(&self, channel: &str, key: &str, bytes: usize, deadline: Instant) {
        let request = SessionMessage {
            channel: channel.into(),
            idempotency_key: key.into(),
            body_json: vec![b' '; bytes].into(),
            ..SessionMessage::default()
        };
        self.send_request(request, deadline);
    }

    /// Sends an ephemeral message, which the test calls `key`.
    fn send_ephemeral(&self, key: &str) {
        let request = SessionMessage {
            channel: "room".into(),
            idempotency_key: key.into(),
            ephemeral: true,
            ..SessionMessage::default()
        };
        self.send_request(request, in_time());
    }

    fn send_request(&self, request: SessionMessage, deadline: Instant) {
        let key = request.idempotency_key.clone();
        let (answered, key) = (self.answered.clone(), key);
        self.chat
            .send(&self.window, request, deadline, move |outcome| {
                let _ = answered.send((key, outcome));
            });
    }

    fn send_all(&self, keys: &[&str]) {
        for key in keys {
            self.send(key);
        }
    }

    /// The next answer, as `key outcome`.
    async fn answer(&mut self) -> String {
        let (key, outcome) = soon(self.answers.recv()).await.unwrap();
        match outcome {
            Outcome::Sent(_) => format!("{key} sent"),
            Outcome::Refused(reason) => format!("{key} refused {reason}"),
            Outcome::Unknown => format!("{key} unknown"),
            Outcome::Unsent => format!("{key} unsent"),
        }
    }

    async fn answers(&mut self, count: usize) -> Vec<String> {
        let mut answers = Vec::new();
        while answers.len() < count {
            answers.push(self.answer().await);
        }
        answers
    }

    fn has_no_answer(&mut self) -> bool {
        self.answers.try_recv().is_err()
    }
}

/// Refuses the streams of a chat until `what` has come.
pub(crate) async fn while_refusing<T>(instance: &mut Instance, what: impl Future<Output = T>) -> T {
    let mut what = pin!(soon(what));
    loop {
        tokio::select! {
            biased;
            come = &mut what => return come,
            call = instance.stream_call() => {
                drop(call.answer(Err(Status::unavailable("the test says so"))));
            }
        }
    }
}
