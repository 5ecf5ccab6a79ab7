//! The console at the admin port, in a real Chromium (`tests/clients/console.test.js`), and who may not use it.

use crate::api_tokens::create;
use crate::browsers::chromium;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::redis::Redis;
use testkit::service::{Chat, Connector, Standalone};
use testkit::tls::{Authority, text};
use testkit::{SOON, http, wait};

/// Runs `console.test.js`. `tokens`: one that may do everything, and one that may only read; or both empty.
async fn use_console(name: &str, connectors: &[Connector], admin: SocketAddr, tokens: [&str; 2]) {
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("pictures")
        .join(name);
    fs::create_dir_all(&pictures).expect("a folder for pictures");
    let mut command = testkit::mocha("console.test.js", connectors);
    command
        .env("CHROMIUM", chromium())
        .env("CONSOLE", admin.to_string())
        .env("TOKEN", tokens[0])
        .env("READER", tokens[1])
        .env("OUTPUT", &pictures);
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(Duration::from_secs(240)).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains("12 passing"), "{output}");
}

/// Makes a call through the console with curl. Returns the status and the body.
fn call(admin: SocketAddr, headers: &[&str], method: &str, request: &Value) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-w", "\n%{http_code}", "--max-time", "10"]);
    curl.args(["-H", "content-type: application/json"]);
    curl.args(headers.iter().flat_map(|it| ["-H", *it]));
    curl.args(["-d", &request.to_string()]);
    curl.arg(format!("http://{admin}/console/call/chat.v1.{method}"));
    let printed = String::from_utf8(curl.output().expect("curl").stdout).expect("text");
    let (body, status) = printed.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}

#[tokio::test]
async fn an_operator_sees_and_does_everything_on_a_machine_without_tokens() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let connectors = [
        Connector::start("connector-1", &[&chat], &redis, &[]).await,
        Connector::start("connector-2", &[&chat], &redis, &[]).await,
    ];
    use_console("open", &connectors, chat.admin(), ["", ""]).await;
}

#[tokio::test]
async fn with_tokens_the_console_allows_what_the_token_allows() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (admin, first) = create("ops", "read,send,users,nodes,admin");
    let (reader, second) = create("reader", "read,nodes,users");
    let (connector, third) = create("connectors", "connector");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("it can be written");
        path.to_str().expect("a path of letters").to_owned()
    };
    let tokens = write("tokens", format!("{first}\n{second}\n{third}\n"));
    let own = write("own", connector);
    let chat = Chat::start(&redis, &["--api-tokens-file", &tokens]).await;
    let flags = ["--chat-token-file", &own];
    let connectors = [Connector::start("connector-1", &[&chat], &redis, &flags).await];
    use_console("tokens", &connectors, chat.admin(), [&admin, &reader]).await;

    // The audit log names the token and where it was shown.
    wait::eventually("the push is in the audit log", SOON, async || {
        let lines = chat.lines();
        let push = lines
            .iter()
            .find(|it| it.contains("ChatService/Send") && it.contains("ops"));
        push.is_some_and(|it| it.contains("127.0.0.1:"))
    })
    .await;
}

#[tokio::test]
async fn pages_of_strangers_cannot_call_through_the_console() {
    let standalone = Standalone::start().await;
    let admin = standalone.admin();
    let send = json!({ "channel": "4", "user": "bot", "body": { "content": "hi" } });
    let own = format!("origin: http://{admin}");
    for headers in [&[][..], &[own.as_str()]] {
        let (status, body) = call(admin, headers, "ChatService/Send", &send);
        assert_eq!(status, "200", "{body}");
    }
    for headers in [
        &["origin: http://evil.example"][..],
        &["host: evil.example"],
        &["origin: null"],
    ] {
        let (status, body) = call(admin, headers, "ChatService/Send", &send);
        assert_eq!(status, "403", "{headers:?}: {body}");
    }
    // Only the contract for back ends is there, and only by POST.
    let (status, _) = call(admin, &[], "ChatService/Nothing", &send);
    assert_eq!(status, "404");
    for path in [
        "/console/call/chat.v1.ChatService/Send",
        "/console/call/",
        "/console/../console.js",
        "/console/",
    ] {
        let answer = http::get(admin, path).await.expect("an answer");
        assert!(matches!(answer.status, 404 | 405), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn the_console_does_not_open_a_port_that_asks_for_certificates() {
    let authority = Authority::new();
    let (own, ca) = (authority.issue("own"), authority.ca());
    let flags = [&own.flags()[..], &["--grpc-client-ca", text(&ca)]].concat();
    let standalone = Standalone::with(&flags).await;
    let (status, body) = call(
        standalone.admin(),
        &[],
        "ChatService/ListChannels",
        &json!({}),
    );
    assert_eq!(status, "403", "{body}");
    assert!(body.contains("--api-tokens-file"), "{body}");
}

#[tokio::test]
async fn an_operator_may_turn_the_console_off() {
    let standalone = Standalone::with(&["--no-console"]).await;
    for path in ["/", "/console", "/console/console.js"] {
        let answer = http::get(standalone.admin(), path)
            .await
            .expect("an answer");
        assert_eq!(answer.status, 404, "{path}");
    }
    let (status, _) = call(
        standalone.admin(),
        &[],
        "ChatService/ListChannels",
        &json!({}),
    );
    assert_eq!(status, "404");
    assert_eq!(standalone.readyz().await, Some(200));
}
