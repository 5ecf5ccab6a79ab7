//! Back ends add users who are connected to channels, and remove them.

use proto::chat::v1::add_outcome::Outcome;
use proto::chat::v1::user_service_client::UserServiceClient;
use proto::chat::v1::{
    AddToChannelRequest, AddToChannelResponse, BatchGetPresenceRequest, Position,
    RemoveFromChannelRequest, RemoveFromChannelResponse,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::polling::Poller;
use testkit::pomelo::{LOGIN, left};
use testkit::system::{Plan, System};
use testkit::{SOON, json as ws, socket_io, wait};
use tokio::task::JoinSet;
use tonic::transport::Channel;

const GARDEN: &str = "garden";

fn users(system: &System, chat: usize) -> UserServiceClient<Channel> {
    UserServiceClient::new(system.api(chat).channel())
}

async fn add(system: &System, channel: &str, user: &str) -> AddToChannelResponse {
    let request = AddToChannelRequest {
        channel: channel.to_owned(),
        user: user.to_owned(),
        session: String::new(),
    };
    let added = users(system, 0).add_to_channel(request).await;
    added.expect("an answer").into_inner()
}

async fn remove(system: &System, channel: &str, user: &str) -> RemoveFromChannelResponse {
    let request = RemoveFromChannelRequest {
        channel: channel.to_owned(),
        user: user.to_owned(),
        session: String::new(),
    };
    let last = system.chats.len() - 1;
    let removed = users(system, last).remove_from_channel(request).await;
    removed.expect("an answer").into_inner()
}

/// Repeats this until no session is refused, as a back end does on a busy machine.
async fn are_added(system: &System, channel: &str, user: &str) -> AddToChannelResponse {
    wait::some("all are added", SOON, async || {
        let added = add(system, channel, user).await;
        let are_members =
            (added.outcomes.iter()).all(|it| matches!(it.outcome, Some(Outcome::Position(_))));
        (are_members && added.unanswered_connectors.is_empty()).then_some(added)
    })
    .await
}

async fn are_removed(system: &System, channel: &str, user: &str) -> RemoveFromChannelResponse {
    wait::some("all are removed", SOON, async || {
        let removed = remove(system, channel, user).await;
        let are_out = removed.outcomes.iter().all(|it| it.refused.is_none());
        (are_out && removed.unanswered_connectors.is_empty()).then_some(removed)
    })
    .await
}

fn positions(added: &AddToChannelResponse) -> Vec<&Position> {
    let positions = added.outcomes.iter().map(|it| match &it.outcome {
        Some(Outcome::Position(at)) => at,
        refused => panic!("{refused:?}"),
    });
    positions.collect()
}

/// A client of the JSON protocol, logged in without a channel.
async fn guest(system: &System, connector: usize, user: &str) -> ws::Client {
    let client = ws::Client::connect(system.connectors[connector].address()).await;
    let answer = client.request(LOGIN, json!({ "userId": user })).await;
    assert_eq!(answer["code"], 0, "{answer}");
    client
}

/// The pushes under a route that a client was given.
fn told(client: &ws::Client, route: &str) -> Vec<Value> {
    let received = client.inbox().read();
    let pushes = received.pushes.iter();
    pushes.filter(|it| it["route"] == route).cloned().collect()
}

#[tokio::test]
async fn a_user_is_added_and_removed_on_every_connector_and_in_every_protocol() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let watcher = system.member(0, "watcher", GARDEN).await;
    let pomelo = system.member(1, "nancy", "4").await;
    let json = guest(&system, 0, "nancy").await;
    let mut polls = Poller::open(system.connectors[1].address(), 4)
        .await
        .expect("it polls");
    let login = json!({ "userId": "nancy", "lessonId": "4" });
    let login = socket_io::request(1, LOGIN, &login);
    polls.post(&[&login]).await.expect("posted");
    polls.until("登录成功").await;

    let added = are_added(&system, GARDEN, "nancy").await;
    assert_eq!(added.outcomes.len(), 3, "{added:?}");
    let sessions: BTreeSet<_> = added.outcomes.iter().map(|it| &it.session).collect();
    assert_eq!(sessions.len(), 3);
    watcher.until_push("onJoin {\"userId\":\"nancy\"}").await;
    system
        .until_members(GARDEN, &[("nancy", 3), ("watcher", 1)])
        .await;
    pomelo.until_push("onAdded {\"channel\":\"garden\"}").await;
    polls.until("onAdded").await;
    let told_first = |route: &str| told(&json, route).first().cloned();
    let mut position = wait::some("it is told", SOON, async || told_first("onAdded")).await;
    assert_eq!(position["body"]["channel"], GARDEN, "{position}");
    let position = position["body"]["position"].take();
    let is_same = |it: &&Position| position == json!({"epoch": it.epoch, "offset": it.offset});
    assert!(
        positions(&added).iter().any(is_same),
        "{position} {added:?}"
    );

    // They are members already. Nobody is told anything.
    let again = are_added(&system, GARDEN, "nancy").await;
    assert_eq!(again.outcomes.len(), 3);
    let api = system.api(0);
    api.send(GARDEN, "bot", r#"{"content":"hi"}"#, "")
        .await
        .expect("sent");
    polls.until("\"hi").await;
    pomelo
        .until_push("onMessage {\"content\":\"hi\",\"userId\":\"bot\"}")
        .await;
    wait::eventually("it is given the message", SOON, async || {
        !told(&json, "onMessage").is_empty()
    })
    .await;
    assert_eq!(told(&json, "onAdded").len(), 1);
    // What follows the position that it was told is what it got, without a gap.
    let pushes = json.inbox().read().pushes.clone();
    let offsets = pushes.iter().filter_map(|it| it["offset"].as_u64());
    let first = position["offset"].as_u64().expect("an offset") + 1;
    let offsets: Vec<_> = offsets.collect();
    assert!(
        offsets.iter().copied().eq((first..).take(offsets.len())),
        "{pushes:?}"
    );

    let removed = are_removed(&system, GARDEN, "nancy").await;
    assert_eq!(removed.outcomes.len(), 3, "{removed:?}");
    // The leaves have landed before the answer.
    let members = system.api(0).members(GARDEN).await.expect("members");
    assert_eq!(members, [("watcher".to_owned(), 1)]);
    watcher.until_push(&left("nancy")).await;
    pomelo
        .until_push("onRemoved {\"channel\":\"garden\"}")
        .await;
    polls.until("onRemoved").await;
    wait::eventually("it is told", SOON, async || {
        told(&json, "onRemoved").len() == 1
    })
    .await;
    let again = are_removed(&system, GARDEN, "nancy").await;
    assert!(again.outcomes.iter().all(|it| !it.was_member), "{again:?}");
    api.send(GARDEN, "bot", r#"{"content":"again"}"#, "")
        .await
        .expect("sent");
    watcher
        .until_push("onMessage {\"content\":\"again\",\"userId\":\"bot\"}")
        .await;
    // In the channel of its login it is a member as before.
    assert_eq!(pomelo.say("hello").await, testkit::pomelo::SENT);
    pomelo
        .until_push("onMessage {\"content\":\"hello\",\"userId\":\"nancy\"}")
        .await;
    assert!(pomelo.pushes().iter().all(|it| !it.contains("again")));
    assert_eq!(told(&json, "onMessage").len(), 1);
    assert_eq!(told(&json, "onRemoved").len(), 1);
}

/// Clients join and leave on their own, log in and drop, while back ends add and remove them.
#[tokio::test]
async fn beside_clients_that_join_leave_and_log_out_the_answers_stay_true() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..2 {
        let client = guest(&system, number, "nancy").await;
        let is_over = Arc::clone(&is_over);
        clients.spawn(async move {
            let mut done = 0;
            while !is_over.load(Ordering::Relaxed) {
                for route in ["chat.handler.join", "chat.handler.leave"] {
                    let answer = client.request(route, json!({"channel": GARDEN})).await;
                    let reason = answer["reason"].as_str().unwrap_or_default();
                    let expected = [
                        "",
                        "ALREADY_JOINED",
                        "NOT_JOINED",
                        "UNAVAILABLE",
                        "LEAVE_PENDING",
                        "TRY_LATER",
                        "RATE_LIMITED",
                    ];
                    assert!(expected.contains(&reason), "{answer}");
                    done += u64::from(reason.is_empty());
                }
            }
            assert!(done > 0, "it never joined on its own");
            client
        });
    }
    let mut comers = JoinSet::new();
    for number in 0..2 {
        let address = system.connectors[number].address();
        comers.spawn(async move {
            loop {
                let client = ws::Client::connect(address).await;
                client.request(LOGIN, json!({ "userId": "nancy" })).await;
                client.close().await;
            }
        });
    }
    for _ in 0..30 {
        let (added, removed) = tokio::join!(
            add(&system, GARDEN, "nancy"),
            remove(&system, GARDEN, "nancy")
        );
        assert!(added.outcomes.len() >= 2, "{added:?}");
        assert!(removed.outcomes.len() >= 2, "{removed:?}");
        assert_eq!(added.unanswered_connectors, Vec::<String>::new());
    }
    comers.shutdown().await;
    is_over.store(true, Ordering::Relaxed);
    let clients = clients.join_all().await;
    are_removed(&system, GARDEN, "nancy").await;
    let members = system.api(0).members(GARDEN).await.expect("members");
    assert_eq!(members, []);
    are_added(&system, GARDEN, "nancy").await;
    system.until_members(GARDEN, &[("nancy", 2)]).await;
    assert!(clients.iter().all(|it| it.ended().is_none()));
    for client in &clients {
        let answer = client
            .request("chat.handler.join", json!({"channel": GARDEN}))
            .await;
        assert_eq!(answer["reason"], "ALREADY_JOINED");
    }
}

#[tokio::test]
async fn a_frozen_connector_is_named_and_its_sessions_are_added_later() {
    let system = Plan::of(2, 1).login_policy("allow").start().await;
    let _guests = [
        guest(&system, 0, "nancy").await,
        guest(&system, 1, "nancy").await,
    ];
    system.connectors[1].freeze();
    let added = wait::some("the other one is added", SOON, async || {
        let added = add(&system, GARDEN, "nancy").await;
        let is_member = |it: &Option<Outcome>| matches!(it, Some(Outcome::Position(_)));
        let are_members = added.outcomes.iter().all(|it| is_member(&it.outcome));
        (are_members && added.outcomes.len() == 1).then_some(added)
    })
    .await;
    assert_eq!(added.outcomes[0].connector, "connector-1");
    assert_eq!(added.unanswered_connectors, ["connector-2"]);
    system.connectors[1].thaw();
    let added = are_added(&system, GARDEN, "nancy").await;
    assert_eq!(added.outcomes.len(), 2);
    system.until_members(GARDEN, &[("nancy", 2)]).await;
}

#[tokio::test]
async fn a_session_that_is_in_too_many_channels_is_refused_alone() {
    let system = Plan::of(1, 1).login_policy("allow").start().await;
    let full = guest(&system, 0, "nancy").await;
    for number in 0..100 {
        are_added(&system, &format!("room-{number}"), "nancy").await;
    }
    let _other = guest(&system, 0, "nancy").await;
    let added = wait::some("the other one is added", SOON, async || {
        let added = add(&system, "one more", "nancy").await;
        let is_member = |it: &Option<Outcome>| matches!(it, Some(Outcome::Position(_)));
        let is_one = added.outcomes.iter().any(|it| is_member(&it.outcome));
        (is_one && added.outcomes.len() == 2).then_some(added)
    })
    .await;
    let refused = added.outcomes.iter().find_map(|it| match &it.outcome {
        Some(Outcome::Refused(status)) => Some(status),
        _ => None,
    });
    let refused = refused.expect("one is refused");
    // FAILED_PRECONDITION.
    assert_eq!(refused.code, 9, "{refused:?}");
    assert!(refused.message.contains("as many channels"), "{refused:?}");
    assert_eq!(full.ended(), None);
    are_removed(&system, "room-7", "nancy").await;
    are_added(&system, "one more", "nancy").await;
}

#[tokio::test]
async fn a_user_whose_client_is_gone_is_removed_before_the_grace_is_over() {
    let plan = Plan::of(1, 1).connector_flags(&["--grace", "60s"]);
    let system = plan.login_policy("allow").start().await;
    let watcher = system.member(0, "watcher", GARDEN).await;
    let nancy = system.member(0, "nancy", GARDEN).await;
    nancy.close().await;
    wait::eventually("its client counts as gone", SOON, async || {
        let request = BatchGetPresenceRequest {
            users: vec!["nancy".to_owned()],
        };
        let found = users(&system, 0).batch_get_presence(request).await;
        found.is_ok_and(|it| it.get_ref().presences[0].sessions == 0)
    })
    .await;
    let removed = wait::some("it is removed", SOON, async || {
        let removed = are_removed(&system, GARDEN, "nancy").await;
        (!removed.outcomes.is_empty()).then_some(removed)
    })
    .await;
    assert!(removed.outcomes[0].was_member);
    let members = system.api(0).members(GARDEN).await.expect("members");
    assert_eq!(members, [("watcher".to_owned(), 1)]);
    watcher.until_push(&left("nancy")).await;
}
