//! A browser that loses its stream comes back by itself, with the id of the last event that it has got.

use super::{ROOM, SIDE, address, numbers, say, until_contents};
use serde_json::json;
use std::time::Duration;
use testkit::json as ws;
use testkit::pace;
use testkit::permit::Permit;
use testkit::relay::Relay;
use testkit::service::Standalone;
use testkit::sse::{Ask, Stream, contents, post, query};
use testkit::system::{Plan, System};
use testkit::{SOON, wait};
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(4);

async fn system(policy: &'static str) -> System {
    let lease = ["--lease", "4s"];
    let plan = Plan::of(2, 2).connector_flags(&lease).chat_flags(&lease);
    plan.login_policy(policy).start().await
}

/// Comes back as a browser does.
async fn back(at: std::net::SocketAddr, user: &str, channels: &[&str], id: &str) -> Stream {
    let stream = Stream::open(at, Ask::of(query(user, channels)).as_browser(id)).await;
    stream.until("onSession").await;
    stream
}

/// Joins and leaves of the reader that somebody else has seen.
fn seen(watcher: &testkit::pomelo::Client) -> Vec<String> {
    let received = watcher.inbox().read();
    let pushes = received.pushes.iter();
    let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
    let of_reader = pushes.filter(|it| text(&it.body).contains("reader"));
    of_reader.map(|it| text(&it.route)).collect()
}

/// Nobody sees it leave or join, whatever the policy is, also if its connector was killed.
#[tokio::test]
async fn a_browser_comes_back_on_another_connector_under_every_policy_and_misses_nothing() {
    for policy in ["reject", "kick-old", "allow"] {
        let mut system = system(policy).await;
        let watcher = system.member(1, "watcher", ROOM).await;
        let stream = Stream::of(address(&system, 0), "reader", &[ROOM, SIDE]).await;
        wait::eventually("the join is seen", SOON, async || {
            seen(&watcher) == ["onJoin"]
        })
        .await;
        say(&watcher, 0..3).await;
        until_contents(&stream, &numbers(0..3)).await;

        system.connectors[0].kill();
        stream.end(SOON).await;
        say(&watcher, 3..6).await;
        let stranger = Ask::of(query("reader", &[ROOM]));
        if policy == "reject" {
            let stranger = Stream::open(address(&system, 1), stranger).await;
            assert_eq!(stranger.status(), 409, "without the secret");
        }
        let begun = Instant::now();
        let other = back(
            address(&system, 1),
            "reader",
            &[ROOM, SIDE],
            &stream.last_id(),
        )
        .await;
        assert!(
            pace::since(begun) < LEASE / 2,
            "it need not wait for the lease"
        );
        let told = &other.events()[0].data["body"]["channels"];
        assert_eq!(told[0]["recovered"], true, "{told}");
        assert_eq!(told[0]["replayed"], 3, "{told}");
        until_contents(&other, &numbers(3..6)).await;
        say(&watcher, 6..8).await;
        until_contents(&other, &numbers(3..8)).await;
        for channel in [ROOM, SIDE] {
            let members = system.api(0).members(channel).await.expect("members");
            let reader = members.iter().find(|(user, _)| user == "reader");
            assert_eq!(reader.map(|it| it.1), Some(1), "{policy} {channel}");
        }
        wait::stays("nobody sees it", LEASE * 2, async || {
            seen(&watcher) == ["onJoin"]
        })
        .await;
    }
}

/// What a cut leaves in the air comes again, and what has come does not.
#[tokio::test]
async fn a_relay_that_cuts_again_and_again_costs_no_message_and_doubles_none() {
    const MESSAGES: usize = 400;
    let system = system("reject").await;
    let relays = [
        Relay::to(address(&system, 0)).await,
        Relay::to(address(&system, 1)).await,
    ];
    let speaker = system.member(1, "speaker", ROOM).await;
    // It is there before the first message.
    let first = Stream::of(relays[0].address(), "reader", &[ROOM, SIDE]).await;
    let mut id = first.until("onJoin").await.id;
    drop(first);
    let reading = async {
        let (mut events, mut round) = (Vec::new(), 0);
        while contents(&events).len() < MESSAGES {
            let stream = back(relays[round % 2].address(), "reader", &[ROOM, SIDE], &id).await;
            let before = contents(&events).len();
            let enough = (before + 7 + round % 13).min(MESSAGES) - before;
            let came = stream.inbox().until(SOON, |it| {
                (contents(&it.events).len() >= enough || it.is_over).then_some(())
            });
            assert!(came.await.is_some(), "round {round}: nothing comes");
            relays[round % 2].cut();
            stream.end(SOON).await;
            events.extend(stream.events());
            id = stream.last_id();
            round += 1;
        }
        (events, round)
    };
    let ((), (events, rounds)) = tokio::join!(say(&speaker, 0..MESSAGES), reading);
    assert_eq!(contents(&events), numbers(0..MESSAGES));
    let lost = events.iter().filter(|it| it.name == "onPosition");
    assert_eq!(lost.count(), 0);
    assert!(rounds > 10, "only {rounds} rounds");
}

/// Each event alone is enough to go on from: its id has all channels.
#[tokio::test]
async fn the_id_of_every_single_event_resumes_all_channels() {
    let system = System::start().await;
    let speakers = [
        system.member(0, "one", ROOM).await,
        system.member(1, "two", SIDE).await,
    ];
    let stream = Stream::of(address(&system, 0), "reader", &[ROOM, SIDE]).await;
    for number in 0..6 {
        say(&speakers[number % 2], number..number + 1).await;
        until_contents(&stream, &numbers(0..number + 1)).await;
    }
    let events = stream.events();
    drop(stream);
    for (place, event) in events.iter().enumerate() {
        let rest = contents(&events[place + 1..]);
        let other = back(address(&system, 1), "reader", &[ROOM, SIDE], &event.id).await;
        wait::eventually("the rest comes", SOON, async || {
            other.contents().len() >= rest.len()
        })
        .await;
        let mut came = other.contents();
        came.sort_unstable();
        assert_eq!(came, rest, "after {event:?}");
    }
}

/// The URL of a browser stays the same, so the channels that it has joined later are in the id.
#[tokio::test]
async fn channels_that_were_joined_and_left_by_posts_are_in_the_id() {
    let system = System::start().await;
    let speaker = system.member(1, "speaker", SIDE).await;
    let stream = Stream::of(address(&system, 0), "reader", &[ROOM]).await;
    let session = stream.session();
    let join = |channel: &str| json!({"route": "chat.handler.join", "body": {"channel": channel}});
    for channel in [SIDE, "left"] {
        let (status, reply) = post(address(&system, 0), &session, &join(channel)).await;
        assert_eq!(
            (status, &reply["body"]["code"]),
            (200, &json!(0)),
            "{reply}"
        );
    }
    let leave = json!({"route": "chat.handler.leave", "body": {"channel": "left"}});
    post(address(&system, 0), &session, &leave).await;
    say(&speaker, 0..1).await;
    until_contents(&stream, &numbers(0..1)).await;
    let id = stream.last_id();
    drop(stream);
    say(&speaker, 1..2).await;
    let stream = back(address(&system, 1), "reader", &[ROOM], &id).await;
    until_contents(&stream, &numbers(1..2)).await;
    let told = stream.events()[0].data["body"]["channels"].clone();
    let names = told.as_array().expect("channels").iter();
    let names: Vec<_> = names.map(|it| it["channel"].clone()).collect();
    assert_eq!(names, [ROOM, SIDE]);
    let members = system.api(0).members("left").await.expect("members");
    assert_eq!(members, []);
}

/// Where joins are not announced, no event tells a new reader where it is. Its id does so all the same.
#[tokio::test]
async fn a_reader_that_was_told_nothing_yet_comes_back_where_it_began() {
    let _permit = Permit::shared().await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let rule = "[[channel]]\nmatch = 'quiet'\nannounce = false\n";
    std::fs::write(&config, rule).expect("written");
    let config = config.display().to_string();
    let system = Standalone::with(&["--config", &config]).await;
    let at = system.address();
    let speaker = ws::Client::connect(at).await;
    let login = json!({"userId": "speaker", "lessonId": "quiet"});
    let reply = speaker.request("connector.handler.login", login).await;
    assert_eq!(reply["code"], 0, "{reply}");
    let stream = Stream::of(at, "reader", &[]).await;
    let join = json!({"route": "chat.handler.join", "body": {"channel": "quiet"}});
    post(at, &stream.session(), &join).await;
    wait::eventually("the id names the channel", SOON, async || {
        stream.last_id() != stream.events()[0].id
    })
    .await;
    assert_eq!(stream.events().len(), 1);
    let id = stream.last_id();
    drop(stream);
    let said = json!({"content": "0"});
    let reply = speaker.request("chat.handler.send", said).await;
    assert_eq!(reply["code"], 0, "{reply}");
    let stream = back(at, "reader", &[], &id).await;
    until_contents(&stream, &numbers(0..1)).await;
}

/// Clients that cannot send a header put the id into the URL.
#[tokio::test]
async fn the_id_may_stand_in_the_url() {
    let system = System::start().await;
    let speaker = system.member(1, "speaker", ROOM).await;
    let stream = Stream::of(address(&system, 0), "reader", &[ROOM]).await;
    let id = stream.last_id();
    drop(stream);
    say(&speaker, 0..2).await;
    let since = format!("{}&since={id}", query("reader", &[ROOM]));
    let stream = Stream::open(address(&system, 1), Ask::of(since)).await;
    until_contents(&stream, &numbers(0..2)).await;
}

/// A client that learns that something is lost can reload.
#[tokio::test]
async fn a_position_of_another_system_is_told_as_unknown() {
    let system = Plan::of(1, 1).start().await;
    let id = "s8Qp1v0Zc2mXyT7aBd3fGhA~cm9vbQ~7f3a~17";
    let stream = back(address(&system, 0), "reader", &[ROOM], id).await;
    assert_eq!(
        stream.events()[0].data["body"]["channels"][0]["recovered"],
        false
    );
    let event = stream.until("onPosition").await;
    assert_eq!(event.data["body"]["reason"], "unknown");
    assert_ne!(event.id, id);
}

/// A browser that should come back is told when. One that should not is told so, and if it comes all the same, it is stopped.
#[tokio::test]
async fn a_final_end_stops_the_browser_and_a_drain_does_not() {
    let mut system = Plan::of(2, 1).login_policy("kick-old").start().await;
    let stream = Stream::of(address(&system, 0), "reader", &[ROOM]).await;
    let _newer = Stream::of(address(&system, 1), "reader", &[ROOM]).await;
    let kick = stream.until("onKick").await;
    assert_eq!(kick.data["body"]["reason"], "kick");
    assert_eq!(kick.data["body"]["reconnect"], false);
    stream.end(SOON).await;
    let again = Ask::of(query("reader", &[ROOM])).as_browser(&stream.last_id());
    let again = Stream::open(address(&system, 0), again).await;
    assert_eq!(again.status(), 204, "{}", again.head());
    // A person who wants it may go on from there.
    let since = format!("{}&since={}", query("reader", &[ROOM]), stream.last_id());
    let since = Stream::open(address(&system, 0), Ask::of(since)).await;
    let first = since.until("onSession").await;
    assert_eq!(first.data["body"]["channels"][0]["recovered"], true);

    let stream = Stream::of(address(&system, 0), "drained", &[ROOM]).await;
    let usual = stream.inbox().read().retry.expect("a pause");
    assert!((1_000..2_000).contains(&usual), "{usual}");
    system.connectors[0].terminate();
    let kick = stream.until("onKick").await;
    assert_eq!(kick.data["body"]["reason"], "shutdown");
    stream.end(SOON).await;
    let after = kick.data["body"]["reconnectAfterMs"].as_u64();
    let retry = stream.inbox().read().retry;
    assert_eq!(retry, after.map(|it| it + usual));
    let id = stream.last_id();
    let stream = back(address(&system, 1), "drained", &[ROOM], &id).await;
    assert_eq!(
        stream.events()[0].data["body"]["channels"][0]["recovered"],
        true
    );
    let ended = system.connectors[0].ended_within(Duration::from_secs(20));
    assert!(ended.await.success());
}
