//! What both libraries promise (docs/clients/javascript.md, docs/clients/python.md), one behaviour each.

use super::driver::{Driver, Library};
use crate::refusals::system::Locked;
use crate::refusals::tokens::{claims, now, shared, with};
use crate::tls_clients::encrypted;
use crate::tokens::{AccessFile, in_python, issued};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::pomelo::{SENT, joined, left};
use testkit::relay::Relay;
use testkit::system::{Plan, System};
use testkit::tls::Authority;
use testkit::{SOON, wait};

const ROOM: &str = "room";
/// Long enough for every fault here, and so no `onLeave` may be seen.
const GRACE: [&str; 2] = ["--grace", "1m"];

fn say(content: &str) -> Value {
    json!({"channel": ROOM, "body": {"content": content}})
}

fn at(relay: &Relay) -> Value {
    json!({"url": format!("ws://{}/ws", relay.address())})
}

/// All connectors of a system, the first one first.
fn at_each(system: &System) -> Value {
    let urls = system.connectors.iter();
    let urls: Vec<_> = urls.map(|it| format!("ws://{}", it.address())).collect();
    json!({ "url": urls })
}

/// A system whose first connector is reached through a relay.
async fn behind_a_relay() -> (System, Relay) {
    let system = Plan::of(2, 1).connector_flags(&GRACE).start().await;
    let relay = Relay::to(system.connectors[0].address()).await;
    (system, relay)
}

/// Waits until the library has stored a session that holds this.
async fn until_stored(folder: &TempDir, what: &str) {
    wait::eventually(&format!("the {what} is stored"), SOON, async || {
        let stored = std::fs::read_to_string(folder.path().join("session.json"));
        stored.is_ok_and(|it| it.contains(what))
    })
    .await;
}

pub(super) async fn it_joins_sends_and_is_given_each_message_once_in_order(library: Library) {
    let (_system, relay) = behind_a_relay().await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    driver.member("ben", ROOM, at(&relay)).await;
    driver
        .until("ann", "join", |it| it["userId"] == "ben")
        .await;
    for number in 0..20 {
        let sent = driver.done("ann", "send", say(&number.to_string())).await;
        assert!(sent["key"].is_string(), "{sent}");
    }
    let expected: Vec<String> = (0..20).map(|it| it.to_string()).collect();
    for client in ["ann", "ben"] {
        driver.until_heard(client, "19").await;
        assert_eq!(driver.heard(client), expected);
        let messages = driver.told(client, "message");
        let offsets: Vec<_> = messages.iter().map(|it| it["offset"].as_u64()).collect();
        assert!(offsets.is_sorted() && offsets.iter().all(Option::is_some));
        assert!(messages.iter().all(|it| it["userId"] == "ann"));
    }
    driver.done("ann", "leave", json!({"channel": ROOM})).await;
    driver
        .until("ben", "leave", |it| it["userId"] == "ann")
        .await;
    let refused = driver.ask("ann", "send", say("from outside")).await;
    assert_eq!(refused.expect_err("a refusal")["reason"], "NOT_JOINED");
}

pub(super) async fn what_is_sent_while_away_is_stored_once_and_in_order_when_it_is_back(
    library: Library,
) {
    let (system, relay) = behind_a_relay().await;
    let listener = system.member(1, "listener", ROOM).await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    relay.refuse();
    driver
        .until("ann", "state", |it| it["state"] == "away")
        .await;
    let sent: Vec<u64> = (0..5)
        .map(|it| driver.tell("ann", "send", say(&format!("away {it}"))))
        .collect();
    assert_eq!(listener.say("meanwhile").await, SENT);
    relay.admit();
    for id in sent {
        driver.answer(id, SOON).await.expect("it is stored");
    }
    driver.until_heard("ann", "away 4").await;
    let heard = driver.heard("ann");
    let expected = [
        "meanwhile",
        "away 0",
        "away 1",
        "away 2",
        "away 3",
        "away 4",
    ];
    assert_eq!(heard, expected);
    assert_eq!(driver.told("ann", "lost"), [] as [Value; 0]);
    // Nobody has seen ann leave.
    let pushes = listener.until_pushes(1).await;
    assert!(!pushes.contains(&left("ann")), "{pushes:?}");
}

/// In the middle of many messages the connection is cut again and again, also while answers are under way.
pub(super) async fn each_message_is_stored_once_however_often_the_connection_is_cut(
    library: Library,
) {
    let (system, relay) = behind_a_relay().await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    let to_other = json!({"url": format!("http://{}", system.connectors[1].address())});
    driver.member("ben", ROOM, to_other).await;
    let bulk = json!({"channel": ROOM, "count": 300, "text": "m"});
    let bulk = driver.tell("ann", "bulk", bulk);
    for cut in 1..=10 {
        driver.until_heard("ben", &format!("m {}", 25 * cut)).await;
        relay.cut();
    }
    let answer = driver.answer(bulk, 3 * SOON).await.expect("an answer");
    assert_eq!(answer["stored"], 300, "{answer}");
    let expected: Vec<String> = (0..300).map(|it| format!("m {it}")).collect();
    for client in ["ann", "ben"] {
        driver.until_heard(client, "m 299").await;
        assert_eq!(driver.heard(client), expected);
        assert_eq!(driver.told(client, "lost"), [] as [Value; 0]);
        assert_eq!(driver.told(client, "leave"), [] as [Value; 0]);
    }
    let times = driver.told("ann", "state").into_iter();
    let times = times.filter(|it| it["state"] == "online").count();
    assert!(times > 5, "it was online {times} times");
}

pub(super) async fn a_connection_that_died_in_silence_is_noticed(library: Library) {
    let (_system, relay) = behind_a_relay().await;
    let mut driver = Driver::start(library);
    let mut connect = at(&relay);
    connect["options"] = json!({"pingMs": 300, "silenceMs": 600});
    driver.member("ann", ROOM, connect).await;
    driver.member("ben", ROOM, at(&relay)).await;
    // Its own message vanishes, and nothing says so.
    relay.swallow();
    driver.done("ann", "send", say("into the void")).await;
    driver.until_heard("ann", "into the void").await;
    assert_eq!(driver.heard("ann"), ["into the void"]);
}

pub(super) async fn a_dead_connector_is_left_for_the_next_address(library: Library) {
    let mut system = Plan::of(2, 1).connector_flags(&GRACE).start().await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at_each(&system)).await;
    let listener = system.member(1, "listener", ROOM).await;
    system.connectors[0].kill();
    assert_eq!(listener.say("after the death").await, SENT);
    driver.until_heard("ann", "after the death").await;
    driver.done("ann", "send", say("I am here")).await;
    driver.until_heard("ann", "I am here").await;
    assert_eq!(driver.heard("ann"), ["after the death", "I am here"]);
    assert_eq!(driver.told("ann", "lost"), [] as [Value; 0]);
    let pushes = listener.until_pushes(1).await;
    assert!(!pushes.contains(&left("ann")), "{pushes:?}");
}

pub(super) async fn what_the_log_does_not_keep_any_more_is_told_as_lost(library: Library) {
    let plan = Plan::of(2, 1).connector_flags(&GRACE).chat_flags(&[
        "--log-entries",
        "10",
        "--log-keep",
        "1s",
    ]);
    let system = plan.start().await;
    let relay = Relay::to(system.connectors[0].address()).await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    let listener = system.member(1, "listener", ROOM).await;
    assert_eq!(listener.say("before").await, SENT);
    driver.until_heard("ann", "before").await;
    relay.refuse();
    driver
        .until("ann", "state", |it| it["state"] == "away")
        .await;
    // The log is trimmed by time, too.
    let mut said = 0;
    wait::eventually("the log is trimmed", SOON, async || {
        assert_eq!(listener.say(&format!("missed {said}")).await, SENT);
        said += 1;
        let kept = system.api(0).history(ROOM).await.map_or(0, |it| it.len());
        said > 30 && kept < said
    })
    .await;
    relay.admit();
    let lost = driver.until("ann", "lost", |_| true).await;
    assert_eq!(lost["reason"], "trimmed", "{lost}");
    assert_eq!(listener.say("after").await, SENT);
    driver.until_heard("ann", "after").await;
    // What comes after the gap comes in order and without another one.
    let heard = driver.heard("ann");
    let rest: Vec<_> = heard[1..heard.len() - 1]
        .iter()
        .map(|it| {
            let number = it.strip_prefix("missed ").expect("a missed one");
            number.parse::<usize>().expect("a number")
        })
        .collect();
    assert!(rest.windows(2).all(|it| it[1] == it[0] + 1), "{heard:?}");
    assert_eq!(rest.last(), Some(&(said - 1)));
}

pub(super) async fn a_refusal_that_is_final_is_told_and_not_repeated(library: Library) {
    let (system, relay) = behind_a_relay().await;
    let _ann = system.member(1, "ann", ROOM).await;
    let mut driver = Driver::start(library);
    let mut connect = at(&relay);
    connect["user"] = json!("ann");
    driver.done("tab", "connect", connect).await;
    let closed = driver
        .until("tab", "state", |it| it["state"] == "closed")
        .await;
    assert_eq!(closed["reason"], "USER_LOGGED_IN", "{closed}");
    let refused = driver.ask("tab", "join", json!({"channel": ROOM})).await;
    assert!(refused.is_err());

    driver
        .done(
            "ben",
            "connect",
            json!({"url": at(&relay)["url"], "user": "ben"}),
        )
        .await;
    let unknown = json!({"channel": "a\nb"});
    let refused = driver
        .ask("ben", "join", unknown)
        .await
        .expect_err("a refusal");
    assert_eq!(refused["reason"], "INVALID_PARAMETER", "{refused}");
    let request = json!({"route": "no.such.route", "body": {}});
    let refused = driver
        .ask("ben", "request", request)
        .await
        .expect_err("a refusal");
    assert_eq!(refused["reason"], "UNKNOWN_ROUTE", "{refused}");
}

pub(super) async fn a_message_that_is_too_large_fails_and_the_others_go_on(library: Library) {
    let (_system, relay) = behind_a_relay().await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    let large = driver.tell("ann", "send", say(&"x".repeat(200_000)));
    let small = driver.tell("ann", "send", say("small"));
    let refused = driver.answer(large, SOON).await.expect_err("a refusal");
    assert_eq!(refused["reason"], "TOO_BIG", "{refused}");
    driver.answer(small, SOON).await.expect("it is stored");
    driver.until_heard("ann", "small").await;
}

pub(super) async fn a_drained_connector_is_left_without_a_loss_or_a_leave(library: Library) {
    let system = Plan::of(2, 1).connector_flags(&GRACE).start().await;
    let listener = system.member(1, "listener", ROOM).await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at_each(&system)).await;
    let bulk = json!({"channel": ROOM, "count": 200, "text": "m"});
    let bulk = driver.tell("ann", "bulk", bulk);
    driver.until_heard("ann", "m 50").await;
    system.connectors[0].terminate();
    let answer = driver.answer(bulk, 2 * SOON).await.expect("an answer");
    assert_eq!(answer["stored"], 200, "{answer}");
    driver.until_heard("ann", "m 199").await;
    let expected: Vec<String> = (0..200).map(|it| format!("m {it}")).collect();
    assert_eq!(driver.heard("ann"), expected);
    assert_eq!(driver.told("ann", "lost"), [] as [Value; 0]);
    let pushes = listener.until_pushes(1).await;
    let joins = pushes.iter().filter(|it| **it == joined("ann")).count();
    assert!(!pushes.contains(&left("ann")) && joins == 1, "{pushes:?}");
}

pub(super) async fn it_lists_members_and_reads_the_history_page_by_page(library: Library) {
    let (_system, relay) = behind_a_relay().await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    driver.member("ben", ROOM, at(&relay)).await;
    let bulk = json!({"channel": ROOM, "count": 120, "text": "m"});
    driver.done("ann", "bulk", bulk).await;
    let members = driver
        .done("ben", "members", json!({"channel": ROOM}))
        .await;
    let mut users: Vec<_> = (members.as_array().expect("a list").iter())
        .map(|it| it["userId"].as_str().expect("a name"))
        .collect();
    users.sort_unstable();
    assert_eq!(users, ["ann", "ben"]);
    for newest_first in [true, false] {
        let asked = json!({"channel": ROOM, "newestFirst": newest_first, "pageSize": 50});
        let pages = driver.done("ben", "history", asked).await;
        let pages = pages.as_array().expect("a list").iter();
        let messages = pages.filter(|it| it["route"] == "onMessage");
        let mut contents: Vec<_> = messages
            .map(|it| it["body"]["content"].as_str().expect("a text").to_owned())
            .collect();
        if newest_first {
            contents.reverse();
        }
        let expected: Vec<String> = (0..120).map(|it| format!("m {it}")).collect();
        assert_eq!(contents, expected);
    }
}

pub(super) async fn who_types_is_told_to_those_who_are_there_and_to_nobody_later(library: Library) {
    let (_system, relay) = behind_a_relay().await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    driver.member("ben", ROOM, at(&relay)).await;
    driver.done("ann", "typing", json!({"channel": ROOM})).await;
    let typing = |value: bool| move |it: &Value| it["userId"] == "ann" && it["typing"] == value;
    driver.until("ben", "typing", typing(true)).await;
    driver.done("ann", "send", say("typed")).await;
    driver.until("ben", "typing", typing(false)).await;
    let body = json!({"channel": ROOM, "body": {"cursor": 7}});
    assert_eq!(driver.done("ann", "ephemeral", body.clone()).await, true);
    driver
        .until("ben", "ephemeral", |it| it["body"]["cursor"] == 7)
        .await;
    relay.refuse();
    driver
        .until("ann", "state", |it| it["state"] == "away")
        .await;
    assert_eq!(driver.done("ann", "ephemeral", body).await, false);
    relay.admit();
    driver.done("ann", "send", say("back")).await;
    driver.until_heard("ben", "back").await;
    assert_eq!(driver.told("ben", "ephemeral").len(), 1);
}

/// A program that is started again goes on where the one before has ended, with its secret and its positions.
pub(super) async fn with_a_storage_a_program_that_starts_again_goes_on_where_it_was(
    library: Library,
) {
    let (system, relay) = behind_a_relay().await;
    let listener = system.member(1, "listener", ROOM).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut connect = at(&relay);
    connect["storageFile"] = json!(folder.path().join("session.json"));
    let mut first = Driver::start(library);
    first.member("ann", ROOM, connect.clone()).await;
    assert_eq!(listener.say("one").await, SENT);
    first.until_heard("ann", "one").await;
    // What was given is noted within a second.
    until_stored(&folder, "epoch").await;
    first.process().kill();
    assert_eq!(listener.say("two").await, SENT);
    let mut second = Driver::start(library);
    second.member("ann", ROOM, connect).await;
    second.until_heard("ann", "two").await;
    let heard = second.heard("ann");
    // The last second may be given twice after a crash.
    assert!(heard == ["two"] || heard == ["one", "two"], "{heard:?}");
    assert_eq!(second.told("ann", "lost"), [] as [Value; 0]);
    let pushes = listener.until_pushes(1).await;
    assert!(!pushes.contains(&left("ann")), "{pushes:?}");
}

/// A program that joins, does something else, and only then begins its loop.
pub(super) async fn a_loop_that_begins_after_the_join_is_given_what_was_replayed(library: Library) {
    let (system, relay) = behind_a_relay().await;
    let listener = system.member(1, "listener", ROOM).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut connect = at(&relay);
    connect["storageFile"] = json!(folder.path().join("session.json"));
    connect["loops"] = json!(true);
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, connect.clone()).await;
    driver.done("ann", "close", json!({})).await;
    for content in ["one", "two", "three"] {
        assert_eq!(listener.say(content).await, SENT);
    }
    driver.member("ann", ROOM, connect).await;
    driver.done("ann", "send", say("here")).await;
    let until = json!({"channel": ROOM, "until": "here"});
    let given = driver.done("ann", "loop", until).await;
    assert_eq!(given, json!(["one", "two", "three", "here"]));
}

pub(super) async fn two_programs_with_one_storage_do_not_replace_each_other_for_ever(
    library: Library,
) {
    let (_system, relay) = behind_a_relay().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut connect = at(&relay);
    connect["storageFile"] = json!(folder.path().join("session.json"));
    let mut first = Driver::start(library);
    first.member("ann", ROOM, connect.clone()).await;
    until_stored(&folder, "secret").await;
    let mut second = Driver::start(library);
    second.member("ann", ROOM, connect).await;
    let closed = first
        .until("ann", "state", |it| it["state"] == "closed")
        .await;
    assert_eq!(closed["reason"], "replaced", "{closed}");
    second.done("ann", "send", say("the last one stays")).await;
}

/// Redis loses what it had. The client is told, and goes on.
pub(super) async fn lost_data_of_the_store_is_told_and_the_client_goes_on(library: Library) {
    let (system, relay) = behind_a_relay().await;
    let mut driver = Driver::start(library);
    driver.member("ann", ROOM, at(&relay)).await;
    driver.done("ann", "send", say("before")).await;
    driver.until_heard("ann", "before").await;
    system.redis.command(&["FLUSHALL"]).await;
    let lost = driver.until_within(3 * SOON, "ann", "lost", |_| true).await;
    assert!(lost["from"]["epoch"] != lost["to"]["epoch"], "{lost}");
    let sent = driver.tell("ann", "send", say("after"));
    driver.answer(sent, 3 * SOON).await.expect("it is stored");
    driver.until_heard("ann", "after").await;
    assert_eq!(driver.heard("ann"), ["before", "after"]);
}

pub(super) async fn a_token_is_refreshed_before_it_expires_and_asked_for_again_when_it_is_refused(
    library: Library,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let system = Locked::start(&[], &["--auth-leeway", "0s"]).await;
    let token = folder.path().join("token");
    let write = |text: &str| std::fs::write(&token, text).expect("written");
    let mut driver = Driver::start(library);
    let url = format!("ws://{}", system.clients());
    let connect = json!({"url": url, "tokenFile": token});

    write("no token at all");
    driver.done("bad", "connect", connect.clone()).await;
    let closed = driver.until("bad", "state", |it| it["state"] == "closed");
    let closed = closed.await;
    assert_eq!(closed["reason"], "TOKEN_INVALID", "{closed}");

    // It is made now, because it does not last for long.
    let end = now() + 12;
    write(&shared(&with(claims("ann"), &json!({"exp": end}))));
    driver.member("ann", ROOM, connect).await;
    write(&shared(&claims("ann")));
    let expired = async || now() > end;
    wait::eventually("the first token has expired", 2 * SOON, expired).await;
    driver.done("ann", "send", say("still here")).await;
    driver.until_heard("ann", "still here").await;
    let states = driver.told("ann", "state");
    let online = states.iter().filter(|it| it["state"] == "online").count();
    assert_eq!(online, 1, "{states:?}");
}

/// Such a token lets a session in at its login, before it can ask for what it has missed.
pub(super) async fn with_a_token_that_names_the_channel_nobody_sees_it_leave_and_it_misses_nothing(
    library: Library,
) {
    let claims = ["ann", "ben"].map(|user| json!({"sub": user, "channels": [ROOM]}));
    let made = issued(in_python(), "ES256", "k", 3_600, &claims);
    let folder = tempfile::tempdir().expect("a folder");
    let file = AccessFile::with_keys("'ES256'", &[&made.jwk]);
    let flags = [&["--auth-mode", "jwt"], &GRACE[..]].concat();
    let standalone = file.standalone(&flags).await;
    let relay = Relay::to(standalone.address()).await;
    let mut driver = Driver::start(library);
    let url = format!("ws://{}", standalone.address());
    for (client, url, token) in [
        ("ann", at(&relay)["url"].clone(), &made.tokens[0]),
        ("ben", json!(url), &made.tokens[1]),
    ] {
        let path = folder.path().join(client);
        std::fs::write(&path, token).expect("written");
        let connect = json!({"url": url, "tokenFile": path});
        driver.member(client, ROOM, connect).await;
    }
    for away in 0..5 {
        relay.refuse();
        let missed = [0, 1].map(|it| format!("{away}.{it}"));
        for content in &missed {
            driver.done("ben", "send", say(content)).await;
        }
        relay.admit();
        driver.until_heard("ann", &missed[1]).await;
    }
    let expected: Vec<String> = (0..10).map(|it| format!("{}.{}", it / 2, it % 2)).collect();
    assert_eq!(driver.heard("ann"), expected);
    assert_eq!(driver.told("ann", "lost"), [] as [Value; 0]);
    driver.done("ann", "send", say("end")).await;
    driver.until_heard("ben", "end").await;
    let seen = ["join", "leave"].map(|event| {
        let seen = driver.told("ben", event).into_iter();
        seen.filter(|it| it["userId"] == "ann").collect::<Vec<_>>()
    });
    assert!(seen.iter().all(Vec::is_empty), "{seen:?}");
}

pub(super) async fn over_tls_it_does_the_same(library: Library) {
    let authority = Authority::new();
    let (standalone, _identity) = encrypted(&authority, &[]).await;
    let relay = Relay::to(standalone.address()).await;
    let mut driver = Driver::trusting(library, Some(&authority.ca()));
    let url = format!("https://127.0.0.1:{}", relay.address().port());
    driver.member("ann", ROOM, json!({"url": url})).await;
    relay.cut();
    driver.done("ann", "send", say("over TLS")).await;
    driver.until_heard("ann", "over TLS").await;
    let mut stranger = Driver::start(library);
    stranger
        .done("ben", "connect", json!({"url": url, "user": "ben"}))
        .await;
    stranger
        .until("ben", "state", |it| it["state"] == "away")
        .await;
}
