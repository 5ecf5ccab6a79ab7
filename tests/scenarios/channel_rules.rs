//! The rules of channels: one text for connectors and chats, which is changed while they run, and by which they see whether they
//! have the same rules.

use proto::chat::v1::node_service_client::NodeServiceClient;
use proto::chat::v1::{GetChannelRequest, ListConnectorsRequest};
use serde_json::{Value, json};
use testkit::json::Client;
use testkit::pomelo::LOGIN;
use testkit::service::{Service, Standalone};
use testkit::settings::SettingsFile;
use testkit::system::{Plan, System};
use testkit::{SOON, http, wait};

const PUBLISH: &str = "chat.handler.publish";
const JOIN: &str = "chat.handler.join";

/// Every key of a rule, for connectors and for chats.
const RULES: &str = "
[[channel]]
match = 'score:*'
send = 'nobody'
recover = 'last'
entries = 50
keep = '1ms'
announce = false

[[channel]]
match = 'cursor:*'
ephemeral_only = true
recover = 'none'
life = '1h'
bytes = '1MiB'
";

async fn login(client: &Client, user: &str) {
    let answer = client.request(LOGIN, json!({ "userId": user })).await;
    assert_eq!(answer["code"], 0, "{answer}");
}

/// The pattern of the rule for the log of a channel, and how many publications the log holds.
async fn log_of(system: &System, chat: usize, channel: &str) -> (String, u64) {
    let request = GetChannelRequest {
        channel: channel.into(),
    };
    let found = system.api(chat).client().get_channel(request).await;
    let found = found.expect("it exists").into_inner().channel;
    let found = found.expect("a channel");
    (found.log_rule, found.held)
}

/// The pushes of a client, each as its route, its offset and its text.
fn seen(client: &Client) -> Vec<String> {
    let pushes = client.inbox().read().pushes.clone();
    let shown = |push: &Value| {
        let offset = push["offset"].as_u64().or(push["body"]["offset"].as_u64());
        let text = push["body"]["n"].as_u64().map(|n| format!(" {n}"));
        let reason = push["body"]["reason"].as_str().map(|it| format!(" {it}"));
        format!(
            "{} {}{}{}",
            push["route"].as_str().unwrap_or("-"),
            offset.unwrap_or_default(),
            text.unwrap_or_default(),
            reason.unwrap_or_default()
        )
    };
    pushes.iter().map(shown).collect()
}

#[tokio::test]
async fn one_text_of_rules_says_what_connectors_allow_and_what_chats_keep() {
    let file = SettingsFile::new(RULES);
    let plan = Plan::of(2, 2).chat_flags(&file.flags());
    let system = plan.connector_flags(&file.flags()).start().await;
    let client = Client::connect(system.connectors[0].address()).await;
    login(&client, "ann").await;
    for channel in ["score:1", "cursor:1", "room"] {
        let answer = client.request(JOIN, json!({ "channel": channel })).await;
        assert_eq!(answer["code"], 0, "{channel}: {answer}");
    }
    let publish = async |channel: &str, ephemeral: bool| {
        let body = json!({"channel": channel, "body": {"n": 0}, "ephemeral": ephemeral});
        client.request(PUBLISH, body).await
    };
    assert_eq!(publish("score:1", false).await["reason"], "NOT_ALLOWED");
    let refused = publish("cursor:1", false).await;
    assert_eq!(refused["reason"], "EPHEMERAL_ONLY", "{refused}");
    assert_eq!(
        (&refused["code"], &refused["retry"]),
        (&json!(403), &json!(false))
    );
    assert_eq!(publish("cursor:1", true).await["code"], 0);
    assert_eq!(publish("room", false).await["code"], 0);
    // A back end is not asked by rules whether it may send, but chat keeps no log where there is to be none.
    let api = system.api(1);
    for n in 0..300 {
        let sent = api
            .send("score:1", "bot", &format!(r#"{{"n":{n}}}"#), "")
            .await;
        sent.expect("sent");
    }
    let refused = api.send("cursor:1", "bot", "{}", "").await.unwrap_err();
    assert!(refused.message().contains("ephemeral_only"), "{refused:?}");
    let (rule, held) = log_of(&system, 0, "score:1").await;
    assert_eq!(rule, "score:*");
    assert!((50..=200).contains(&held), "{held}");
    assert_eq!(log_of(&system, 0, "room").await.0, "");
    // Joins are announced where the rule does not say otherwise.
    let joins = client.inbox().read().pushes.clone();
    let joins = joins.iter().filter(|push| push["route"] == "onJoin");
    let joins: Vec<_> = joins.map(|push| push["channel"].clone()).collect();
    assert_eq!(joins, ["cursor:1", "room"]);
}

#[tokio::test]
async fn those_who_come_back_get_what_the_rule_of_the_channel_says() {
    let file = SettingsFile::new(RULES);
    let plan = Plan::of(2, 2).chat_flags(&file.flags());
    let system = plan.connector_flags(&file.flags()).start().await;
    let api = system.api(0);
    let first = Client::connect(system.connectors[0].address()).await;
    login(&first, "ann").await;
    let joined = first
        .request(JOIN, json!({"channel": "score:1", "positions": true}))
        .await;
    assert_eq!(joined["position"]["offset"], 0, "{joined}");
    let since = &joined["position"];
    for n in 1..=5 {
        let sent = api
            .send("score:1", "bot", &format!(r#"{{"n":{n}}}"#), "")
            .await;
        sent.expect("sent");
    }
    first.until_pushes(5).await;
    let newest = json!({"epoch": since["epoch"], "offset": 5});
    drop(first);

    // On the other connector the hub has not seen the channel. The second time it has.
    for user in ["bob", "eve"] {
        let back = Client::connect(system.connectors[1].address()).await;
        login(&back, user).await;
        let reply = back
            .request(JOIN, json!({"channel": "score:1", "since": since}))
            .await;
        assert_eq!(reply["position"], newest, "{reply}");
        assert_eq!(
            (&reply["recovered"], &reply["recover"], &reply["replayed"]),
            (&json!(true), &json!("last"), &json!(1)),
            "{reply}"
        );
        back.until_pushes(2).await;
        assert_eq!(seen(&back), ["onPosition 4 skipped", "onMessage 5 5"]);
        // Who has the newest message gets nothing again, and everybody gets what comes next.
        let other = Client::connect(system.connectors[1].address()).await;
        login(&other, &format!("{user}-2")).await;
        let reply = other
            .request(JOIN, json!({"channel": "score:1", "since": newest}))
            .await;
        assert_eq!(
            (&reply["recovered"], &reply["replayed"]),
            (&json!(true), &json!(0))
        );
        assert_eq!(seen(&other), [""; 0]);
    }

    // Where nothing is given back, only the position is told.
    let cursor = Client::connect(system.connectors[0].address()).await;
    login(&cursor, "dan").await;
    let since = json!({"epoch": "other", "offset": 7});
    let reply = cursor
        .request(JOIN, json!({"channel": "cursor:1", "since": since}))
        .await;
    assert_eq!(
        (&reply["recovered"], &reply["recover"], &reply["replayed"]),
        (&json!(false), &json!("none"), &json!(1)),
        "{reply}"
    );
    assert_eq!(reply["position"]["offset"], 1);
    cursor.until_pushes(2).await;
    assert_eq!(seen(&cursor), ["onPosition 0 skipped", "onJoin 1"]);
}

/// The hashes of the rules: that of the chat that answers, and those of the connectors.
async fn hashes(system: &System, chat: usize) -> (String, Vec<String>) {
    let mut nodes = NodeServiceClient::new(system.api(chat).channel());
    let listed = nodes.list_connectors(ListConnectorsRequest {}).await;
    let listed = listed.expect("a list").into_inner();
    let connectors = listed.connectors.into_iter();
    let connectors = connectors.map(|it| it.rules_hash).collect();
    (listed.rules_hash, connectors)
}

/// How many chats have other rules than this connector, by its metrics.
async fn others(connector: &Service) -> u64 {
    connector.metric("connector_chats_with_other_rules").await
}

/// How often a connector has warned of other rules.
fn warned(connector: &Service) -> usize {
    let warnings = connector.warnings();
    let its = |line: &&String| line.contains("has other rules of channels");
    warnings.iter().filter(its).count()
}

#[tokio::test]
async fn processes_with_other_rules_are_found_and_stay_ready() {
    let (of_chats, of_connectors) = (SettingsFile::new(RULES), SettingsFile::new(RULES));
    let plan = Plan::of(2, 2).chat_flags(&of_chats.flags());
    let system = plan.connector_flags(&of_connectors.flags()).start().await;
    let (first, connectors) = hashes(&system, 0).await;
    assert_eq!(first.len(), 16);
    assert_eq!(connectors, [&*first, &*first]);
    for connector in &system.connectors {
        assert_eq!(others(connector).await, 0);
    }

    of_connectors.write(&format!("{RULES}\n[[channel]]\nmatch = 'more'\n"));
    for connector in &system.connectors {
        wait::eventually("both chats differ", SOON, async || {
            others(connector).await == 2
        })
        .await;
    }
    let (of_chat, connectors) = hashes(&system, 1).await;
    assert_eq!(of_chat, first);
    assert_eq!(connectors[0], connectors[1]);
    assert_ne!(connectors[0], first);
    let ready = http::get(system.connectors[0].admin(), "/readyz").await;
    assert_eq!(ready.expect("it answers").status, 200);
    // Chats are asked again and again, and the difference is told once for each of them.
    let probed = async || {
        let metrics = system.chats[0].metrics().await;
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| {
            let is_its = line.starts_with("chat_calls_total{") && line.contains("/Probe\"");
            is_its.then(|| line.rsplit(' ').next()?.parse::<u64>().ok())?
        });
        count.unwrap_or_else(|| panic!("no probes in {metrics}"))
    };
    let before = probed().await;
    wait::eventually("some more probes", SOON, async || {
        probed().await > before + 4
    })
    .await;
    assert_eq!(warned(&system.connectors[0]), 2);

    of_chats.write(&format!(
        "{RULES}\n[[channel]]\nmatch = \"more\"\njoin = 'users'\n"
    ));
    for connector in &system.connectors {
        wait::eventually("they have the same again", SOON, async || {
            others(connector).await == 0
        })
        .await;
    }
    let (of_chat, now) = hashes(&system, 0).await;
    assert_eq!(now, [&*of_chat, &*of_chat]);
    assert_eq!(connectors, now);
}

/// An existing log is bounded by other rules from the next publication on.
#[tokio::test]
async fn a_chat_takes_other_rules_from_its_file_while_it_runs() {
    let file = SettingsFile::new("[[channel]]\nmatch = 'room'\nannounce = true\n");
    let system = Plan::of(1, 2).chat_flags(&file.flags()).start().await;
    let api = system.api(0);
    let send = async || {
        let sent = api.send("room", "bot", "{}", "").await;
        sent.map(drop).map_err(|status| status.message().to_owned())
    };
    for _ in 0..500 {
        assert_eq!(send().await, Ok(()));
    }
    assert_eq!(log_of(&system, 0, "room").await, ("room".to_owned(), 500));
    file.write("[[channel]]\nmatch = 'r*m'\nentries = 20\nkeep = '1ms'\n");
    for chat in 0..2 {
        wait::eventually("the rule is another", SOON, async || {
            log_of(&system, chat, "room").await.0 == "r*m"
        })
        .await;
    }
    assert_eq!(log_of(&system, 0, "room").await.1, 500, "nothing was sent");
    // A log notes a time for every 512 KiB, and becomes shorter by these notes.
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(10 << 10));
    wait::eventually("the log is bounded", SOON, async || {
        api.send("room", "bot", &large, "").await.expect("sent");
        log_of(&system, 0, "room").await.1 < 200
    })
    .await;
    // A mistake changes nothing.
    file.write("[[channel]]\nmatch = 'room'\nentries = 0\n");
    wait::eventually("the mistake is logged", SOON, async || {
        let warnings = system.chats[0].warnings();
        let mut lines = warnings.iter();
        lines.any(|line| line.contains("entries = 0: expected 1 to 1000000"))
    })
    .await;
    assert_eq!(log_of(&system, 0, "room").await.0, "r*m");
    file.write("[[channel]]\nmatch = 'room'\nephemeral_only = true\n");
    wait::eventually("messages are refused", SOON, async || {
        send().await.is_err_and(|it| it.contains("ephemeral_only"))
    })
    .await;
}

#[tokio::test]
async fn standalone_has_one_table_for_both_of_its_services() {
    let file = SettingsFile::new(RULES);
    let standalone = Standalone::with(&file.flags()).await;
    let client = Client::connect(standalone.address()).await;
    login(&client, "ann").await;
    for channel in ["score:1", "cursor:1"] {
        let answer = client.request(JOIN, json!({ "channel": channel })).await;
        assert_eq!(answer["code"], 0, "{answer}");
    }
    let publish = async |channel: &str| {
        let body = json!({"channel": channel, "body": {}});
        client.request(PUBLISH, body).await["reason"].clone()
    };
    assert_eq!(publish("score:1").await, "NOT_ALLOWED");
    assert_eq!(publish("cursor:1").await, "EPHEMERAL_ONLY");
    // An empty file would be taken for a mistake.
    file.write("# no rules\n");
    wait::eventually("the rules are gone", SOON, async || {
        publish("score:1").await.is_null() && publish("cursor:1").await.is_null()
    })
    .await;
}
