//! One socket joins as many channels as it may and publishes as much as it can, until the store is full and after that.

use super::{enter, message};
use crate::impact::load::{Attack, Target};
use crate::websocket::{TEXT, Terms};
use serde_json::json;
use std::io;

const CHANNELS: usize = 90;
/// Bytes of a message. If a message is refused, the next ones are half as long, but not shorter than `LEAST`. So the
/// store becomes as full as it can be.
const BYTES: usize = 100_000;
const LEAST: usize = 50;
/// At most this many messages are unanswered.
const WINDOW: u64 = 16;
/// Messages of one round.
const MESSAGES: u64 = 20_000;

/// Joins channels and publishes large messages. Counts `stored` and `refused`.
#[derive(Debug, Clone, Copy)]
pub struct Filling;

impl Attack for Filling {
    async fn run(self, target: Target) {
        if let Err(error) = fill(&target).await {
            target.tally.count("attackers cut off");
            drop(error);
        }
    }
}

async fn fill(target: &Target) -> io::Result<()> {
    let user = format!("writer-{}", target.round);
    let entered = enter(target.connector, Terms::default(), &user, &user).await;
    let (mut writer, mut reader) = entered.inspect_err(|_| target.tally.count("not let in"))?;
    let channel = |number: u64| format!("{user}-{}", number % CHANNELS as u64);
    for number in 0..CHANNELS as u64 {
        let body = json!({ "channel": channel(number) });
        let join = json!({ "id": number + 1, "route": "chat.handler.join", "body": body });
        writer.frame(TEXT, join.to_string().as_bytes()).await?;
    }
    let mut text = "x".repeat(BYTES);
    let mut resized = 0;
    let mut answered = 0;
    let (mut sent, joins) = (0, CHANNELS as u64);
    while answered < joins + MESSAGES {
        while sent < MESSAGES && joins + sent < answered + WINDOW {
            sent += 1;
            let body = json!({ "channel": channel(sent), "body": { "content": text } });
            let id = joins + sent;
            let publish = json!({ "id": id, "route": "chat.handler.publish", "body": body });
            writer.frame(TEXT, publish.to_string().as_bytes()).await?;
        }
        let message = message(&mut writer, &mut reader).await?;
        let Some(id) = message["id"].as_u64() else {
            continue;
        };
        answered += 1;
        if id > joins {
            let is_stored = message["body"]["code"] == 0;
            target
                .tally
                .count(if is_stored { "stored" } else { "refused" });
            // Messages that are still unanswered have the old size, so their refusals don't count.
            if !is_stored && id > resized {
                text.truncate((text.len() / 2).max(LEAST));
                resized = joins + sent;
            }
        }
    }
    Ok(())
}
