//! Clients send without waiting for answers, while the store refuses for a moment or chat is down.

use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::followers::{ROOM, WHOLE_LOG};
use testkit::json::Client;
use testkit::pomelo::LOGIN;
use testkit::redis::Redis;
use testkit::system::Plan;
use testkit::{SOON, pace, wait};
use tokio::time::{Instant, sleep};

const SPEAKERS: usize = 3;
/// The most messages that one speaker sends.
const MESSAGES: u64 = 1_000;
const FIRST_ID: u64 = 1_000;
/// How many bursts there are while they speak, and how often the slot is removed and added again in each.
const BURSTS: usize = 6;
const FLIPS: usize = 100;
/// So large that one call to the store takes only a few messages.
const BYTES: usize = 16_000;

async fn joined(connector: std::net::SocketAddr, user: &str) -> Client {
    let client = Client::connect(connector).await;
    let login = json!({ "userId": user, "lessonId": ROOM });
    assert_eq!(client.request(LOGIN, login).await["code"], 0);
    client
}

/// Sends messages without waiting for answers, until `enough`. Returns the numbers of those that were answered with
/// success.
async fn speak(speaker: Client, enough: Arc<AtomicBool>) -> HashSet<u64> {
    let padding = "x".repeat(BYTES);
    let mut said = 0;
    while said < MESSAGES && !enough.load(Ordering::Relaxed) {
        let send = json!({
            "id": FIRST_ID + said,
            "route": "chat.handler.send",
            "key": format!("k{said}"),
            "body": { "n": said, "padding": padding },
        });
        speaker.text(&send.to_string()).await;
        said += 1;
    }
    let all = speaker.inbox().until(3 * SOON, |received| {
        let sends = received.replies.iter().filter_map(|reply| {
            let number = reply["id"].as_u64()?.checked_sub(FIRST_ID)?;
            Some((number, reply["body"]["code"] == 0))
        });
        (sends.clone().count() as u64 == said).then(|| {
            let done = sends.filter(|(_, done)| *done);
            done.map(|(number, _)| number).collect()
        })
    });
    let all: Option<_> = all.await;
    all.unwrap_or_else(|| {
        panic!(
            "not every message is answered; the end: {:?}",
            speaker.ended()
        )
    })
}

/// In a cluster of one node, the slot of the room has no owner for some moments, so one batch is refused and the next
/// one is taken. A wrong order would show in one run of four or five; the simulation finds it for certain.
#[tokio::test]
async fn while_a_slot_comes_and_goes_each_sender_keeps_its_order_in_the_channel() {
    // Each speaker receives ten megabytes while it writes two. Here nobody is to be closed as a slow reader.
    let roomy = ["--queue", "64MiB"];
    let plan = Plan::of(1, 1)
        .alone()
        .chat_flags(&WHOLE_LOG)
        .connector_flags(&roomy);
    let _permit = plan.permit().await;
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
    let testkit::resp::Value::Integer(slot) = slot else {
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
    let enough = Arc::new(AtomicBool::new(false));
    let speaking: Vec<_> = speakers
        .into_iter()
        .map(|speaker| tokio::spawn(speak(speaker, Arc::clone(&enough))))
        .collect();
    let slot = slot.to_string();
    for _ in 0..BURSTS {
        // As fast as possible: of the calls that are under way, one is refused and the next one is taken.
        for _ in 0..FLIPS {
            redis.command(&["CLUSTER", "DELSLOTS", &slot]).await;
            redis.command(&["CLUSTER", "ADDSLOTS", &slot]).await;
        }
        // Long enough for the ordered stream to be open again, and for calls to be under way.
        sleep(Duration::from_millis(150)).await;
    }
    enough.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for speaker in speaking {
        acknowledged.push(speaker.await.expect("it does not panic"));
    }
    let sum: usize = acknowledged.iter().map(HashSet::len).sum();
    let refused = redis.info("errorstats", "errorstat_CLUSTERDOWN").await;
    println!("{sum} acknowledged; refused for the slot: {refused:?}");
    assert!(
        refused.is_some(),
        "nothing was sent while the slot had no owner"
    );
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
    let came = all.await.expect("every acknowledged message is delivered");
    for (speaker, (mut came, told)) in came.into_iter().zip(acknowledged).enumerate() {
        // A message whose outcome is unknown may come anywhere.
        came.retain(|number| told.contains(number));
        assert!(came.is_sorted(), "speaker {speaker}: {came:?}");
        assert_eq!(came.len(), told.len(), "speaker {speaker}: once each");
    }
}

/// Thirty joins without waiting for answers, while there is no chat. The client stays connected.
#[tokio::test]
async fn while_chat_is_down_pipelined_joins_are_all_answered_within_two_seconds() {
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
    let took = pace::since(began);
    assert!(took < Duration::from_millis(2_300), "{took:?}");
    for answer in answers {
        assert_eq!(answer["code"], 500, "{answer}");
        assert_eq!(answer["retry"], true, "{answer}");
    }
    assert!(client.ended().is_none());
}
