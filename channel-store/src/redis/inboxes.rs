//! Letters between processes in Redis: a topic for each name.

use super::call::call;
use super::keys::Keys;
use super::net::{Listener, Nodes, Subscriptions, number, unexpected_reply};
use super::scripts::SCRIPTS;
use crate::error::StoreError;
use crate::inbox::{Inbox, Inboxes, Letter, Slot};
use crate::name::Incarnation;
use crate::server::FeedConnection;
use async_trait::async_trait;
use std::sync::Arc;

pub(super) struct RedisInboxes {
    pub(super) nodes: Arc<Nodes>,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) keys: Keys,
}

/// Puts what comes on a topic into an inbox.
struct TopicListener(Slot);

impl Listener for TopicListener {
    fn message(&self, _: &FeedConnection, message: Vec<u8>) {
        if let Some(letter) = read(message) {
            self.0.put(letter);
        }
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Reads what `post.lua` has published: the time, a line feed, and the content.
fn read(mut message: Vec<u8>) -> Option<Letter> {
    let end = message.iter().take(21).position(|byte| *byte == b'\n')?;
    let sent = std::str::from_utf8(&message[..end]).ok()?.parse().ok()?;
    message.drain(..=end);
    Some(Letter {
        sent,
        content: message,
    })
}

#[async_trait]
impl Inboxes for RedisInboxes {
    async fn post(&self, to: &Incarnation, content: &[u8]) -> Result<bool, StoreError> {
        let keys = self.keys.of_incarnation(to);
        let mut command = call(&SCRIPTS.post, &[keys.inbox()]);
        command.arg(self.nodes.publish_command()).arg(content);
        let connection = self.nodes.connection(|| keys.inbox().to_string())?;
        let reply = connection.request_one(command).await?;
        Ok(number(&reply).ok_or_else(unexpected_reply)? > 0)
    }

    fn open(&self, name: &Incarnation) -> Inbox {
        let (slot, inbox) = Inbox::new();
        self.subscriptions.unsubscribe_closed();
        let topic = self.keys.of_incarnation(name).inbox().to_string();
        self.subscriptions
            .subscribe(topic, Arc::new(TopicListener(slot)));
        inbox
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_read_with_its_time_and_nothing_else_is_one() {
        let letter = read(b"1700\n\n1\n\xff".to_vec()).unwrap();
        assert_eq!(
            (letter.sent, &letter.content[..]),
            (1700, &b"\n1\n\xff"[..])
        );
        for wrong in ["", "\n", "17", "x\n", "-1\n", "99999999999999999999999\n"] {
            assert_eq!(read(wrong.into()), None, "{wrong:?}");
        }
    }
}
