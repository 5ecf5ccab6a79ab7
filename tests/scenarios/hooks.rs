//! The operator's hook, in Python (`tests/clients/hooks`): it lets people in by their passwords, into their rooms, and changes what
//! they say. It dies, comes back and hangs, and nobody who is in is thrown out for that.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testkit::json::Client;
use testkit::pomelo::{self, LOGIN, SEND};
use testkit::process::Process;
use testkit::service::{Connector, Standalone};
use testkit::system::{Plan, System};
use testkit::{SOON, http, wait, workspace};
use tokio::task::JoinSet;

const JOIN: &str = "chat.handler.join";
/// Connectors look for the hook every few seconds.
const NOTICED: Duration = Duration::from_secs(30);

/// What the hook and the connectors read.
struct Files(TempDir);

impl Files {
    fn new(access: &Value, rules: &str) -> Self {
        let this = Self(TempDir::new().expect("a directory"));
        this.allow(access);
        std::fs::write(this.rules(), rules).expect("written");
        this
    }

    /// From now on the hook decides by this.
    fn allow(&self, access: &Value) {
        // At once, because the hook reads the file at any time.
        let new = self.0.path().join("new.json");
        std::fs::write(&new, access.to_string()).expect("written");
        std::fs::rename(new, self.access()).expect("renamed");
    }

    fn access(&self) -> PathBuf {
        self.0.path().join("access.json")
    }

    fn rules(&self) -> PathBuf {
        self.0.path().join("rules.toml")
    }

    /// Starts the hook at this address, and returns the address that it has.
    async fn hook(&self, address: &str) -> (Process, SocketAddr) {
        let folder = workspace().join("tests/clients");
        let mut command = Command::new(testkit::python());
        command.arg(folder.join("hooks/hook.py")).arg(address);
        let mut hook = Process::spawn("hook.py", command.arg(self.access()));
        let address = hook.until_line("its address", |line| {
            line.strip_prefix("listening at ")?.parse().ok()
        });
        let address = address.await;
        (hook, address)
    }

    async fn connector(&self, system: &System, id: &str, hook: SocketAddr) -> Connector {
        let (target, rules) = (format!("http://{hook}"), self.rules());
        let flags = [
            "--auth-mode",
            "hook",
            "--auth-hook-target",
            &target,
            "--config",
            rules.to_str().expect("a path"),
        ];
        let connector = Connector::start(id, &[&system.chats[0]], &system.redis, &flags).await;
        connector.ready().await;
        connector
    }
}

/// A client that has shown this password, and the answer to its login.
async fn login(address: SocketAddr, user: &str, password: &str, room: &str) -> (Client, Value) {
    let client = Client::connect(address).await;
    let mut body = json!({ "userId": user, "token": password });
    if !room.is_empty() {
        body["lessonId"] = room.into();
    }
    let reply = client.request(LOGIN, body).await;
    (client, reply)
}

/// How many calls of the hook with this name were answered.
async fn answered(connector: &Connector, call: &str) -> u32 {
    let series = format!("connector_hook_calls_total{{call=\"{call}\",outcome=\"answered\"");
    connector.metric(&series).await
}

/// The body of the first push with this route.
async fn pushed(client: &Client, route: &str) -> Value {
    let push = client.inbox().until(SOON, |received| {
        let mut pushes = received.pushes.iter();
        pushes.find(|push| push["route"] == route).cloned()
    });
    push.await.unwrap_or_else(|| panic!("no {route}"))["body"].clone()
}

#[tokio::test]
async fn a_hook_in_python_lets_people_in_by_password_into_their_rooms_and_changes_what_they_say() {
    let system = Plan::of(0, 1).start().await;
    let rooms: Vec<_> = (0..39).map(|it| format!("room{it}")).collect();
    let access = |ann: &[&str]| {
        json!({
            "passwords": {"ann": "blue", "bob": "red", "many": "all", "eve": "a b"},
            "rooms": {"ann": ann, "bob": ["garden"], "many": rooms},
            "seconds": 2,
            "words": {"darn": "****"},
            "forbidden": "buy now",
        })
    };
    let rules = "[[channel]]\nmatch = 'garden'\njoin = 'hook'\nsend = 'hook'\n\
                 [[channel]]\nmatch = '*'\njoin = 'hook'\n";
    let files = Files::new(&access(&["garden", "den"]), rules);
    let (_hook, address) = files.hook("127.0.0.1:0").await;
    let one = files.connector(&system, "one", address).await;
    let two = files.connector(&system, "two", address).await;

    let (ann, reply) = login(one.address(), "ann", "blue", "garden").await;
    assert_eq!(reply["code"], 0, "{reply}");
    // The hook's answer names the rooms of the user, which are joined at once.
    assert_eq!(pushed(&ann, "onAdded").await["channel"], "den");
    let bob = pomelo::Client::connect(two.address()).await;
    let body = json!({"userId": "bob", "token": "red", "lessonId": "garden"}).to_string();
    let reply = bob.request(LOGIN, &body).await;
    assert_eq!(reply, r#"{"code":0,"message":"登录成功"}"#);
    for (user, password, room, code, reason) in [
        ("ann", "red", "garden", 401, "TOKEN_INVALID"),
        ("nobody", "blue", "garden", 401, "TOKEN_INVALID"),
        ("bob", "red", "den", 403, "NOT_ALLOWED"),
    ] {
        let (_client, reply) = login(two.address(), user, password, room).await;
        let told = (&reply["code"], &reply["reason"]);
        assert_eq!(told, (&json!(code), &json!(reason)), "{reply}");
    }
    // A password may come with the upgrade, too.
    let eve = Client::connect_at(two.address(), "/ws?token=a%20b").await;
    let reply = eve.request(LOGIN, json!({"userId": "eve"})).await;
    assert_eq!(reply["code"], 0, "{reply}");
    let lines = two.lines().join("\n");
    assert!(lines.contains("wrong password"), "{lines}");
    assert!(
        !lines.contains("blue"),
        "nothing that a client has shown is logged"
    );

    let send = json!({"content": "darn it"});
    assert_eq!(ann.request(SEND, send).await["code"], 0);
    bob.until_push(r#"onMessage {"content":"**** it","userId":"ann"}"#)
        .await;
    let reply = ann.request(SEND, json!({"content": "buy now!"})).await;
    assert_eq!(reply["code"], 403, "{reply}");
    let reply = ann.request(JOIN, json!({"channel": "cellar"})).await;
    assert_eq!(reply["reason"], "NOT_ALLOWED", "{reply}");

    // The operator takes a room away. Decisions last two seconds here.
    files.allow(&access(&["garden"]));
    assert_eq!(pushed(&ann, "onRemoved").await["channel"], "den");
    let reply = ann.request(JOIN, json!({"channel": "den"})).await;
    assert_eq!(reply["reason"], "NOT_ALLOWED", "{reply}");
    assert_eq!(ann.request(SEND, json!({"content": "x"})).await["code"], 0);

    // Forty rooms are one question.
    let three = files.connector(&system, "three", address).await;
    let (many, reply) = login(three.address(), "many", "all", "room0").await;
    assert_eq!(reply["code"], 0, "{reply}");
    many.until_pushes(38).await;
    let calls = answered(&three, "channels").await;
    // On a slow machine, decisions about the first rooms may have been asked for again.
    assert!((1..=10).contains(&calls), "{calls} calls for forty rooms");
    assert_eq!(answered(&three, "login").await, 1);
}

/// Sends numbers until so many are acknowledged. What may be tried again is tried again. Returns how often that was so.
async fn speak(client: &Client, user: usize, count: u32) -> u32 {
    let mut refused = 0;
    for n in 0..count {
        loop {
            let body = json!({"user": user, "n": n, "content": "hello"});
            let reply = client.request(SEND, body).await;
            if reply["code"] == 0 {
                break;
            }
            assert_eq!(reply["reason"], "UNAVAILABLE", "{reply}");
            refused += 1;
            let pause = reply["retryAfterMs"].as_u64().expect("a pause");
            tokio::time::sleep(Duration::from_millis(pause / 10)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refused
}

#[tokio::test]
async fn a_hook_that_is_killed_under_load_costs_time_and_neither_members_nor_messages() {
    const SPEAKERS: usize = 10;
    const MESSAGES: u32 = 150;
    let system = Plan::of(0, 1).start().await;
    let mut passwords = serde_json::Map::new();
    let mut rooms = serde_json::Map::new();
    for user in 0..=SPEAKERS + 2 {
        passwords.insert(format!("u{user}"), "pw".into());
        rooms.insert(format!("u{user}"), json!(["hall"]));
    }
    let access = json!({"passwords": passwords, "rooms": rooms, "seconds": 1});
    let rules = "[[channel]]\nmatch = 'hall'\njoin = 'hook'\nsend = 'hook'\n";
    let files = Files::new(&access, rules);
    let (mut hook, address) = files.hook("127.0.0.1:0").await;
    let connectors = [
        files.connector(&system, "one", address).await,
        files.connector(&system, "two", address).await,
    ];
    let mut listeners = Vec::new();
    let mut speakers = JoinSet::new();
    // Those who listen come first, so that they hear everything.
    for user in (0..SPEAKERS + 2).rev() {
        let at = connectors[user % 2].address();
        let (client, reply) = login(at, &format!("u{user}"), "pw", "hall").await;
        assert_eq!(reply["code"], 0, "{reply}");
        if user < SPEAKERS {
            speakers.spawn(async move {
                let refused = speak(&client, user, MESSAGES).await;
                assert_eq!(client.ended(), None, "nobody was thrown out");
                refused
            });
        } else {
            listeners.push(client);
        }
    }
    let heard = |client: &Client, what: &Value| {
        let received = client.inbox().read();
        let mut pushes = received.pushes.iter();
        pushes.any(|push| push["body"]["n"] == *what)
    };
    wait::eventually("they speak", SOON, async || heard(&listeners[0], &json!(5))).await;

    hook.kill();
    for connector in &connectors {
        wait::eventually("it is not ready", NOTICED, async || {
            connector.readyz().await == Some(503)
        })
        .await;
        let ready = http::get(connector.admin(), "/readyz").await;
        let text = ready.expect("it answers").body;
        assert!(text.contains("hook: not ready: http://"), "{text}");
        // Nobody gets in, and may try again. The client is not told that its password is wrong.
        let last = format!("u{}", SPEAKERS + 2);
        let (_client, reply) = login(connector.address(), &last, "pw", "hall").await;
        assert_eq!(reply["reason"], "UNAVAILABLE", "{reply}");
        assert_eq!(reply["retry"], true, "{reply}");
    }
    // Those who are in stay in, although the decisions that let them in are old.
    let (_hook, _) = files.hook(&address.to_string()).await;
    for connector in &connectors {
        connector.ready().await;
    }
    let mut refused = 0;
    while let Some(speaker) = speakers.join_next().await {
        refused += speaker.expect("it has said everything");
    }
    assert!(refused > 0, "the hook was away while they spoke");
    for listener in &listeners {
        let count = SPEAKERS * MESSAGES as usize;
        let all = listener.inbox().until(NOTICED, |received| {
            let messages = received.pushes.iter();
            let messages: Vec<_> = messages
                .filter(|push| push["route"] == "onMessage")
                .map(|push| (push["body"]["user"].clone(), push["body"]["n"].clone()))
                .collect();
            (messages.len() >= count).then_some(messages)
        });
        let all = all.await.expect("all messages come");
        assert_eq!(all.len(), count, "each message comes once");
        for user in 0..SPEAKERS {
            let spoken = all.iter().filter(|(it, _)| *it == json!(user));
            let order: Vec<_> = spoken.map(|(_, n)| n.as_u64().expect("a number")).collect();
            assert!(order.is_sorted(), "u{user}: {order:?}");
        }
        let removed = {
            let received = listener.inbox().read();
            let mut pushes = received.pushes.iter();
            pushes.any(|it| it["route"] == "onRemoved")
        };
        assert!(!removed, "nobody has left a room");
        assert_eq!(listener.ended(), None);
    }
    let (_client, reply) = login(connectors[0].address(), "u99", "pw", "hall").await;
    assert_eq!(reply["code"], 401, "the hook decides again: {reply}");
}

#[tokio::test]
async fn while_a_hook_is_frozen_only_those_wait_who_need_it() {
    let _permit = testkit::permit::Permit::shared().await;
    let access = json!({"passwords": {}, "rooms": {"ann": ["den"]}, "seconds": 1});
    let rules = "[[channel]]\nmatch = 'den'\njoin = 'hook'\nhistory = 'hook'\n\
                 [[channel]]\nmatch = 'stage'\nsend = 'hook'\n";
    let files = Files::new(&access, rules);
    let (hook, address) = files.hook("127.0.0.1:0").await;
    let (target, rules) = (format!("http://{address}"), files.rules());
    let config = rules.to_str().expect("a path");
    let flags = ["--auth-hook-target", &*target, "--config", config];
    let standalone = Standalone::with(&flags).await;
    let address = standalone.address();
    let (ann, reply) = login(address, "ann", "", "den").await;
    assert_eq!(reply["code"], 0, "{reply}");
    let (bob, reply) = login(address, "bob", "", "stage").await;
    assert_eq!(reply["code"], 0, "{reply}");
    let ready = http::get(standalone.admin(), "/readyz").await;
    assert!(ready.expect("it answers").body.contains("hook: ok"));

    hook.freeze();
    let reply = bob.request(SEND, json!({"content": "x"})).await;
    assert_eq!(reply["reason"], "UNAVAILABLE", "{reply}");
    let (_late, reply) = login(address, "late", "", "den").await;
    assert_eq!(reply["reason"], "UNAVAILABLE", "{reply}");
    // The connector is ready: others can log in, speak, and leave.
    assert_eq!(standalone.readyz().await, Some(200));
    let carl = pomelo::Client::join(address, "carl", "street").await;
    assert_eq!(carl.say("hello").await, testkit::pomelo::SENT);
    assert_eq!(ann.request(SEND, json!({"content": "x"})).await["code"], 0);
    let read = ann.request("chat.handler.history", json!({})).await;
    assert_eq!(read["code"], 0, "what was allowed stays allowed: {read}");
    let (dora, reply) = login(address, "dora", "", "stage").await;
    assert_eq!(reply["code"], 0, "{reply}");
    drop(bob);
    wait::eventually("the leave comes", SOON, async || {
        let members = dora.request("chat.handler.members", json!({})).await;
        members["users"] == 1
    })
    .await;
    wait::eventually("it is told", NOTICED, async || {
        let ready = http::get(standalone.admin(), "/readyz").await;
        ready.is_some_and(|it| it.body.contains("hook: ok, but http://"))
    })
    .await;

    hook.thaw();
    let (erin, reply) = login(address, "erin", "", "stage").await;
    assert_eq!(reply["code"], 0, "{reply}");
    wait::eventually("it answers again", SOON, async || {
        erin.request(SEND, json!({"content": "x"})).await["code"] == 0
    })
    .await;
    assert_eq!(ann.ended(), None);
}
