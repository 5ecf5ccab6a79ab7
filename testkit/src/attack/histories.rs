//! Clients that read pages of history again and again, in a channel that has few but large messages.

use super::{enter, message, wait_to_begin};
use crate::chat_api::ChatApi;
use crate::impact::load::{Attack, Target};
use crate::websocket::{TEXT, Terms};
use serde_json::json;
use std::io;
use tokio::task::JoinSet;

/// The channel with large messages.
pub const HEAVY: &str = "heavy";
/// Messages in the channel.
const MESSAGES: usize = 40;
/// Bytes of each message.
const BYTES: usize = 100_000;

const SOCKETS: usize = 100;
/// Requests that each socket sends at once, before it reads an answer.
const PIPELINED: u64 = 10;

/// Fills the channel. It is called once.
///
/// # Panics
/// If chat refuses a message.
pub async fn fill(chat: &ChatApi) {
    let json = json!({ "content": "x".repeat(BYTES) }).to_string();
    for number in 0..MESSAGES {
        let key = number.to_string();
        let sent = chat.send(HEAVY, "author", &json, &key).await;
        sent.expect("the channel is filled");
    }
}

/// The request for a page, as JSON.
#[must_use]
pub fn page(id: u64) -> String {
    json!({ "id": id, "route": "chat.handler.history", "body": { "channel": HEAVY } }).to_string()
}

/// Sockets that ask for pages, read them, and ask again. Counts `pages`, `refused` and `not let in`.
#[derive(Debug, Clone, Copy)]
pub struct Histories;

impl Attack for Histories {
    async fn run(self, target: Target) {
        let mut sockets = JoinSet::new();
        for number in 0..SOCKETS {
            let target = target.clone();
            sockets.spawn(async move {
                if let Err(error) = ask(number, &target).await {
                    target.tally.count("attackers cut off");
                    drop(error);
                }
            });
        }
        sockets.join_all().await;
    }
}

async fn ask(number: usize, target: &Target) -> io::Result<()> {
    wait_to_begin(number).await;
    let user = format!("reader-{}-{number}", target.round);
    let entered = enter(target.connector, Terms::default(), &user, HEAVY).await;
    let (mut writer, mut reader) = entered.inspect_err(|_| target.tally.count("not let in"))?;
    loop {
        for id in 1..=PIPELINED {
            writer.frame(TEXT, page(id).as_bytes()).await?;
        }
        let mut answered = 0;
        while answered < PIPELINED {
            let message = message(&mut writer, &mut reader).await?;
            if message.get("id").is_some() {
                answered += 1;
                let is_page = message["body"]["code"] == 0;
                target
                    .tally
                    .count(if is_page { "pages" } else { "refused" });
            }
        }
    }
}
