//! Handlers of the operator's own, in Python and in Node (`tests/clients/handlers`): they answer clients of every protocol,
//! die and come back, and hang without harm for others.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::json::Client as JsonClient;
use testkit::pomelo::{DATA, LOGIN, SENT};
use testkit::process::Process;
use testkit::service::{Connector, Standalone};
use testkit::socket_io;
use testkit::system::{Plan, System};
use testkit::tls::{Authority, text};
use testkit::{SOON, pace, wait, workspace};

const MOVE: &str = "game.handler.move";

/// A handler of the samples.
#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    Node,
}

impl Language {
    /// Starts the handler at this address, and returns the address that it has.
    async fn start(self, address: &str) -> (Process, SocketAddr) {
        let folder = workspace().join("tests/clients");
        let (program, source) = match self {
            Self::Python => (testkit::python(), "handlers/handler.py"),
            Self::Node => ("node".into(), "handlers/handler.js"),
        };
        let mut command = Command::new(program);
        command.arg(folder.join(source)).arg(address);
        let mut handler = Process::spawn(source, &mut command);
        let address = handler.until_line("its address", |line| {
            line.strip_prefix("listening at ")?.parse().ok()
        });
        let address = address.await;
        (handler, address)
    }
}

/// A connector of the system that passes routes of the game to this address.
async fn connector(system: &System, address: SocketAddr, flags: &[&str]) -> Connector {
    let route = format!("game.*=http://{address}");
    let flags = [&["--route", &*route], flags].concat();
    Connector::start("games", &[&system.chats[0]], &system.redis, &flags).await
}

/// A client of `/ws` that is logged in.
async fn player(address: SocketAddr, user: &str) -> JsonClient {
    let client = JsonClient::connect(address).await;
    let login = json!({ "userId": user, "lessonId": "room" });
    assert_eq!(client.request(LOGIN, login).await["code"], 0);
    client
}

async fn moves(client: &JsonClient) -> Value {
    client.request(MOVE, json!({ "x": 1, "y": 2 })).await
}

async fn answers_clients_of_every_protocol(language: Language) {
    let system = Plan::of(0, 1).start().await;
    let (_handler, address) = language.start("127.0.0.1:0").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("routes.json");
    std::fs::write(&file, json!([MOVE]).to_string()).expect("written");
    let dictionary = format!("--dictionary={}", file.display());
    let connector = connector(&system, address, &[&dictionary]).await;
    let address = connector.address();
    let moved = |players: u32| json!({ "code": 0, "at": [1, 2], "players": players });

    let json = player(address, "json").await;
    assert_eq!(moves(&json).await, moved(1));
    let wrong = json.request(MOVE, json!({ "x": "1" })).await;
    assert_eq!(wrong["code"], 1, "{wrong}");
    let failed = json.request("game.handler.none", json!({})).await;
    assert_eq!(failed["reason"], "UNKNOWN_ROUTE", "{failed}");
    wait::eventually("the log tells what is wrong", SOON, async || {
        let is_told = |line: &String| line.contains("no such route: game.handler.none");
        connector.warnings().iter().any(is_told)
    })
    .await;

    let pomelo = testkit::pomelo::Client::join(address, "pomelo", "room").await;
    let body = r#"{"x":1,"y":2}"#;
    let reply: Value = serde_json::from_str(&pomelo.request(MOVE, body).await).expect("JSON");
    assert_eq!(reply, moved(2));
    // A request whose route is the third code of the dictionary: the first two are those of the original's handlers.
    let id = 100;
    let request = [&[1, id, 0, 3], body.as_bytes()].concat();
    pomelo.package(DATA, &request).await;
    let reply = pomelo.reply(id.into()).await.text();
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    assert_eq!(reply, moved(2));
    let failed = pomelo.request("game.handler.none", "{}").await;
    assert_eq!(failed, r#"{"code":500}"#);

    let socket = socket_io::connect(address, "/socket.io/?EIO=3&transport=websocket").await;
    let login = json!({ "userId": "socket", "lessonId": "elsewhere" });
    let asked = [(1, LOGIN, login), (2, MOVE, json!({ "x": 1, "y": 2 }))];
    for (id, route, body) in asked {
        socket_io::say(&socket, &socket_io::request(id, route, &body)).await;
    }
    let reply = socket.inbox().until(SOON, |record| {
        let messages = record.packets.iter().filter(|it| it.starts_with("42"));
        let mut messages = messages.map(|it| socket_io::message(it));
        messages.find(|it| it["id"] == 2)
    });
    assert_eq!(reply.await.expect("a reply")["body"], moved(3));

    let metrics = connector.metrics().await;
    for line in [
        r#"connector_handler_requests_total{outcome="answered"} 5"#,
        r#"connector_handler_requests_total{outcome="failed"} 2"#,
        "connector_handler_duration_seconds_count 7",
    ] {
        assert!(metrics.contains(line), "no {line} in:\n{metrics}");
    }
}

#[tokio::test]
async fn a_handler_in_python_answers_clients_of_every_protocol() {
    answers_clients_of_every_protocol(Language::Python).await;
}

#[tokio::test]
async fn a_handler_in_node_answers_clients_of_every_protocol() {
    answers_clients_of_every_protocol(Language::Node).await;
}

async fn is_killed_and_comes_back(language: Language) {
    let system = Plan::of(0, 1).start().await;
    let (mut handler, address) = language.start("127.0.0.1:0").await;
    let connector = connector(&system, address, &[]).await;
    let player = player(connector.address(), "player").await;
    assert_eq!(moves(&player).await["code"], 0);

    handler.kill();
    wait::eventually("the connector knows that it is gone", SOON, async || {
        let refused = moves(&player).await;
        assert!(
            refused["code"] == 500 && refused["retry"] == true,
            "{refused}"
        );
        refused["reason"] == "UNAVAILABLE"
    })
    .await;
    // Nobody else notices, and the connector stays ready.
    let send = json!({ "content": "still here" });
    assert_eq!(player.request("chat.handler.send", send).await["code"], 0);
    assert_eq!(connector.readyz().await, Some(200));

    let (_handler, _) = language.start(&address.to_string()).await;
    wait::eventually("it answers again", SOON, async || {
        moves(&player).await["code"] == 0
    })
    .await;
}

#[tokio::test]
async fn a_handler_in_python_that_is_killed_works_again_when_it_is_back() {
    is_killed_and_comes_back(Language::Python).await;
}

#[tokio::test]
async fn a_handler_in_node_that_is_killed_works_again_when_it_is_back() {
    is_killed_and_comes_back(Language::Node).await;
}

/// The middle one of the times that a number of sends took, one after the other.
async fn time_of_a_send(client: &testkit::pomelo::Client) -> Duration {
    let mut times = Vec::new();
    for _ in 0..101 {
        let sent = Instant::now();
        assert_eq!(client.say("hello").await, SENT);
        times.push(pace::since(sent));
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn while_a_handler_is_frozen_others_chat_on_as_before() {
    let system = Plan::of(0, 1).alone().start().await;
    let (handler, address) = Language::Python.start("127.0.0.1:0").await;
    let mut connector = connector(&system, address, &[]).await;
    let speaker = testkit::pomelo::Client::join(connector.address(), "speaker", "room").await;
    let mut players = Vec::new();
    for number in 0..20 {
        let player = player(connector.address(), &format!("player{number}")).await;
        assert_eq!(moves(&player).await["code"], 0);
        players.push(player);
    }
    let before = time_of_a_send(&speaker).await;

    handler.freeze();
    for player in &players {
        let request = json!({ "id": 1_000, "route": MOVE, "body": { "x": 1, "y": 2 } });
        player.text(&request.to_string()).await;
    }
    let meanwhile = time_of_a_send(&speaker).await;
    assert!(
        meanwhile <= before * 5,
        "a send took {before:?} before, and {meanwhile:?} while a handler hangs"
    );
    for player in &players {
        let reply = player.inbox().until(SOON, |received| {
            let reply = received.replies.iter().find(|it| it["id"] == 1_000)?;
            Some(reply["body"].clone())
        });
        let reply = reply.await.expect("each request is answered");
        assert_eq!(reply["reason"], "UNKNOWN_OUTCOME", "{reply}");
    }

    handler.thaw();
    wait::eventually("it answers again", SOON, async || {
        moves(&players[0]).await["code"] == 0
    })
    .await;
    // A call that hangs does not delay the end of the connector.
    handler.freeze();
    let request = json!({ "id": 2_000, "route": MOVE, "body": {} });
    players[0].text(&request.to_string()).await;
    connector.terminate();
    assert!(connector.ended_within(SOON).await.success());
}

#[tokio::test]
async fn a_handler_behind_tls_is_called_if_its_authority_is_named_and_otherwise_the_log_says_why_not()
 {
    let _permit = testkit::permit::Permit::shared().await;
    let (_handler, address) = Language::Node.start("127.0.0.1:0").await;
    let authority = Authority::new();
    let (address, _proxy) = authority.terminate(address).await;
    let route = format!("game.*=https://{address}");
    let ca = authority.ca();
    let trusting = Standalone::with(&["--route", &route, "--route-ca", text(&ca)]).await;
    let player_1 = player(trusting.address(), "player").await;
    assert_eq!(moves(&player_1).await["code"], 0);

    let public_ones = Standalone::with(&["--route", &route]).await;
    let player_2 = player(public_ones.address(), "player").await;
    let refused = moves(&player_2).await;
    assert_eq!(refused["reason"], "UNAVAILABLE", "{refused}");
    wait::eventually("the log says why", SOON, async || {
        let mut lines = public_ones.warnings().into_iter();
        lines.any(|line| line.contains("UnknownIssuer"))
    })
    .await;
}

#[tokio::test]
async fn a_standalone_passes_requests_to_handlers_too() {
    let _permit = testkit::permit::Permit::shared().await;
    let (_handler, address) = Language::Node.start("127.0.0.1:0").await;
    let route = format!("game.*=http://{address}");
    let standalone = Standalone::with(&["--route", &route]).await;
    let player = player(standalone.address(), "player").await;
    assert_eq!(moves(&player).await["code"], 0);
}
