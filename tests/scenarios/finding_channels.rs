//! Back ends find out which channels there are, and make logs shorter.

use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::send_request::Content;
use proto::chat::v1::{
    CountMembersRequest, GetChannelRequest, ListChannelsRequest, Position, SendRequest,
    SendStreamRequest, TrimHistoryRequest,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::chat_api::ChatApi;
use testkit::json::Client;
use testkit::pomelo::LOGIN;
use testkit::resp::Resp;
use testkit::settings::SettingsFile;
use testkit::system::{Plan, System};
use testkit::{SOON, wait};
use tonic::Code;

/// Publishes once in each of these channels.
async fn begin(api: &ChatApi, channels: Vec<String>) {
    let count = channels.len();
    let frames: Vec<_> = channels.chunks(500).map(frame).collect();
    let answers = api.client().send_stream(tokio_stream::iter(frames)).await;
    let mut answers = answers.expect("a stream").into_inner();
    let mut sent = 0;
    while let Some(frame) = answers.message().await.expect("the stream goes on") {
        for outcome in frame.outcomes {
            assert!(matches!(outcome.outcome, Some(Outcome::Sent(_))));
            sent += 1;
        }
    }
    assert_eq!(sent, count);
}

fn frame(channels: &[String]) -> SendStreamRequest {
    let message = |channel: &String| SendRequest {
        channel: channel.clone(),
        user: "founder".into(),
        content: Some(Content::BodyJson("{}".into())),
        ..SendRequest::default()
    };
    SendStreamRequest {
        messages: channels.iter().map(message).collect(),
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

/// Lists page by page, and calls `between` after each page. How often each channel came.
async fn list(
    apis: &[ChatApi],
    prefix: &str,
    size: u32,
    mut between: impl AsyncFnMut(usize),
) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut page_token = String::new();
    for page in 0.. {
        let request = ListChannelsRequest {
            prefix: prefix.to_owned(),
            page_size: size,
            page_token,
        };
        // Any chat can answer any page.
        let mut client = apis[page % apis.len()].client();
        let answer = client.list_channels(request).await.expect("a page");
        let answer = answer.into_inner();
        for channel in answer.channels {
            assert_eq!(channel.held, 1, "{channel:?}");
            *found.entry(channel.name).or_default() += 1;
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
        between(page).await;
    }
    found
}

#[tokio::test]
async fn twenty_thousand_channels_are_listed_once_while_others_begin_and_end() {
    const LASTING: usize = 20_000;
    const CHANGING: usize = 2_000;
    const PAGE: u32 = 200;
    let system = Plan::of(0, 2).start().await;
    let apis = [system.api(0), system.api(1)];
    begin(&apis[0], names("room:lasting", LASTING)).await;
    begin(&apis[1], names("room:ending", CHANGING)).await;
    begin(&apis[1], names("elsewhere", 100)).await;

    // With each page some channels begin, and some are gone as if they had expired.
    let each = CHANGING / 80;
    let mut ending = names("room:ending", CHANGING);
    let mut beginning = names("room:beginning", CHANGING);
    let mut redis = Resp::connect(system.redis.address()).await.expect("Redis");
    let found = list(&apis, "room:", PAGE, async |_| {
        let new = beginning.split_off(beginning.len().saturating_sub(each));
        let gone = ending.split_off(ending.len().saturating_sub(each));
        if !new.is_empty() {
            begin(&apis[0], new).await;
        }
        for name in gone {
            let keys = ["m", "l"].map(|suffix| format!("gc:{{{name}}}:{suffix}"));
            let deleted = redis.command(&["DEL", &keys[0], &keys[1]]).await;
            deleted.expect("Redis answers");
        }
    })
    .await;
    assert!(
        beginning.is_empty() && ending.is_empty(),
        "all was done meanwhile"
    );
    for name in names("room:lasting", LASTING) {
        assert_eq!(found.get(&name), Some(&1), "{name}");
    }
    let twice = found.iter().find(|(_, times)| **times > 1);
    assert_eq!(twice, None);
    assert!(found.keys().all(|name| name.starts_with("room:")));

    // When nothing changes, the list is exact.
    let found = list(&apis, "room:", 1_000, async |_| ()).await;
    let mut expected = names("room:lasting", LASTING);
    expected.extend(names("room:beginning", CHANGING));
    expected.sort();
    assert_eq!(found.into_keys().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_channel_is_described_and_its_members_are_counted() {
    let file = SettingsFile::new("[[channel]]\nmatch = 'game:*'\nentries = 50");
    let system = Plan::of(2, 1).chat_flags(&file.flags()).start().await;
    let api = system.api(0);
    let _one = system.member(0, "alice", "game:1").await;
    let _two = system.member(1, "bob", "game:1").await;
    api.join("game:1", "bot").await.expect("a member");
    let request = GetChannelRequest {
        channel: "game:1".into(),
    };
    let found = api.client().get_channel(request).await.expect("it exists");
    let found = found.into_inner().channel.expect("a channel");
    assert_eq!((found.users, found.sessions, found.held), (3, 3, 3));
    assert_eq!(found.position.map(|it| it.offset), Some(3));
    assert_eq!(found.log_rule, "game:*");
    assert!(found.oldest_publish_time.is_some() && found.newest_publish_time.is_some());
    let request = CountMembersRequest {
        channels: vec!["game:1".into(), "nowhere".into()],
    };
    let counts = api.client().count_members(request).await.expect("counted");
    let counts = counts.into_inner().counts.into_iter();
    let counts: Vec<_> = counts.map(|it| (it.users, it.sessions)).collect();
    assert_eq!(counts, [(3, 3), (0, 0)]);
    let request = GetChannelRequest {
        channel: "nowhere".into(),
    };
    let missing = api.client().get_channel(request).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

const ROOM: &str = "room";

/// A client that comes with a position, and the body of its login's answer.
async fn come(at: SocketAddr, user: &str, since: &Position) -> (Client, Value) {
    let client = Client::connect(at).await;
    let since = json!({ "epoch": since.epoch, "offset": since.offset });
    let body = json!({ "userId": user, "lessonId": ROOM, "since": since });
    let answer = client.request(LOGIN, body).await;
    assert_eq!(answer["code"], 0, "{answer}");
    (client, answer)
}

/// The offsets of the publications among these pushes.
fn offsets(pushes: &[Value]) -> Vec<u64> {
    let publications = pushes.iter().filter(|it| it["route"] != "onPosition");
    publications
        .filter_map(|it| it["offset"].as_u64())
        .collect()
}

async fn trim(system: &System, position: Position) -> Result<u64, tonic::Status> {
    let request = TrimHistoryRequest {
        channel: ROOM.into(),
        position: Some(position),
    };
    let answer = system.api(0).client().trim_history(request).await?;
    Ok(answer.into_inner().held)
}

#[tokio::test]
async fn a_log_is_trimmed_under_load_and_late_readers_are_told() {
    let system = Plan::of(2, 1).start().await;
    let watcher = Client::connect(system.connectors[0].address()).await;
    let body = json!({ "userId": "watcher", "lessonId": ROOM, "positions": true });
    assert_eq!(watcher.request(LOGIN, body).await["code"], 0);

    let stops = Arc::new(AtomicBool::new(false));
    let speaker = tokio::spawn({
        let (api, stops) = (system.api(0), Arc::clone(&stops));
        async move {
            let mut number = 0;
            while !stops.load(Ordering::Relaxed) {
                let key = format!("k{number}");
                api.send(ROOM, "speaker", "{}", &key).await.expect("sent");
                number += 1;
            }
            number
        }
    });
    let mut trimmed = 0;
    for round in 0..12 {
        let end = wait::some("more was said", SOON, async || {
            let request = GetChannelRequest {
                channel: ROOM.into(),
            };
            let found = system.api(0).client().get_channel(request).await.ok()?;
            let end = found.into_inner().channel?.position?;
            (end.offset > trimmed + 40).then_some(end)
        })
        .await;
        let at = |offset| Position {
            offset,
            ..end.clone()
        };
        trimmed = end.offset - 10;
        let held = trim(&system, at(trimmed)).await.expect("trimmed");
        assert!(held >= 10, "{held}");

        // The hub of this connector has given all of it, and remembers it. It must not give it again.
        let connector = system.connectors[round % 2].address();
        let (late, answer) = come(connector, "late", &at(trimmed - 3)).await;
        assert_eq!(answer["recovered"], false, "{answer}");
        let pushes = late.until_pushes(6).await;
        assert_eq!(pushes[0]["route"], "onPosition");
        assert_eq!(pushes[0]["body"]["reason"], "trimmed");
        assert_eq!(pushes[0]["body"]["offset"], trimmed);
        let (in_time, answer) = come(connector, "in-time", &at(trimmed)).await;
        assert_eq!(answer["recovered"], true, "{answer}");
        let expected: Vec<u64> = (trimmed + 1..trimmed + 6).collect();
        assert_eq!(offsets(&pushes)[..5], expected);
        assert_eq!(offsets(&in_time.until_pushes(5).await)[..5], expected);
        late.close().await;
        in_time.close().await;
    }
    stops.store(true, Ordering::Relaxed);
    let said = speaker.await.expect("the speaker ends");

    // A client that was there all the time has noticed nothing.
    let request = GetChannelRequest {
        channel: ROOM.into(),
    };
    let found = system.api(0).client().get_channel(request).await;
    let end = found.expect("it exists").into_inner().channel;
    let end = end.and_then(|it| it.position).expect("a position");
    wait::eventually("the watcher has everything", SOON, async || {
        offsets(&watcher.inbox().read().pushes).last() >= Some(&end.offset)
    })
    .await;
    let pushes = watcher.inbox().read().pushes.clone();
    assert!(pushes.iter().all(|it| it["route"] != "onPosition"));
    let got = offsets(&pushes);
    assert_eq!(got, (1..=*got.last().expect("some")).collect::<Vec<_>>());

    // A key is answered as before, although its message is gone.
    assert!(said > 10);
    let again = system.api(0).send(ROOM, "speaker", "{}", "k0").await;
    let again = again.expect("answered").position.expect("a position");
    assert!(again.offset < 10, "{again:?}");

    let elsewhere = Position {
        epoch: "another".into(),
        offset: 1,
    };
    let refused = trim(&system, elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
}
