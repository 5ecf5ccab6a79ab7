//! One session in several channels, and what members may ask for. Every protocol has the same handlers.

use serde_json::{Value, json};
use testkit::json::Client;
use testkit::pomelo::{self, LOGIN, SEND, SENT};
use testkit::system::{Plan, System};
use testkit::{SOON, wait};

const JOIN: &str = "chat.handler.join";
const LEAVE: &str = "chat.handler.leave";
const MEMBERS: &str = "chat.handler.members";
const HISTORY: &str = "chat.handler.history";
const PUBLISH: &str = "chat.handler.publish";

const NOT_JOINED: &str = "NOT_JOINED";

async fn member(system: &System, connector: usize, user: &str) -> Client {
    let client = Client::connect(system.connectors[connector].address()).await;
    let body = json!({ "userId": user, "lessonId": "home" });
    let reply = client.request(LOGIN, body).await;
    assert_eq!(reply["code"], 0, "{reply}");
    client
}

async fn join(client: &Client, channel: &str) {
    let reply = client.request(JOIN, json!({ "channel": channel })).await;
    assert_eq!(reply, json!({ "code": 0 }));
}

async fn publish(client: &Client, channel: &str, content: &str) {
    let body = json!({ "channel": channel, "body": { "content": content } });
    let reply = client.request(PUBLISH, body).await;
    assert_eq!(reply.to_string(), value(SENT).to_string());
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// The pushes of one channel that a client received: the route, and the content or the user.
fn told(client: &Client, channel: &str) -> Vec<(String, Value)> {
    let received = client.inbox().read();
    let pushes = received.pushes.iter();
    let pushes = pushes.filter(|push| push["channel"] == channel);
    pushes
        .map(|push| {
            let route = push["route"].as_str().unwrap_or("skipped").to_owned();
            let body = &push["body"];
            let about = body.get("content").or_else(|| body.get("userId"));
            (route, about.cloned().unwrap_or_default())
        })
        .collect()
}

async fn until_told(client: &Client, channel: &str, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|&(route, about)| (route.to_owned(), json!(about)))
        .collect();
    let what = format!("told of {channel}: {expected:?}");
    wait::eventually(&what, SOON, async || told(client, channel) == expected).await;
}

#[tokio::test]
async fn a_session_is_in_several_channels_until_it_leaves_them() {
    let system = System::start().await;
    let xialei = member(&system, 0, "xialei").await;
    let lilei = member(&system, 1, "lilei").await;
    join(&xialei, "side").await;
    join(&lilei, "side").await;
    publish(&lilei, "side", "aside").await;
    publish(&lilei, "home", "at home").await;
    until_told(
        &xialei,
        "side",
        &[
            ("onJoin", "xialei"),
            ("onJoin", "lilei"),
            ("onMessage", "aside"),
        ],
    )
    .await;
    let reply = lilei.request(LEAVE, json!({ "channel": "side" })).await;
    assert_eq!(reply, json!({ "code": 0 }));
    publish(&xialei, "side", "alone").await;
    for request in [
        (PUBLISH, json!({ "channel": "side", "body": {} })),
        (LEAVE, json!({ "channel": "side" })),
        (MEMBERS, json!({ "channel": "side" })),
        (HISTORY, json!({ "channel": "side" })),
    ] {
        let reply = lilei.request(request.0, request.1).await;
        assert_eq!(reply["reason"], NOT_JOINED, "{}", request.0);
    }
    // Both are still in the channel of the login.
    assert_eq!(lilei.request(SEND, json!({})).await, value(SENT));
    until_told(
        &xialei,
        "side",
        &[
            ("onJoin", "xialei"),
            ("onJoin", "lilei"),
            ("onMessage", "aside"),
            ("onLeave", "lilei"),
            ("onMessage", "alone"),
        ],
    )
    .await;
    until_told(
        &lilei,
        "side",
        &[("onJoin", "lilei"), ("onMessage", "aside")],
    )
    .await;
    // A client that disconnects leaves all its channels.
    xialei.close().await;
    system.until_members("side", &[]).await;
    system.until_members("home", &[("lilei", 1)]).await;
}

#[tokio::test]
async fn a_session_that_leaves_and_joins_again_at_once_is_a_member_each_time() {
    let system = System::start().await;
    let watcher = member(&system, 1, "watcher").await;
    join(&watcher, "side").await;
    let client = member(&system, 0, "u").await;
    let mut expected = vec![("onJoin", "watcher")];
    for round in 1..=5 {
        for (id, route) in [(1, JOIN), (2, PUBLISH), (3, LEAVE)] {
            let body = json!({ "channel": "side", "body": { "content": "here" } });
            let request = json!({ "id": 100 * round + id, "route": route, "body": body });
            client.text(&request.to_string()).await;
        }
        expected.extend([("onJoin", "u"), ("onMessage", "here"), ("onLeave", "u")]);
    }
    until_told(&watcher, "side", &expected).await;
    system.until_members("side", &[("watcher", 1)]).await;
}

/// Leaving the channel of the login is no logout. Afterwards a request that names no channel is refused.
#[tokio::test]
async fn the_channel_of_the_login_can_be_left_and_joined_again() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "u").await;
    let home = json!({ "channel": "home" });
    assert_eq!(
        client.request(LEAVE, home.clone()).await,
        json!({"code": 0})
    );
    let reply = client.request(SEND, json!({ "content": "?" })).await;
    assert_eq!(reply["reason"], NOT_JOINED);
    assert_eq!(client.request(JOIN, home).await, json!({"code": 0}));
    assert_eq!(client.request(SEND, json!({})).await, value(SENT));
}

#[tokio::test]
async fn a_wrong_request_is_refused_with_the_reason() {
    let system = Plan::of(1, 1).start().await;
    let stranger = Client::connect(system.connectors[0].address()).await;
    for route in [JOIN, LEAVE, MEMBERS, HISTORY, PUBLISH] {
        let reply = stranger
            .request(route, json!({ "channel": "side", "body": {} }))
            .await;
        assert_eq!(reply["reason"], "NOT_LOGGED_IN", "{route}");
    }
    let client = member(&system, 0, "u").await;
    let long = "x".repeat(257);
    const MISSING: &str = "MISSING_PARAMETER";
    const INVALID: &str = "INVALID_PARAMETER";
    for (route, body, reason) in [
        (JOIN, json!({}), MISSING),
        (JOIN, json!({ "channel": "" }), MISSING),
        (JOIN, json!({ "channel": {} }), INVALID),
        (JOIN, json!({ "channel": long }), INVALID),
        (JOIN, json!({ "channel": "a", "since": 1 }), INVALID),
        (JOIN, json!({ "channel": "home" }), "ALREADY_JOINED"),
        (LEAVE, json!({}), MISSING),
        (MEMBERS, json!({ "pageSize": 0 }), INVALID),
        (MEMBERS, json!({ "pageSize": 1001 }), INVALID),
        (MEMBERS, json!({ "pageToken": 1 }), INVALID),
        (HISTORY, json!({ "newestFirst": "yes" }), INVALID),
        (
            HISTORY,
            json!({ "newestFirst": true, "from": { "epoch": "e", "offset": 0 } }),
            INVALID,
        ),
        (
            HISTORY,
            json!({ "from": { "epoch": "", "offset": 1 } }),
            INVALID,
        ),
        (PUBLISH, json!({}), MISSING),
        (PUBLISH, json!({ "body": [] }), INVALID),
        (PUBLISH, json!({ "body": "text" }), INVALID),
        (PUBLISH, json!({ "body": {}, "key": 1 }), "INVALID_KEY"),
        (PUBLISH, json!({ "body": {}, "excludeSelf": 1 }), INVALID),
        (
            PUBLISH,
            json!({ "body": {}, "channel": "side" }),
            NOT_JOINED,
        ),
    ] {
        let reply = client.request(route, body.clone()).await;
        let told = json!([reply["code"], reply["reason"], reply["retry"]]);
        assert_eq!(told, json!([1, reason, false]), "{route} {body}");
    }
    // An error that only chat can find is final, too.
    let token = json!({ "pageToken": "no token" });
    let reply = client.request(MEMBERS, token).await;
    assert_eq!(reply["reason"], INVALID, "{reply}");
    assert_eq!(reply["retry"], false);
}

#[tokio::test]
async fn a_session_has_a_hundred_channels_at_most() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "u").await;
    for number in 2..=100 {
        join(&client, &number.to_string()).await;
    }
    let one_more = json!({ "channel": 101 });
    let reply = client.request(JOIN, one_more.clone()).await;
    assert_eq!(reply["reason"], "TOO_MANY_CHANNELS", "{reply}");
    let reply = client.request(LEAVE, json!({ "channel": 7 })).await;
    assert_eq!(reply, json!({ "code": 0 }));
    assert_eq!(client.request(JOIN, one_more).await, json!({ "code": 0 }));
    client.close().await;
    for number in ["home", "2", "101"] {
        system.until_members(number, &[]).await;
    }
}

#[tokio::test]
async fn members_are_listed_in_pages() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "u").await;
    let api = system.api(0);
    let mut expected: Vec<_> = (0..700).map(|number| format!("bot-{number:03}")).collect();
    for bot in &expected {
        api.join("home", bot).await.expect("joined");
    }
    expected.push("u".to_owned());
    let (mut users, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let body = json!({ "pageSize": 100, "pageToken": token });
        let page = client.request(MEMBERS, body).await;
        assert_eq!(page["code"], 0, "{page}");
        for member in page["members"].as_array().expect("members") {
            assert_eq!(member["sessions"], 1);
            users.push(member["userId"].as_str().expect("a name").to_owned());
        }
        pages += 1;
        token = page["nextPageToken"].as_str().expect("text").to_owned();
        if token.is_empty() {
            break;
        }
    }
    users.sort();
    users.dedup();
    assert_eq!(users, expected);
    assert!(pages > 1, "{pages} page");
}

/// A page never has more bytes than a connection's outbound queue may hold, however large the messages are.
#[tokio::test]
async fn history_is_read_in_pages_in_both_directions() {
    let system = Plan::of(1, 1).start().await;
    let client = member(&system, 0, "u").await;
    let large = "x".repeat(50_000);
    for number in 0..10 {
        let body = json!({ "n": number, "content": large });
        assert_eq!(client.request(SEND, body).await, value(SENT));
    }
    for newest_first in [false, true] {
        let mut from = Value::Null;
        let mut read = Vec::new();
        let mut pages = 0;
        loop {
            let body = json!({ "newestFirst": newest_first, "from": from });
            let page = client.request(HISTORY, body).await;
            assert_eq!(page["code"], 0, "{page}");
            assert_eq!(page["continuity"], "contiguous");
            let publications = page["publications"].as_array().expect("publications");
            for publication in publications {
                from = json!({ "epoch": publication["epoch"], "offset": publication["offset"] });
                assert!(publication["time"].as_u64() > Some(1_600_000_000_000));
                read.push((
                    publication["offset"].as_u64().expect("a number"),
                    publication["route"].as_str().expect("a route").to_owned(),
                    publication["body"]["n"].clone(),
                ));
            }
            pages += 1;
            if page["more"] == false {
                break;
            }
        }
        let mut expected = vec![(1, "onJoin".to_owned(), Value::Null)];
        expected.extend((0..10).map(|n| (n + 2, "onMessage".to_owned(), json!(n))));
        if newest_first {
            expected.reverse();
        }
        assert_eq!(read, expected);
        assert!((4..=11).contains(&pages), "{pages} pages");
    }
    let unknown = json!({ "from": { "epoch": "another", "offset": 3 }, "pageSize": 1 });
    let page = client.request(HISTORY, unknown).await;
    assert_eq!(page["continuity"], "unknown");
    assert_eq!(page["publications"][0]["offset"], 1);
}

/// The message has its place in the order, so nobody sees a gap. All sockets of its sender, on every connector, get
/// only its position.
#[tokio::test]
async fn a_message_that_excludes_its_sender_only_moves_the_senders_position() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let first = member(&system, 0, "me").await;
    let second = member(&system, 1, "me").await;
    let other = member(&system, 0, "other").await;
    let original = system.member(1, "original", "home").await;
    // Several without a pause, so that they share a write.
    for number in 1..=20 {
        let body = json!({ "content": number.to_string() });
        let body = json!({ "body": body, "excludeSelf": number % 2 == 0 });
        let request = json!({ "id": 100 + number, "route": PUBLISH, "body": body });
        first.text(&request.to_string()).await;
    }
    let all = |skips: bool| {
        let sent = (1..=20).map(move |number| {
            if skips && number % 2 == 0 {
                ("skipped".to_owned(), Value::Null)
            } else {
                ("onMessage".to_owned(), json!(number.to_string()))
            }
        });
        sent.collect::<Vec<_>>()
    };
    for (client, skips) in [(&first, true), (&second, true), (&other, false)] {
        wait::eventually("all have arrived", SOON, async || {
            let told = told(client, "home");
            let sent = told.iter().skip_while(|(route, _)| route == "onJoin");
            sent.cloned().collect::<Vec<_>>() == all(skips)
        })
        .await;
        let offsets: Vec<_> = (client.inbox().read().pushes.iter())
            .filter_map(|push| push["offset"].as_u64())
            .collect();
        assert!(offsets.windows(2).all(|two| two[1] == two[0] + 1));
        assert_eq!(offsets.last(), Some(&23));
    }
    let pushes = original.until_pushes(21).await;
    assert_eq!(pushes[2], r#"onMessage {"content":"2","userId":"me"}"#);
    assert_eq!(
        first.inbox().read().pushes.last(),
        Some(&json!({ "channel": "home", "offset": 23 }))
    );

    // A client that comes back gets the same as if it had stayed. History has the message for everybody.
    let history = json!({ "newestFirst": true, "pageSize": 1 });
    let page = first.request(HISTORY, history).await;
    let newest = &page["publications"][0];
    assert_eq!(newest["body"]["content"], "20");
    let since = json!({ "epoch": newest["epoch"], "offset": 20 });
    let back = Client::connect(system.connectors[1].address()).await;
    let login = json!({ "userId": "me", "lessonId": "home", "since": since });
    let reply = back.request(LOGIN, login).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    assert_eq!(reply["replayed"], 3);
    back.until_pushes(3).await;
    let kinds: Vec<_> = told(&back, "home")
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, ["skipped", "onMessage", "skipped"]);
}

#[tokio::test]
async fn a_further_channel_is_resumed_like_the_channel_of_the_login() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let speaker = member(&system, 0, "speaker").await;
    join(&speaker, "side").await;
    let client = member(&system, 1, "u").await;
    let positions = json!({ "channel": "side", "positions": true });
    let reply = client.request(JOIN, positions).await;
    let epoch = reply["position"]["epoch"].clone();
    assert_eq!(reply["recovered"], false, "{reply}");
    publish(&speaker, "side", "1").await;
    until_told(&client, "side", &[("onJoin", "u"), ("onMessage", "1")]).await;
    client.close().await;
    until_told(
        &speaker,
        "side",
        &[
            ("onJoin", "speaker"),
            ("onJoin", "u"),
            ("onMessage", "1"),
            ("onLeave", "u"),
        ],
    )
    .await;
    publish(&speaker, "side", "2").await;
    publish(&speaker, "side", "3").await;

    let back = member(&system, 0, "u").await;
    let since = json!({ "channel": "side", "since": { "epoch": epoch, "offset": 3 } });
    let reply = back.request(JOIN, since).await;
    assert_eq!(reply["code"], 0, "{reply}");
    assert_eq!(reply["recovered"], true, "{reply}");
    assert_eq!(reply["replayed"], 4, "{reply}");
    until_told(
        &back,
        "side",
        &[
            ("onLeave", "u"),
            ("onMessage", "2"),
            ("onMessage", "3"),
            ("onJoin", "u"),
        ],
    )
    .await;
}

/// The same handlers in the original's protocol.
#[tokio::test]
async fn pomelo_clients_have_the_same_handlers() {
    let system = System::start().await;
    let client = system.member(0, "u", "home").await;
    let other = member(&system, 1, "other").await;
    join(&other, "side").await;
    let request =
        async |route: &str, body: Value| value(&client.request(route, &body.to_string()).await);
    let positions = json!({ "channel": "side", "positions": true });
    assert_eq!(request(JOIN, positions).await["code"], 0);
    let body = json!({ "channel": "side", "body": { "content": "hi" }, "excludeSelf": true });
    assert_eq!(request(PUBLISH, body).await, value(SENT));
    until_told(
        &other,
        "side",
        &[("onJoin", "other"), ("onJoin", "u"), ("onMessage", "hi")],
    )
    .await;
    client
        .until_push(r#"onPosition {"channel":"side","offset":3}"#)
        .await;
    let page = request(MEMBERS, json!({ "channel": "side" })).await;
    assert_eq!(page["members"].as_array().map(Vec::len), Some(2));
    let page = request(HISTORY, json!({ "channel": "side" })).await;
    assert_eq!(page["publications"].as_array().map(Vec::len), Some(3));
    let reply = request(LEAVE, json!({ "channel": "side" })).await;
    assert_eq!(reply, json!({ "code": 0 }));
    // The channel of the login still behaves as in the original.
    assert_eq!(client.say("x").await, SENT);
    client.until_push(&pomelo::heard("u", "x")).await;
}

/// After a crash each session leaves all its channels.
#[tokio::test]
async fn a_dead_connectors_sessions_leave_all_their_channels() {
    let plan = Plan::of(2, 1).connector_flags(&["--lease", "1s"]);
    let mut system = plan.start().await;
    let watcher = member(&system, 1, "watcher").await;
    join(&watcher, "side").await;
    let client = member(&system, 0, "u").await;
    join(&client, "side").await;
    system.connectors[0].kill();
    for channel in ["home", "side"] {
        let what = format!("u has left {channel}");
        wait::eventually(&what, SOON, async || {
            let told = told(&watcher, channel);
            told.last() == Some(&("onLeave".to_owned(), json!("u")))
        })
        .await;
        system.until_members(channel, &[("watcher", 1)]).await;
    }
}
