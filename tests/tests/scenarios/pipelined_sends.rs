//! Clients that send much without waiting for answers, while the store refuses for a moment, or while chat is away.

use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use tests::crowd::{ROOM, WHOLE_LOG};
use tests::json::Client;
use tests::pomelo::LOGIN;
use tests::redis::Redis;
use tests::system::Plan;
use tests::{SOON, wait};
use tokio::time::{Instant, sleep};

const SPEAKERS: usize = 4;
const MESSAGES: u64 = 150;
/// Large enough for a call to the store to take a few messages only.
const BYTES: usize = 16_000;

async fn joined(connector: std::net::SocketAddr, user: &str) -> Client {
    let client = Client::connect(connector).await;
    let login = json!({ "userId": user, "lessonId": ROOM });
    assert_eq!(client.request(LOGIN, login).await["code"], 0);
    client
}

/// The numbers of the messages that were answered with success.
async fn answered(client: &Client) -> HashSet<u64> {
    let all = client.inbox().until(6 * SOON, |received| {
        let sends = received.replies.iter().filter(|reply| {
            let id = reply["id"].as_u64();
            id.is_some_and(|id| id >= 1_000)
        });
        (sends.clone().count() as u64 == MESSAGES).then(|| {
            let done = sends.filter(|reply| reply["body"]["code"] == 0);
            done.filter_map(|reply| Some(reply["id"].as_u64()? - 1_000))
                .collect()
        })
    });
    all.await.expect("every message is answered")
}

/// Says everything at once; the numbers of the messages that were answered with success.
async fn speak(speaker: Client) -> HashSet<u64> {
    let padding = "x".repeat(BYTES);
    for number in 0..MESSAGES {
        let send = json!({
            "id": 1_000 + number,
            "route": "chat.handler.send",
            "key": format!("k{number}"),
            "body": { "n": number, "padding": padding },
        });
        speaker.text(&send.to_string()).await;
    }
    answered(&speaker).await
}

/// A cluster of one node whose slot of the room is nobody's for some moments: a batch is refused and the next one is taken.
#[tokio::test]
#[ignore = "not all sends are answered within a minute yet: ./tests/run --long"]
async fn while_a_slot_flips_each_speaker_keeps_its_order_in_the_channel() {
    let plan = Plan::of(1, 1).alone().chat_flags(&WHOLE_LOG);
    let _turn = plan.turn().await;
    let flags = ["--cluster-enabled", "yes"];
    let other_slots_stay = ["--cluster-require-full-coverage", "no"];
    let redis = Redis::with(&[flags, other_slots_stay].concat()).await;
    let all = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    redis.command(&all).await;
    wait::eventually("the cluster serves", SOON, async || {
        let state = redis.command(&["CLUSTER", "INFO"]).await.text();
        state.is_some_and(|state| state.contains("cluster_state:ok"))
    })
    .await;
    let slot = redis.command(&["CLUSTER", "KEYSLOT", ROOM]).await;
    let tests::resp::Value::Integer(slot) = slot else {
        panic!("no slot: {slot:?}");
    };
    let url = format!("redis-cluster://{}", redis.address());
    let services = plan.services(&url, &url).await;
    let connector = services.connectors[0].address();
    let listener = joined(connector, "listener").await;
    let mut speakers = Vec::new();
    for number in 0..SPEAKERS {
        speakers.push(joined(connector, &format!("speaker{number}")).await);
    }
    let flip = async {
        let slot = slot.to_string();
        loop {
            // Long enough for the way to chat to be open again, and for calls to be under way.
            sleep(Duration::from_millis(600)).await;
            redis.command(&["CLUSTER", "DELSLOTS", &slot]).await;
            sleep(Duration::from_millis(30)).await;
            redis.command(&["CLUSTER", "ADDSLOTS", &slot]).await;
        }
    };
    let speaking = async {
        let speaking: Vec<_> = speakers
            .into_iter()
            .map(|speaker| tokio::spawn(speak(speaker)))
            .collect();
        let mut acknowledged = Vec::new();
        for speaker in speaking {
            acknowledged.push(speaker.await.expect("it does not panic"));
        }
        acknowledged
    };
    let acknowledged = tokio::select! {
        acknowledged = speaking => acknowledged,
        () = flip => unreachable!("it goes on for ever"),
    };
    let sum: usize = acknowledged.iter().map(HashSet::len).sum();
    println!("{sum} of {} acknowledged", SPEAKERS as u64 * MESSAGES);
    assert!(sum > 0, "nothing was sent");
    let number_of = |push: &Value, user: &str| {
        (push["body"]["userId"] == user).then(|| push["body"]["n"].as_u64())?
    };
    let all = listener.inbox().until(3 * SOON, |received| {
        let came = |user: &str| -> Vec<u64> {
            let pushes = received.pushes.iter();
            pushes.filter_map(|push| number_of(push, user)).collect()
        };
        let came: Vec<_> = (0..SPEAKERS)
            .map(|speaker| came(&format!("speaker{speaker}")))
            .collect();
        let has_all = came
            .iter()
            .zip(&acknowledged)
            .all(|(came, told)| told.iter().all(|number| came.contains(number)));
        has_all.then_some(came)
    });
    let came = all.await.expect("whatever was acknowledged is delivered");
    for (speaker, (mut came, told)) in came.into_iter().zip(acknowledged).enumerate() {
        // What was answered as unknown may come anywhere.
        came.retain(|number| told.contains(number));
        assert!(came.is_sorted(), "speaker {speaker}: {came:?}");
        assert_eq!(came.len(), told.len(), "speaker {speaker}: once each");
    }
}

/// Thirty joins in one write, while there is no chat: each is answered within two seconds, and the client stays.
#[tokio::test]
async fn while_chat_is_away_pipelined_joins_are_all_answered_within_two_seconds() {
    let mut system = Plan::of(1, 1).start().await;
    let client = joined(system.connectors[0].address(), "ann").await;
    system.chats[0].kill();
    let began = Instant::now();
    for number in 0..30 {
        let body = json!({ "channel": format!("room {number}") });
        let join = json!({ "id": 1_000 + number, "route": "chat.handler.join", "body": body });
        client.text(&join.to_string()).await;
    }
    let answers = client.inbox().until(SOON, |received| {
        let joins = received.replies.iter().filter(|reply| {
            let id = reply["id"].as_u64();
            id.is_some_and(|id| id >= 1_000)
        });
        let joins: Vec<_> = joins.map(|reply| reply["body"].clone()).collect();
        (joins.len() == 30).then_some(joins)
    });
    let answers = answers.await.expect("every join is answered");
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2_300), "{took:?}");
    for answer in answers {
        assert_eq!(answer["code"], 500, "{answer}");
        assert_eq!(answer["retry"], true, "{answer}");
    }
    assert!(client.ended().is_none());
}
