//! Back ends that store a message only if nothing came in between: each position of a channel is won by one of them.

use proto::chat::v1::send_request::Content;
use proto::chat::v1::{HistoryRequest, Position, SendRequest};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testkit::chat_api::ChatApi;
use testkit::system::Plan;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const CHANNELS: usize = 100;
const SENDERS: usize = 20;
/// How many positions are won in each channel.
const ROUNDS: u64 = 10;
/// Channels in which senders race at the same moment. Chat refuses calls beyond a bound.
const AT_ONCE: usize = 8;

/// Whether the sender has the position that it tried for, or where the log ends instead.
enum Attempt {
    Won(Position),
    Lost(Position),
}

/// One back end that races with others in a channel. It uses both chats.
struct Sender {
    chats: [ChatApi; 2],
    channel: String,
    name: String,
    tries: u64,
}

impl Sender {
    /// Tries to store one message right after this end. Some first tries are given up before they are answered, so their
    /// outcome is unknown. Then the same message goes to the other chat.
    async fn attempt(&mut self, end: &Position) -> Attempt {
        self.tries += 1;
        let key = format!("{}-{}", self.name, self.tries);
        let body = format!(r#"{{"after":{}}}"#, end.offset);
        let request = SendRequest {
            channel: self.channel.clone(),
            user: self.name.clone(),
            content: Some(Content::BodyJson(body.into())),
            idempotency_key: key,
            expected_position: Some(end.clone()),
            ..SendRequest::default()
        };
        let gives_up = self.tries.is_multiple_of(4);
        let first = fastrand::usize(..2);
        if gives_up {
            let mut client = self.chats[first].client();
            let patience = Duration::from_micros(fastrand::u64(100..5_000));
            let _ = timeout(patience, client.send(request.clone())).await;
        }
        for chat in [1 - first, first].into_iter().cycle() {
            match self.chats[chat].client().send(request.clone()).await {
                Ok(sent) => {
                    let position = sent.into_inner().position.expect("a position");
                    assert_eq!(position.offset, end.offset + 1, "it is where it must be");
                    return Attempt::Won(position);
                }
                Err(status) if status.code() == Code::Aborted => {
                    return Attempt::Lost(end_in(&status));
                }
                // The caller has done something wrong.
                Err(status)
                    if matches!(
                        status.code(),
                        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition
                    ) =>
                {
                    panic!("{status:?}")
                }
                // Overloaded, not in time, or the connection is broken: a caller that gives up many calls is cut off. The
                // outcome is unknown, so it is tried again.
                Err(_) => {}
            }
        }
        unreachable!("it tries for ever")
    }

    /// Races until the channel is full. Returns the sender's name and the offsets that it won.
    async fn race(mut self) -> (String, Vec<u64>) {
        let mut won = Vec::new();
        let mut end = Position::default();
        while end.offset < ROUNDS {
            end = match self.attempt(&end).await {
                Attempt::Won(position) => {
                    won.push(position.offset);
                    position
                }
                Attempt::Lost(there) => {
                    assert!(there.offset > end.offset, "{there:?} is not after {end:?}");
                    there
                }
            };
        }
        (self.name, won)
    }
}

/// Where the log ends, as the refusal tells.
fn end_in(status: &Status) -> Position {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.reason, "POSITION_MISMATCH");
    Position {
        epoch: info.metadata["epoch"].clone(),
        offset: info.metadata["offset"].parse().expect("a number"),
    }
}

/// Lets senders race in one channel, and compares what each of them believes to have won with the log.
async fn race_in(channel: String, chats: [ChatApi; 2], reader: ChatApi) {
    let mut racing = JoinSet::new();
    for number in 0..SENDERS {
        let sender = Sender {
            chats: chats.clone(),
            channel: channel.clone(),
            name: format!("sender{number}"),
            tries: 0,
        };
        racing.spawn(sender.race());
    }
    let mut winners = BTreeMap::new();
    while let Some(raced) = racing.join_next().await {
        let (name, won) = raced.expect("it does not panic");
        for offset in won {
            let earlier = winners.insert(offset, name.clone());
            assert_eq!(earlier, None, "{offset} of {channel} is won twice");
        }
    }
    let request = HistoryRequest {
        channel: channel.clone(),
        page_size: 1_000,
        ..HistoryRequest::default()
    };
    let page = reader.client().history(request).await.expect("a page");
    let log = page.into_inner().publications.into_iter();
    let log: BTreeMap<_, _> = log
        .map(|it| (it.position.expect("a position").offset, it.user))
        .collect();
    assert_eq!(log.len() as u64, ROUNDS, "{log:?}");
    assert_eq!(log, winners, "what a sender believes is what the log says");
}

#[tokio::test]
async fn each_position_is_won_by_one_sender_and_a_retry_confuses_nobody() {
    let system = Plan::of(0, 2).start().await;
    let chats = [system.api(0), system.api(1)];
    // With a connection of its own, on which nobody gives up.
    let reader = system.api(0);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut channels = JoinSet::new();
    for number in 0..CHANNELS {
        let (places, chats, reader) = (Arc::clone(&places), chats.clone(), reader.clone());
        channels.spawn(async move {
            let _place = places.acquire_owned().await.expect("it stays open");
            race_in(format!("game {number}"), chats, reader).await;
        });
    }
    while let Some(raced) = channels.join_next().await {
        raced.expect("it does not panic");
    }
}
