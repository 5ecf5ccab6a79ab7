//! Back ends delete channels: everybody is out, wherever and however they are connected, and may come again at once.

use proto::chat::v1::{
    DeleteChannelRequest, DeleteChannelResponse, GetChannelRequest, Position, TrimHistoryRequest,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::checker::Kind;
use testkit::followers::{Followers, assert_consistent};
use testkit::json::Client;
use testkit::polling::Poller;
use testkit::pomelo::{LOGIN, SEND};
use testkit::system::{Plan, System};
use testkit::{SOON, socket_io, wait};
use tonic::{Code, Status};

const ROOM: &str = "room";
/// The pause between two messages of a speaker.
const PACE: Duration = Duration::from_millis(10);
const JOIN: &str = "chat.handler.join";

async fn delete(
    system: &System,
    chat: usize,
    channel: &str,
    key: &str,
) -> Result<DeleteChannelResponse, Status> {
    let request = DeleteChannelRequest {
        channel: channel.to_owned(),
        idempotency_key: key.to_owned(),
    };
    let deleted = system.api(chat).client().delete_channel(request).await;
    deleted.map(tonic::Response::into_inner)
}

/// The offset of the deletion.
async fn is_deleted(system: &System, chat: usize, channel: &str, key: &str) -> u64 {
    let position = wait::some("the channel is deleted", SOON, async || {
        match delete(system, chat, channel, key).await {
            Ok(deleted) => deleted.position,
            Err(status) if status.code() == Code::Unavailable => None,
            Err(status) => panic!("{status}"),
        }
    });
    position.await.offset
}

async fn member(system: &System, connector: usize, user: &str) -> Client {
    let client = Client::connect(system.connectors[connector].address()).await;
    let body = json!({ "userId": user, "lessonId": ROOM, "positions": true });
    assert_eq!(client.request(LOGIN, body).await["code"], 0);
    client
}

#[tokio::test]
async fn a_channel_is_deleted_under_members_of_every_protocol_and_kind() {
    let system = Plan::of(2, 2).start().await;
    let json = [
        member(&system, 0, "ann").await,
        member(&system, 1, "bob").await,
    ];
    let pomelo = system.member(1, "pomelo", ROOM).await;
    let polling = Poller::open(system.connectors[0].address(), 4).await;
    let mut polling = polling.expect("it polls");
    let login = json!({ "userId": "polling", "lessonId": ROOM });
    let login = socket_io::request(1, LOGIN, &login);
    polling.post(&[&login]).await.expect("posted");
    polling.until("登录成功").await;
    system.api(1).join(ROOM, "bot").await.expect("a member");
    system
        .until_members(
            ROOM,
            &[
                ("ann", 1),
                ("bob", 1),
                ("bot", 1),
                ("polling", 1),
                ("pomelo", 1),
            ],
        )
        .await;

    let offset = is_deleted(&system, 1, ROOM, "first").await;
    for client in &json {
        let pushes = client.inbox().until(SOON, |received| {
            let is_out = |it: &Value| it["route"] == "onRemoved";
            received
                .pushes
                .iter()
                .any(is_out)
                .then(|| received.pushes.clone())
        });
        let pushes = pushes.await.expect("it is told that it is out");
        let [.., deleted, removed] = &pushes[..] else {
            panic!("{pushes:?}");
        };
        assert_eq!(
            (&deleted["route"], &deleted["offset"], &deleted["body"]),
            (&json!("onDeleted"), &json!(offset), &json!({}))
        );
        assert_eq!(removed["route"], "onRemoved");
        assert_eq!(removed["body"], json!({ "channel": ROOM }));
    }
    pomelo.until_push(r#"onRemoved {"channel":"room"}"#).await;
    polling.until("onRemoved").await;
    assert_eq!(system.api(0).members(ROOM).await.expect("a list"), []);
    let request = GetChannelRequest {
        channel: ROOM.to_owned(),
    };
    let found = system.api(0).client().get_channel(request).await;
    assert_eq!(found.unwrap_err().code(), Code::NotFound);
    let again = delete(&system, 0, ROOM, "second").await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);

    // Nobody of them may send, and everybody may come again on the same connection.
    let refused = json[0].request(SEND, json!({ "content": "?" })).await;
    assert_ne!(refused["code"], 0, "{refused}");
    for (client, user) in json.iter().zip(["ann", "bob"]) {
        let joined = client.request(JOIN, json!({ "channel": ROOM })).await;
        assert_eq!(joined["code"], 0, "{user}: {joined}");
    }
    // A repeated call spares them.
    assert_eq!(is_deleted(&system, 0, ROOM, "first").await, offset);
    system.until_members(ROOM, &[("ann", 1), ("bob", 1)]).await;
    let log = system.api(0).history(ROOM).await.expect("a page");
    let log: Vec<_> = log.iter().map(|it| (&*it.route, &*it.user)).collect();
    assert_eq!(
        log,
        [("onDeleted", ""), ("onJoin", "ann"), ("onJoin", "bob")]
    );
}

/// Where the channel's log ends.
async fn end(system: &System) -> Option<Position> {
    let request = GetChannelRequest {
        channel: ROOM.to_owned(),
    };
    let found = system.api(0).client().get_channel(request).await.ok()?;
    found.into_inner().channel?.position
}

#[tokio::test]
async fn a_channel_is_deleted_and_trimmed_again_and_again_while_its_members_talk_and_come_back() {
    const ROUNDS: usize = 12;
    let mut system = Plan::of(2, 2).start().await;
    let addresses: Vec<_> = system.connectors.iter().map(|it| it.address()).collect();
    let mut followers = Followers::empty(ROOM, &addresses);
    for number in 0..4 {
        followers.add(&format!("speaker{number}"), Some(PACE), number % 2);
    }
    for number in 0..4 {
        followers.add(&format!("listener{number}"), None, number % 2);
    }
    followers.until_online().await;
    followers.start_sending();
    let mut deletions = BTreeSet::new();
    for round in 0..ROUNDS {
        followers.until_each_acknowledged(5).await;
        if round % 3 == 2 {
            let position = end(&system).await;
            let request = TrimHistoryRequest {
                channel: ROOM.to_owned(),
                position,
            };
            let trimmed = system.api(round % 2).client().trim_history(request).await;
            // The channel may have been begun anew meanwhile.
            assert!(trimmed.is_ok() || round > 0, "{trimmed:?}");
        } else {
            deletions.insert(is_deleted(&system, round % 2, ROOM, &round.to_string()).await);
        }
        if round == ROUNDS / 2 {
            system.connectors[0].kill();
            system.connectors[0].restart().await;
        }
    }
    assert!(deletions.len() >= ROUNDS / 2, "{deletions:?}");
    followers.until_online().await;
    let history = followers
        .stop_and_collect(&system.api(0), system.redis.address())
        .await;
    // What was acknowledged, and deleted before anybody was there to receive it, is gone for good.
    let gone = assert_consistent(&history, &[Kind::Forgotten]);
    println!("{} messages were deleted unseen", gone.len());
    let taken_out = followers.sum(|notes| notes.removed);
    assert!(taken_out > 0, "nobody was taken out of the channel");
}
