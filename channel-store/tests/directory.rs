//! Channels are found, counted and trimmed. The first tests hold for every store. The others are about the directory of
//! channels in Redis, which is a hint: what if notes are lost, late or doubled?

use crate::conformance::conformance;
use crate::support::{
    Kind, PARTIAL, Subject, message, name, no_position, offsets, read, session, with_key,
};
use channel_store::{
    ChannelSummary, Continuity, DIRECTORY_PARTS, Epoch, HistoryRange, LogRule, Membership, Pattern,
    Position, Since, StoreError, StoreOptions,
};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::cluster::Cluster;
use testkit::redis::Redis;
use testkit::resp::{Resp, Value};

conformance! {
    a_summary_tells_the_end_of_the_log_who_is_there_and_what_is_held
    a_channel_that_was_never_begun_has_no_summary
    a_detached_member_whose_time_is_over_does_not_count
    summaries_come_in_the_order_of_the_channels
    channels_are_listed_by_prefix_each_exactly_once
    channels_that_begin_meanwhile_disturb_no_list
    a_foreign_token_of_a_list_is_refused
    the_rule_of_a_channel_is_named
    a_trimmed_log_goes_on_after_the_position
    a_log_that_is_trimmed_as_a_whole_keeps_its_end
    a_position_of_another_log_trims_nothing
    a_trimmed_log_holds_as_many_bytes_as_before
}

async fn summary(subject: &Subject, channel: &str) -> Option<ChannelSummary> {
    let summaries = subject.store.summaries(&[name(channel)]).await;
    summaries.unwrap().remove(0)
}

/// Everything in a list, page by page.
async fn list(subject: &Subject, prefix: &str, size: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = subject.store.channels(prefix, token.as_deref(), size).await;
        let page = page.unwrap();
        assert!(page.channels.len() <= size);
        found.extend(page.channels.into_iter().map(|(it, _)| it.to_string()));
        token = page.next;
        if token.is_none() {
            found.sort();
            return found;
        }
    }
}

/// Publishes once in each of these channels.
async fn begin(subject: &Subject, channels: &[String]) {
    for some in channels.chunks(200) {
        let publisher = subject.store.publisher().unwrap();
        let batch = some.iter().map(|it| message(it, "u", "{}")).collect();
        for outcome in publisher.publish(batch).await.unwrap() {
            outcome.unwrap();
        }
    }
}

async fn a_summary_tells_the_end_of_the_log_who_is_there_and_what_is_held(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.join("4", "u", session("t", 2)).await.unwrap();
    subject.join("4", "v", Membership::Detached).await.unwrap();
    let last = subject.publish(message("4", "u", "{}")).await.unwrap();
    let log = subject.log("4").await;
    let found = summary(&subject, "4").await.unwrap();
    assert_eq!(found.end, last.position);
    assert_eq!((found.users, found.sessions, found.held), (2, 3, 3));
    assert_eq!(found.oldest, Some(log[0].time));
    assert_eq!(found.newest, Some(log[2].time));
    for operation in [("u", session("s", 3)), ("u", session("t", 4))] {
        subject.leave("4", operation.0, operation.1).await;
    }
    let found = summary(&subject, "4").await.unwrap();
    assert_eq!((found.users, found.sessions, found.held), (1, 1, 4));
}

async fn a_channel_that_was_never_begun_has_no_summary(kind: Kind) {
    let options = StoreOptions {
        announce_members: false,
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    assert_eq!(summary(&subject, "4").await, None);
    let end = Position {
        epoch: Epoch::new("x"),
        offset: 1,
    };
    assert_eq!(subject.store.trim(&name("4"), &end).await, Ok(None));
    // Somebody follows it, and nothing more.
    let (feed, _ear) = subject.follow("4").await;
    feed.read(&name("4"), &Since::Head, 0).await.unwrap();
    assert_eq!(summary(&subject, "4").await, None);
    assert_eq!(list(&subject, "", 10).await, [""; 0]);
    // A member makes it exist, although nothing is published.
    subject.join("4", "u", session("s", 1)).await.unwrap();
    let found = summary(&subject, "4").await.unwrap();
    assert_eq!((found.end.offset, found.users, found.held), (0, 1, 0));
    assert_eq!((found.oldest, found.newest), (None, None));
    assert_eq!(list(&subject, "", 10).await, ["4"]);
}

async fn a_detached_member_whose_time_is_over_does_not_count(kind: Kind) {
    let options = StoreOptions {
        detached_life: Duration::from_millis(1),
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    subject
        .join("4", "bot", Membership::Detached)
        .await
        .unwrap();
    subject.join("4", "u", session("s", 1)).await.unwrap();
    let joined = std::time::Instant::now();
    while joined.elapsed() < Duration::from_millis(20) {
        tokio::task::yield_now().await;
    }
    let found = summary(&subject, "4").await.unwrap();
    assert_eq!((found.users, found.sessions), (1, 1));
}

async fn summaries_come_in_the_order_of_the_channels(kind: Kind) {
    let subject = Subject::new(kind).await;
    let channels: Vec<String> = (0..700).map(|n| format!("room {n}")).collect();
    for (n, channel) in channels.iter().enumerate().take(40) {
        for _ in 0..=n % 3 {
            subject.publish(message(channel, "u", "{}")).await.unwrap();
        }
    }
    let mut names: Vec<_> = channels.iter().map(|it| name(it)).collect();
    names.push(name("room 0"));
    let summaries = subject.store.summaries(&names).await.unwrap();
    let held = |it: Option<&ChannelSummary>| it.map(|it| it.held);
    for (n, summary) in summaries.iter().enumerate() {
        let expected = match n {
            0..40 => Some(n as u64 % 3 + 1),
            700 => Some(1),
            _ => None,
        };
        assert_eq!(held(summary.as_ref()), expected, "{n}");
    }
    assert_eq!(subject.store.summaries(&[]).await.unwrap(), []);
}

async fn channels_are_listed_by_prefix_each_exactly_once(kind: Kind) {
    let subject = Subject::new(kind).await;
    let odd = [
        "{x}", "}x{", "%7B", "room", "room:", "(room", "[room", "哈哈", "哈",
    ];
    let mut all: Vec<String> = odd.map(str::to_owned).into();
    all.extend((0..600).map(|n| format!("room:{n}")));
    begin(&subject, &all).await;
    all.sort();
    for size in [1_000, 97] {
        assert_eq!(list(&subject, "", size).await, all, "{size}");
    }
    for (prefix, size) in [
        ("room:", 100),
        ("room:5", 7),
        ("哈", 1),
        ("(", 1),
        ("roomy", 5),
    ] {
        let its: Vec<_> = all.iter().filter(|it| it.starts_with(prefix)).collect();
        assert_eq!(
            list(&subject, prefix, size)
                .await
                .iter()
                .collect::<Vec<_>>(),
            its
        );
    }
    let page = subject.store.channels("room:5", None, 1).await.unwrap();
    let (channel, listed) = &page.channels[0];
    assert_eq!(
        Some(listed),
        summary(&subject, channel.as_str()).await.as_ref()
    );
}

async fn channels_that_begin_meanwhile_disturb_no_list(kind: Kind) {
    let subject = Subject::new(kind).await;
    let old: Vec<String> = (0..300).map(|n| format!("old {n:03}")).collect();
    begin(&subject, &old).await;
    let (mut found, mut token, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let page = subject.store.channels("", token.as_deref(), 20).await;
        let page = page.unwrap();
        found.extend(page.channels.into_iter().map(|(it, _)| it.to_string()));
        token = page.next;
        if token.is_none() {
            break;
        }
        let new = ["a", "old 1", "old 2", "z"].map(|it| format!("{it}{pages}"));
        begin(&subject, &new).await;
        pages += 1;
    }
    let unique: BTreeSet<_> = found.iter().collect();
    assert_eq!(unique.len(), found.len(), "no channel comes twice");
    let old: BTreeSet<_> = old.iter().collect();
    assert!(unique.is_superset(&old));
    assert!(pages > 10);
}

async fn a_foreign_token_of_a_list_is_refused(kind: Kind) {
    let subject = Subject::new(kind).await;
    for token in [
        "",
        "64",
        "-1:a",
        "nonsense",
        ":",
        "99999999999999999999999:a",
    ] {
        let page = subject.store.channels("", Some(token), 10).await;
        assert_eq!(page, Err(StoreError::BadPageToken), "{token:?}");
    }
    // A token that somebody has made shows no names outside the prefix.
    begin(&subject, &["chess:1".to_owned(), "room:1".to_owned()]).await;
    let parts = (0..64).map(|part| format!("{part}:a"));
    for token in parts.chain(["after:a".to_owned()]) {
        let page = subject.store.channels("room:", Some(&token), 10).await;
        let found = page.map(|page| page.channels).unwrap_or_default();
        let mut names = found.iter().map(|(name, _)| name.as_str());
        assert!(names.all(|name| name.starts_with("room:")), "{token:?}");
    }
}

async fn the_rule_of_a_channel_is_named(kind: Kind) {
    let rule = |pattern: &str| LogRule {
        pattern: Pattern::new(pattern).unwrap(),
        ..LogRule::default()
    };
    let options = StoreOptions {
        log_rules: vec![rule("game:lobby"), rule("game:*")],
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let rule_of = |channel: &str| subject.store.log_rule(&name(channel));
    assert_eq!(rule_of("game:lobby").as_deref(), Some("game:lobby"));
    assert_eq!(rule_of("game:1").as_deref(), Some("game:*"));
    assert_eq!(rule_of("4"), None);
}

async fn a_trimmed_log_goes_on_after_the_position(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _ear) = subject.feed().await;
    for n in 1..=300 {
        let body = format!("{{\"n\":{n}}}");
        let message = with_key(message("4", "u", &body), &format!("k{n}"));
        subject.publish(message).await.unwrap();
    }
    let log = subject.log("4").await;
    let at = |offset: usize| log[offset - 1].position.clone();
    let trim = async |position| subject.store.trim(&name("4"), &position).await;
    assert_eq!(trim(at(120)).await, Ok(Some(180)));
    // Again, and for what is gone already: nothing happens.
    for position in [
        at(120),
        at(7),
        no_position(),
        Position { offset: 0, ..at(1) },
    ] {
        assert_eq!(trim(position).await, Ok(Some(180)));
    }
    assert_eq!(subject.log("4").await, log[120..]);
    for (position, continuity, next) in [
        (at(119), Continuity::Trimmed, at(120)),
        (no_position(), Continuity::Trimmed, at(120)),
        (at(120), Continuity::Contiguous, at(120)),
        (at(300), Continuity::Contiguous, at(300)),
    ] {
        let page = read(&*feed, "4", &position, 3).await;
        assert_eq!((page.continuity, &page.position), (continuity, &next));
        let from = usize::try_from(next.offset).unwrap();
        assert_eq!(page.entries, log[from..300.min(from + 3)]);
    }
    let up_to = HistoryRange::UpTo(at(120));
    let page = subject.store.history(&name("4"), &up_to, 10).await.unwrap();
    assert_eq!((page.continuity, page.more), (Continuity::Trimmed, false));
    let found = summary(&subject, "4").await.unwrap();
    assert_eq!((found.held, found.oldest), (180, Some(log[120].time)));

    // A key is remembered although its message is gone.
    let retried = with_key(message("4", "u", "{\"n\":7}"), "k7");
    let retried = subject.publish(retried).await.unwrap();
    assert!(retried.repeated);
    assert_eq!(retried.position, at(7));
    // A connector is told how much it must not give from its own memory.
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    assert_eq!((joined.position.offset, joined.trimmed), (301, 120));
    let again = subject.join("4", "u", session("s", 1)).await.unwrap();
    assert_eq!(again, joined);
    let elsewhere = subject.join("5", "u", session("s", 1)).await.unwrap();
    assert_eq!(elsewhere.trimmed, 0);
}

async fn a_log_that_is_trimmed_as_a_whole_keeps_its_end(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _ear) = subject.feed().await;
    let mut end = no_position();
    for _ in 0..5 {
        end = subject
            .publish(message("4", "u", "{}"))
            .await
            .unwrap()
            .position;
    }
    assert_eq!(subject.store.trim(&name("4"), &end).await, Ok(Some(0)));
    let found = summary(&subject, "4").await.unwrap();
    assert_eq!((found.end, found.held), (end.clone(), 0));
    assert_eq!((found.oldest, found.newest), (None, None));
    let page = read(&*feed, "4", &end, 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    let earlier = Position {
        offset: 4,
        ..end.clone()
    };
    let page = read(&*feed, "4", &earlier, 10).await;
    assert_eq!(page.continuity, Continuity::Trimmed);
    assert_eq!(list(&subject, "", 10).await, ["4"], "it still exists");

    let next = subject.publish(message("4", "u", "{}")).await.unwrap();
    assert_eq!(
        next.position,
        Position {
            offset: 6,
            ..end.clone()
        }
    );
    let page = read(&*feed, "4", &end, 10).await;
    assert_eq!(offsets(&page.entries), [6]);
}

async fn a_position_of_another_log_trims_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    for _ in 0..5 {
        subject.publish(message("4", "u", "{}")).await.unwrap();
    }
    let log = subject.log("4").await;
    let end = log[4].position.clone();
    for wrong in [
        Position {
            offset: 6,
            ..end.clone()
        },
        Position {
            epoch: Epoch::new("another"),
            offset: 3,
        },
        Position {
            offset: 3,
            ..no_position()
        },
    ] {
        let refused = subject.store.trim(&name("4"), &wrong).await;
        let mismatch = StoreError::PositionMismatch { end: end.clone() };
        assert_eq!(refused, Err(mismatch), "{wrong:?}");
    }
    assert_eq!(subject.log("4").await, log);
}

async fn a_trimmed_log_holds_as_many_bytes_as_before(kind: Kind) {
    let options = StoreOptions {
        log_bytes: 256 << 10,
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let say = async |count: usize| {
        for n in 0..count {
            let body = "x".repeat(2_000 + 37 * n % 1_000);
            subject.publish(message("4", "u", &body)).await.unwrap();
        }
    };
    let held = async || {
        let log = subject.log("4").await;
        let bytes = log.iter().map(|it| it.payload.as_bytes().len() + 40);
        let bytes = bytes.sum::<usize>();
        // The summary counts what lies between two marks as equally long.
        let told = summary(&subject, "4").await.unwrap().held_bytes;
        let off = told.abs_diff(bytes as u64);
        assert!(off <= 8 << 10, "{told} bytes are told, and {bytes} held");
        (log.len(), bytes)
    };
    for part in [0.3, 0.9, 1.0] {
        say(150).await;
        let (count, bytes) = held().await;
        assert!((200 << 10..=256 << 10).contains(&bytes), "{bytes} bytes");
        let log = subject.log("4").await;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a part of a small number"
        )]
        let upto = (count as f64 * part) as usize;
        let position = &log[upto - 1].position;
        let left = subject.store.trim(&name("4"), position).await;
        assert_eq!(left, Ok(Some((count - upto) as u64)));
        // Less than the bound: nothing of it may go, whatever the counters said before.
        let (after, _) = held().await;
        say(5).await;
        let (now, _) = held().await;
        assert!(part < 0.5 || now == after + 5, "{now}");
    }
}

#[tokio::test]
async fn a_log_that_begins_again_after_a_trim_expires_as_any_other() {
    let mut subject = Subject::new(Kind::Redis).await;
    let first = subject.publish(message("4", "u", "{}")).await.unwrap();
    subject
        .store
        .trim(&name("4"), &first.position)
        .await
        .unwrap();
    assert_eq!(subject.server().number("EXISTS gc:{4}:l"), 0);
    subject.publish(message("4", "u", "{}")).await.unwrap();
    let life = subject.server().number("TTL gc:{4}:l");
    assert!(life > 80_000, "{life}");
}

fn commands_with(server: &Redis, key: &str) -> Vec<String> {
    let log = server.say("SLOWLOG GET 1000");
    let entries = log.list().iter().rev().map(|entry| {
        let words = entry.list()[3].list().iter().filter_map(Value::text);
        words.collect::<Vec<_>>().join(" ")
    });
    entries.filter(|it| it.contains(key)).collect()
}

fn log_all_commands(server: &Redis) {
    server.say("CONFIG SET slowlog-max-len 10000");
    server.say("CONFIG SET slowlog-log-slower-than 0");
    server.say("SLOWLOG RESET");
}

/// The part where a channel is noted, as the only one that is.
fn parts(server: &Redis) -> Vec<String> {
    let keys = server.keys().into_iter();
    let parts = keys.filter(|it| it.ends_with(":directory:names"));
    parts.collect()
}

#[tokio::test]
async fn a_channel_is_noted_before_its_first_publication_and_once_in_a_minute() {
    let mut subject = Subject::new(Kind::Redis).await;
    log_all_commands(subject.server());
    for _ in 0..3 {
        subject.publish(message("4", "u", "{}")).await.unwrap();
    }
    subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.join("5", "u", session("s", 1)).await.unwrap();
    subject.publish(message("5", "u", "{}")).await.unwrap();
    for channel in ["4", "5"] {
        let noted: Vec<_> = commands_with(subject.server(), "EVALSHA")
            .into_iter()
            .filter(|it| {
                it.contains(&format!("{{{channel}}}:m")) || it.ends_with(&format!(" {channel}"))
            })
            .map(|it| it.contains("directory:names"))
            .collect();
        assert!(noted[0], "the note comes first");
        let notes = noted.iter().filter(|it| **it).count();
        assert_eq!(notes, 1, "{noted:?}");
        assert!(noted.len() > 2);
    }
}

#[tokio::test]
async fn a_new_name_is_published_once_on_the_topic_of_its_part() {
    let mut subject = Subject::new(Kind::Redis).await;
    subject.publish(message("4", "u", "{}")).await.unwrap();
    let part = parts(subject.server()).remove(0);
    let topic = part.replace(":names", ":new");
    let address = subject.server().address();
    let mut listener = Resp::connect(address).await.unwrap();
    listener.command(&["SUBSCRIBE", &topic]).await.unwrap();
    // Another chat notes it again, which is no news.
    let chat = async || Subject::at(&subject.url().unwrap(), StoreOptions::default()).await;
    let publish = async || {
        let publish = chat().await.publish(message("4", "u", "{}")).await;
        publish.unwrap();
    };
    publish().await;
    let pong = listener.command(&["PING"]).await.unwrap();
    assert_eq!(pong.list()[0].text().as_deref(), Some("pong"));
    // The note is lost, and the next one is news.
    testkit::resp::ask(address, &["ZREM", &part, "4"])
        .await
        .unwrap();
    publish().await;
    let news = listener.command(&["PING"]).await.unwrap();
    let words: Vec<_> = news.list().iter().filter_map(Value::text).collect();
    assert_eq!(words, ["message", topic.as_str(), "4"]);
}

#[tokio::test]
async fn a_note_that_was_lost_is_repaired_by_a_touch_or_by_a_new_life() {
    let mut subject = Subject::new(Kind::Redis).await;
    let (feed, _ear) = subject.follow("4").await;
    subject.publish(message("4", "u", "{}")).await.unwrap();
    subject.publish(message("5", "u", "{}")).await.unwrap();
    for part in parts(subject.server()) {
        let times = part.replace(":names", ":times");
        subject.server().say(&format!("DEL {part} {times}"));
    }
    assert_eq!(list(&subject, "", 10).await, [""; 0]);
    let touched = feed.touch(&[name("4"), name("nowhere")]).await.unwrap();
    assert!(touched[0].is_some() && touched[1].is_none());
    assert_eq!(list(&subject, "", 10).await, ["4"]);
    let noted: usize = parts(subject.server()).len();
    assert_eq!(noted, 1, "what does not exist is not noted");

    // Everything is lost. This chat still relies on its notes, but sees that the channels begin anew.
    subject.server().say("FLUSHALL");
    subject.publish(message("4", "u", "{}")).await.unwrap();
    subject.join("5", "u", session("s", 1)).await.unwrap();
    assert_eq!(list(&subject, "", 10).await, ["4", "5"]);
}

/// The note of a channel becomes as old as this, seconds.
fn age(server: &Redis, channel: &str, seconds: i64) {
    let now = server.say("TIME").list()[0].text().unwrap();
    let then = now.parse::<i64>().unwrap() - seconds;
    let holds = |part: &&String| server.say_words(&["ZSCORE", part, channel]) != Value::Nil;
    let parts = parts(server);
    let part = parts.iter().find(holds).expect("it is noted");
    let times = part.replace(":names", ":times");
    server.say_words(&["ZADD", &times, &then.to_string(), channel]);
}

/// How many names all parts hold.
fn names(server: &Redis) -> i64 {
    let parts = parts(server);
    parts
        .iter()
        .map(|it| server.number(&format!("ZCARD {it}")))
        .sum()
}

/// Removes a channel as its expiry does.
fn expire(server: &Redis, channel: &str) {
    for suffix in ["m", "l", "s", "u", "c", "i0", "i1"] {
        server.say_words(&["DEL", &format!("gc:{{{channel}}}:{suffix}")]);
    }
}

#[tokio::test]
async fn late_and_doubled_notes_harm_nothing_and_what_has_ended_goes_when_it_is_met() {
    let mut subject = Subject::new(Kind::Redis).await;
    let channels: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
    begin(&subject, &channels).await;
    // Noted again by another chat.
    let other = Subject::at(&subject.url().unwrap(), StoreOptions::default()).await;
    begin(&other, &channels).await;
    assert_eq!(list(&subject, "", 10).await.len(), 50);
    let server = subject.server();
    for channel in &channels[..20] {
        expire(server, channel);
    }
    // A note that was written not long ago may be followed by a publication.
    for channel in &channels[..10] {
        age(server, channel, 170);
    }
    for channel in &channels[10..20] {
        age(server, channel, 190);
    }
    // What exists stays, however old its note is.
    for channel in &channels[20..30] {
        age(server, channel, 1_000_000);
    }
    let mut left = channels[20..].to_vec();
    left.sort();
    for names_left in [40, 40] {
        assert_eq!(list(&subject, "", 7).await, left);
        assert_eq!(names(subject.server()), names_left);
    }
    // A life that begins again is found at once, whether its old note was there or not.
    let third = Subject::at(&subject.url().unwrap(), StoreOptions::default()).await;
    begin(&third, &channels[..20]).await;
    assert_eq!(list(&subject, "", 10).await.len(), 50);
}

#[tokio::test]
async fn a_deleted_channel_keeps_its_note_so_that_it_is_found_when_it_begins_anew() {
    let mut subject = Subject::new(Kind::Redis).await;
    for seconds in [500, 4_000] {
        begin(&subject, &["4".to_owned()]).await;
        let deleted = subject.store.delete(&name("4"), None).await;
        assert!(deleted.unwrap().is_some());
        age(subject.server(), "4", seconds);
        assert_eq!(list(&subject, "", 10).await, [""; 0]);
        for part in 0..DIRECTORY_PARTS {
            assert_eq!(subject.store.sweep_directory(part).await, Ok(0));
        }
        // This process has noted it a moment ago, so it does not do that again.
        begin(&subject, &["4".to_owned()]).await;
        assert_eq!(list(&subject, "", 10).await, ["4"]);
    }
}

#[tokio::test]
async fn an_entry_that_is_noted_again_after_it_was_read_is_not_taken_out() {
    let mut subject = Subject::new(Kind::Redis).await;
    begin(&subject, &["4".to_owned()]).await;
    let server = subject.server();
    let names = parts(server).remove(0);
    let times = names.replace(":names", ":times");
    age(server, "4", 500);
    let read = server.text(&format!("ZSCORE {times} 4"));
    age(server, "4", 400);
    let forget = include_str!("../src/redis/lua/forget.lua");
    let forget_as = |noted: &str| {
        let words = ["EVAL", forget, "2", &names, &times, "180", "4", noted];
        server.say_words(&words)
    };
    assert_eq!(forget_as(&read), Value::Integer(0), "it was noted since");
    assert_eq!(forget_as(""), Value::Integer(0));
    let now = server.text(&format!("ZSCORE {times} 4"));
    assert_eq!(forget_as(&now), Value::Integer(1));
}

#[tokio::test]
async fn a_sweep_takes_out_what_has_ended_and_leaves_the_rest_alone() {
    let mut subject = Subject::new(Kind::Redis).await;
    let channels: Vec<String> = (0..300).map(|n| format!("c{n}")).collect();
    begin(&subject, &channels).await;
    let server = subject.server();
    for channel in &channels[..200] {
        expire(server, channel);
    }
    for channel in &channels[100..] {
        age(server, channel, 4_000);
    }
    let sweep = async || {
        let mut ended = 0;
        for part in 0..DIRECTORY_PARTS {
            ended += subject.store.sweep_directory(part).await.unwrap();
        }
        ended
    };
    assert_eq!(sweep().await, 100, "those that have ended and are quiet");
    assert_eq!(sweep().await, 0);
    assert_eq!(names(subject.server()), 200);
    // What exists was noted again, so that sweeps get on to others.
    let server = subject.server();
    let now = server.say("TIME").list()[0].text().unwrap();
    let old = now.parse::<i64>().unwrap() - 60;
    for part in parts(server) {
        let times = part.replace(":names", ":times");
        assert_eq!(server.number(&format!("ZCOUNT {times} 0 {old}")), 0);
        assert!(server.number(&format!("TTL {part}")) > 24 * 3600);
        assert!(server.number(&format!("TTL {times}")) > 24 * 3600);
    }
}

#[tokio::test]
async fn while_a_part_of_the_directory_is_away_other_channels_go_on() {
    let mut cluster = Cluster::of_primaries(3, &PARTIAL).await;
    let subject = Subject::at(&cluster.url(), StoreOptions::default()).await;
    let channels: Vec<String> = (0..200)
        .map(|n| format!("c{n}"))
        .filter(|it| cluster.first_owner(it) != 2)
        .collect();
    cluster.nodes[2].kill();
    for channel in &channels {
        let published = subject.publish(message(channel, "u", "{}")).await;
        published.expect("a note that cannot be written refuses nothing");
    }
    let answer = subject.store.channels("", None, 1_000).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
    let all: Vec<_> = channels.iter().map(|it| name(it)).collect();
    let summaries = subject.store.summaries(&all).await.unwrap();
    assert!(summaries.iter().all(Option::is_some));
}
